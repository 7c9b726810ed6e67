"""`load_pipeline`: a folder of diffusers, or one file, as a pipeline that draws, all of it or one clear line."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.convert.fields import square
from diffusion_jax.convert.files import SAFETENSORS, TORCH, read_json
from diffusion_jax.nets import DIT_MODELS
from diffusion_jax.pipelines.class_to_image import ClassToImage, class_to_image
from diffusion_jax.pipelines.configs import read_configs
from diffusion_jax.pipelines.descriptions import Description
from diffusion_jax.pipelines.folder import Index, read_index
from diffusion_jax.pipelines.karlo_folder import load_karlo
from diffusion_jax.pipelines.scheduler import Scheduler, read_scheduler
from diffusion_jax.pipelines.single_file import load_single_file
from diffusion_jax.pipelines.text_encoder import load_text_encoder, load_words
from diffusion_jax.pipelines.text_to_image import TextToImage
from diffusion_jax.pipelines.unclip import UnCLIP
from diffusion_jax.systems.diffusion.pretrained import load_network
from diffusion_jax.systems.vae.pretrained import load_vae_network
from diffusion_jax.typing import UserError, one_of, path_of

__all__ = ["load_pipeline"]

CONFIG = "scheduler_config.json"
ENDINGS = (*SAFETENSORS, *TORCH)


def load_pipeline(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    model: str | Description | None = None,
    prediction: str | None = None,
    vae: str | Path | None = None,
    dtype: str = "auto",
    remat: str | None = None,
    param_dtype: str = "float32",
) -> TextToImage | ClassToImage | UnCLIP:
    """The Stable Diffusion, DiT or unCLIP in a folder of diffusers, or in one file in its authors' layout, to `generate`.

    `tokenizer`, `model` and `prediction` say what a single file of Stable Diffusion does not, see
    `single_file.load_single_file`; of a DiT's file `model` is a name of `nets.DIT_MODELS` and `vae` the folder of the
    autoencoder of its latents. A folder says it itself. `dtype` is what networks compute in: "auto" is bfloat16 on
    accelerators that have it, else float32; `remat` is the U-Net's or DiT's. Parameters are on the device, in float32; with
    `param_dtype` "bfloat16" those of the network and of the text encoders take half the memory, and a LoRA is merged before
    (`TextToImage.rounded`). Everything that tells what lies in a folder is looked at before any weights are read. Raises
    UserError for a folder that lacks a part, a class or a field that is not here, and for weights that do not fit.
    """
    folder = path_of("path", path)
    how: dict[str, Any] = {"dtype": dtype, "remat": remat, "param_dtype": param_dtype}
    if vae is not None or (isinstance(model, str) and model in DIT_MODELS):
        if vae is None or model is None:
            raise UserError(
                "model and vae are given together, for a DiT's file and the folder of its autoencoder: load_pipeline("
                "'DiT-XL-2-256x256.pt', model='dit-xl-2-256', vae='sd-vae-ft-mse')"
            )
        name = one_of("model", model, DIT_MODELS)
        return class_to_image(load_network(folder, model=name, **how), load_vae_network(vae, dtype=dtype))
    own = {"tokenizer": tokenizer, "model": model, "prediction": prediction}
    if folder.is_file() or (folder.suffix in ENDINGS and not folder.is_dir()):
        return load_single_file(folder, **own, **how)  # type: ignore[arg-type]
    for what, value in own.items():
        if value is not None:
            raise UserError(
                f"{what} {value!r} is for a single file, and {str(folder)!r} is none: a folder says it itself"
            )
    index = read_index(folder)
    if index.kind == "unclip":
        return load_karlo(index, how)
    scheduler = _scheduler_of(index)
    return (_class_to_image if index.kind == "dit" else _text_to_image)(index, scheduler, how)


def _class_to_image(index: Index, scheduler: Scheduler, how: dict[str, Any]) -> ClassToImage:
    read_configs(index)
    found = load_network(index.path / "transformer", **how)
    return dataclasses.replace(
        class_to_image(
            found, load_vae_network(index.path / "vae", dtype=how["dtype"]), scheduler, names=index.labels,
            guided_channels=None, where=repr(str(index.path)),
        ),
        path=index.path,
    )  # fmt: skip


def _text_to_image(index: Index, scheduler: Scheduler, how: dict[str, Any]) -> TextToImage:
    folder, configs = index.path, read_configs(index)
    words = [load_words(encoder, configs[encoder.name], tokenizer) for encoder, tokenizer in index.encoders]
    _check(index, configs)
    size = _size_of(index)
    encoders = tuple(
        load_text_encoder(encoder, tokenizer, how["dtype"], how["param_dtype"], words=own)
        for (encoder, tokenizer), own in zip(index.encoders, words, strict=True)
    )
    unet = load_network(folder / "unet", **how)
    vae = load_vae_network(folder / "vae", dtype=how["dtype"])
    return TextToImage(
        folder, index.kind, unet.network, unet.params, unet.config, vae, encoders, scheduler, size, zeros=index.zeros,
        aesthetics=index.aesthetics, linear=bool(unet.told.get("use_linear_projection", False)),
    )  # fmt: skip


def _size_of(index: Index) -> int:
    """Latents an edge of the usual picture: the U-Net's, but 64 of Stable Diffusion 1 and 2 where files of before diffusers
    0.9 say less, as its pipelines take them. UserError for what is no whole number, and for an oblong."""
    file = index.path / "unet" / "config.json"
    told = read_json(file)
    said = told.get("sample_size")
    if said is None:
        return 128 if index.kind == "sdxl" else 64
    size = square(f"{str(file)!r}: sample_size", said)
    version = re.match(r"(\d+)\.(\d+)", str(told.get("_diffusers_version")))
    old = version is not None and (int(version[1]), int(version[2])) < (0, 9)
    corrected = old and isinstance(said, int) and index.kind == "sd" and index.name.startswith("StableDiffusion")
    return max(size, 64) if corrected else size


def _scheduler_of(index: Index) -> Scheduler:
    """The folder's scheduler, as its pipeline's own code makes it: those of Stable Diffusion 1 and 2 overwrite fields that
    files of 2022 have otherwise, and latent consistency's hand their strength to it."""
    file = index.path / "scheduler" / CONFIG
    if not file.is_file():
        raise UserError(f"{str(index.path)!r} lacks scheduler/{CONFIG}: it says how the noise of the model was made")
    # The index says the class: a config may have been another's, whose fields it keeps.
    found = read_scheduler({**read_json(file), "_class_name": index.scheduler}, str(file))
    if index.name.startswith("LatentConsistencyModel"):
        return dataclasses.replace(found, shortens=found.name == "LCMScheduler")
    if not index.name.startswith("StableDiffusion") or index.kind != "sd":
        return found
    return found.in_stable_diffusion(fills="Inpaint" in index.name)


