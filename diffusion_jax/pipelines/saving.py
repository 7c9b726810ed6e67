"""A pipeline as a folder of diffusers: model_index.json and the parts that it names, all of it or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.convert import save_clip
from diffusion_jax.convert.files import staged, write_json
from diffusion_jax.convert.unet import save_unet
from diffusion_jax.convert.vae import save_vae
from diffusion_jax.nets import complete_unet, complete_vae
from diffusion_jax.pipelines.folder import INDEX, TEXT, TEXT_2
from diffusion_jax.pipelines.parts import Parts
from diffusion_jax.pipelines.scheduler import Scheduler
from diffusion_jax.pipelines.text_encoder import HF_SYMBOLS, TextEncoder
from diffusion_jax.typing import Params, UserError, one_of, path_of

__all__ = ["save_pipeline"]

DTYPES = ("float32", "float16")
VERSION = "0.42.0"
"""The diffusers in whose words it is told; its pipeline that fills in does not load without one."""


def save_pipeline(pipeline: Parts, folder: str | Path, dtype: str) -> Path:
    """`TextToImage.save`."""
    one_of("dtype", dtype, DTYPES)
    folder = path_of("folder", folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        what = "holds something" if folder.is_dir() else "is a file"
        raise UserError(f"{str(folder)!r} {what}: a pipeline is saved as a new folder")
    index = _index(pipeline)
    vae_config, vae_params = _of_one_scale(pipeline)
    with staged(folder, folder=True) as place:
        save_unet(
            place / "unet", pipeline.unet_config, _held(pipeline.params), complete_unet,
            dtype=dtype, linear=pipeline.linear, sample_size=pipeline.size,
        )  # fmt: skip
        save_vae(place / "vae", vae_config, vae_params, complete_vae, dtype=dtype)
        for (text, tokens), encoder in zip(_pairs(pipeline), pipeline.encoders, strict=True):
            save_clip(place / text, encoder.config, {"text": _held(encoder.params)}, "hf", dtype=dtype)
            _save_tokenizer(place / tokens, encoder)
        (place / "scheduler").mkdir()
        write_json(place / "scheduler" / "scheduler_config.json", _fields(pipeline.scheduler))
        write_json(place / INDEX, index)
    return folder


def _held(params: Params) -> Params:
    """On the host."""
    return jax.tree.map(np.asarray, params)


def _of_one_scale(pipeline: Parts) -> tuple[Mapping[str, Any], Params]:
    """(config, parameters) of an autoencoder whose latents diffusers' pipeline takes as this one does.

    Those of Stable Diffusion 1 and 2 read `scaling_factor` f alone, so that a mean and a deviation of each channel go into the
    two maps beside the latents: with x0 = (z - shift) scale, z' = x0 / f has the mean (m - shift) a and the logvar l + 2 log a,
    a = scale / f, and the decoder is given z' / a + shift. XL's reads them all. UserError for an autoencoder without the maps,
    and for one with a codebook, which no pipeline of Stable Diffusion reads.
    """
    vae = pipeline.vae
    config, params = vae.config, _held(vae.params)
    if config["kind"] != "kl":
        raise UserError(
            f"the autoencoder in {vae.path} has a codebook: diffusers' Stable Diffusion takes an AutoencoderKL"
        )
    if pipeline.kind == "sdxl" or (np.ndim(vae.scale) == 0 and float(vae.shift) == 0.0):
        return config, params
    if not (config["quant"] and config["post_quant"]):
        raise UserError(
            f"the autoencoder in {vae.path} has a mean of its latents and no quant_conv and post_quant_conv to take it up: "
            "diffusers' Stable Diffusion reads the scaling_factor alone"
        )
    shift = np.broadcast_to(np.asarray(vae.shift, np.float64), (vae.channels,))
    a = np.broadcast_to(np.asarray(vae.scale, np.float64) / config["scale"], (vae.channels,))
    into, out = params["quant"], params["post_quant"]
    both, moved = np.concatenate([a, np.ones_like(a)]), np.concatenate([-shift * a, 2.0 * np.log(np.abs(a))])
    params = {
        **params,
        "quant": {"kernel": _cast(into["kernel"] * both), "bias": _cast(into["bias"] * both + moved)},
        "post_quant": {
            "kernel": _cast(out["kernel"] / a[:, None]),
            "bias": _cast(out["bias"] + shift @ out["kernel"][0, 0]),
        },
    }
    return {**config, "shift": None, "mean": None, "std": None}, params


def _cast(numbers: np.ndarray) -> np.ndarray:
    return np.asarray(numbers, np.float32)


def _pairs(pipeline: Parts) -> list[tuple[str, str]]:
    """(folder of a text encoder, of its tokenizer) for each: the refiner's one is XL's second."""
    pairs = [TEXT, TEXT_2] if pipeline.kind == "sdxl" else [TEXT]
    return pairs[-len(pipeline.encoders) :]


def _index(pipeline: Parts) -> dict[str, Any]:
    """model_index.json: the class whose pipeline draws as this one does, and the class of each part."""
    xl, fills = pipeline.kind == "sdxl", pipeline.joins > 0
    consistent = pipeline.scheduler.name == "LCMScheduler" and pipeline.unet_config["hearing"].get("guidance")
    does = "Inpaint" if fills else "Img2Img" if xl and len(pipeline.encoders) < 2 else ""
    name = f"StableDiffusion{'XL' if xl else ''}{does}Pipeline"
    if consistent and not xl and not fills:
        name = "LatentConsistencyModelPipeline"
    told: dict[str, Any] = {
        "_class_name": name,
        "_diffusers_version": VERSION,
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    told |= {"vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", pipeline.scheduler.name]}
    if xl:
        told |= {part: [None, None] for part in (*TEXT, *TEXT_2)}
        told |= {"force_zeros_for_empty_prompt": pipeline.zeros}
        told |= {"requires_aesthetics_score": pipeline.aesthetics} if does else {}
    else:
        told |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    for (text, tokens), encoder in zip(_pairs(pipeline), pipeline.encoders, strict=True):
        projected = "WithProjection" if encoder.config["embed"] is not None else ""
        told |= {text: ["transformers", f"CLIPTextModel{projected}"], tokens: ["transformers", "CLIPTokenizer"]}
    return told


def _save_tokenizer(folder: Path, encoder: TextEncoder) -> None:
    """The vocabulary, and the token that fills a row."""
    words = encoder.tokenizer
    words.save(folder)
    pad = words.symbols[encoder.pad]
    symbols = {ours: theirs for theirs, ours in HF_SYMBOLS.items()}
    start, end = (symbols[words.symbols[token]] for token in (words.start, words.end))
    told = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": words.context_length, "do_lower_case": True,
        "bos_token": start, "eos_token": end, "unk_token": end, "pad_token": symbols.get(pad, pad),
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", told)


def _fields(scheduler: Scheduler) -> dict[str, Any]:
    """scheduler_config.json: each field that the class reads, as it is read here."""
    told = {name: list(value) if isinstance(value, tuple) else value for name, value in scheduler.fields.items()}
    return {"_class_name": scheduler.name, **{name: value for name, value in told.items() if value is not None}}