def _check(index: Index, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """UserError for parts that are whole each but do not fit together."""
    where, config, vae = f"{str(index.path)!r}", configs["unet"], configs["vae"]
    encoders = [configs[encoder.name] for encoder, _ in index.encoders]
    heard = config["hearing"]
    width = sum(encoder["text"]["width"] for encoder in encoders)
    if heard.get("tokens") not in (None, width):
        raise UserError(
            f"{where}: the text encoders give {width} features a token, and the U-Net attends to {heard['tokens']}: "
            "parts of two models"
        )
    latent = vae["latent_channels"] if vae["kind"] == "kl" else vae["dim"]
    if config["in_channels"] not in (latent, 2 * latent + 1):
        raise UserError(
            f"{where}: the U-Net takes {config['in_channels']} channels, and latents have {latent}: read are U-Nets of "
            f"{latent}, and of {2 * latent + 1} that fill in what a mask hides"
        )
    if index.kind == "sdxl" and not heard.get("ids"):
        raise UserError(
            f"{where}: the U-Net of an XL pipeline hears sizes (addition_embed_type text_time); this one does not"
        )
    pooled = encoders[-1]["embed"]
    if heard.get("pooled") not in (None, pooled):
        raise UserError(
            f"{where}: text_encoder_2 gives {pooled} pooled features, and the U-Net hears {heard['pooled']}"
        )
