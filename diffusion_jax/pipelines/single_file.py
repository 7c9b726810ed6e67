"""Stable Diffusion from one .safetensors file in the layout of its authors, as most of its models are passed around.

    pipeline = load_single_file("v1-5-pruned-emaonly.safetensors", tokenizer="tokenizer")

Such a file holds the weights of the U-Net ("model.diffusion_model."), of the autoencoder ("first_stage_model.") and of the
text encoders ("cond_stage_model." of 1 and 2, "conditioner.embedders." of XL), and nothing else: sizes, noise and words come
from a description (`descriptions.MODELS`) and from a vocabulary that must be given. The weights in training are read, not
their averages ("model_ema."), where a file has both; so does diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.build.networks import compute_dtype, kept
from diffusion_jax.convert.clip_keys import entries as clip_entries
from diffusion_jax.convert.entries import Entry, moved, read
from diffusion_jax.convert.files import TORCH, find, read_tensors
from diffusion_jax.convert.unet import LATENT, ends
from diffusion_jax.convert.unet_guided import guided_entries
from diffusion_jax.convert.vae import FIRST_STAGE, convolved
from diffusion_jax.convert.vae_keys import vae_entries
from diffusion_jax.data.text.bpe import BpeTokenizer
from diffusion_jax.nets import Network, UNet, complete_unet, complete_vae
from diffusion_jax.pipelines.descriptions import MODELS, Description, Tower
from diffusion_jax.pipelines.scheduler import Scheduler, read_scheduler
from diffusion_jax.pipelines.schedulers.fields import PREDICTIONS
from diffusion_jax.pipelines.text_encoder import text_encoder
from diffusion_jax.pipelines.text_to_image import TextToImage
from diffusion_jax.systems.vae.pretrained import autoencoder
from diffusion_jax.typing import UserError, one_of, path_of

__all__ = ["load_single_file", "single_file_entries"]

Tensors = Mapping[str, np.ndarray]
_CONTEXT = re.compile(re.escape(LATENT) + r".*\.attn2\.to_k\.weight")
_ENTRANCE = f"{LATENT}input_blocks.0.0.weight"
_V, _ZERO_SNR = "v_pred", "ztsnr"
"""Names without a weight, by which files of XL that predict v say so, and that their noise ends without a signal."""
_BUFFERS = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "lvlb_weights", "logvar",
    "scale_factor", "global_step", _V, _ZERO_SNR,
)  # fmt: skip
_IGNORED = re.compile(
    r"(model_ema|first_stage_model\.(loss|model_ema)|denoiser)\..+"
    r"|(cond_stage_model|conditioner)\..*(position_ids|attn_mask|logit_scale)"
)


def load_single_file(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    model: str | Description | None = None,
    prediction: str | None = None,
    dtype: str = "auto",
    remat: str | None = None,
    param_dtype: str = "float32",
) -> TextToImage:
    """The Stable Diffusion in one .safetensors file, ready to `generate`; weights of any precision as `param_dtype`.

    `tokenizer` is a folder or file with CLIP's vocabulary, as `BpeTokenizer.load` reads one; what fills a row is the model's
    own. `model` is a name of `descriptions.MODELS` or a description; left out, the widths of the text's features and of the
    input tell it: 768 is Stable Diffusion 1, 1024 2, 2048 XL, 1280 its refiner; 9 channels fill in what a mask hides.
    `prediction` is what the network gives, "eps" or "v": of 2.x it must be said, by itself or by the name of the model. The
    scheduler is the one that diffusers takes for the model: PNDM of 1 and of 2's base, DDIM of 2 that predicts v, Euler of XL.
    `dtype`, `remat` and `param_dtype` as of `load_pipeline`.

    Raises UserError, one line: for a file of another kind (pickles are not read: they may run anything), no vocabulary, a
    model that the shapes do not tell or that they contradict, a prediction that is not said, and all names that are missing,
    unknown or misshapen at once.
    """
    path = path_of("path", path)
    if path.suffix in TORCH:
        raise UserError(
            f"{str(path)!r} is a pickle, which may run anything when it is opened, and is not read: get the model's "
            ".safetensors file"
        )
    file = find(path, ())
    if file.suffix != ".safetensors":
        raise UserError(f"{str(path)!r} ends in {path.suffix!r}; a single file of a pipeline ends in .safetensors")
    if tokenizer is None:
        raise UserError(
            f"{str(path)!r} holds weights and no vocabulary: give tokenizer, a folder or file with CLIP's (vocab.json with "
            "merges.txt, tokenizer.json or bpe_simple_vocab_16e6.txt.gz)"
        )
    where, tensors = repr(str(file)), read_tensors(file)
    description, scheduler = _told(tensors, model, prediction, where)
    tensors = _prefixed(tensors, description)
    place = path_of("tokenizer", tokenizer)
    vocabularies = [BpeTokenizer.load(place, tower.text["context_length"]) for tower in description.towers]
    unet, vae = _configs(tensors, description, where)
    rules = single_file_entries(
        description, unet, vae, projections=ends(_part(tensors, LATENT)), square=_square(tensors)
    )
    found = read(rules, tensors, where, lambda name: _ignored(name, description))
    network = Network(lambda rngs: UNet(rngs, **unet, dtype=compute_dtype(dtype), remat=remat))
    encoders = tuple(
        text_encoder(file, _config(tower), found["text"][str(i)], words, _pad(tower, words), dtype, param_dtype)
        for i, (tower, words) in enumerate(zip(description.towers, vocabularies, strict=True))
    )
    return TextToImage(
        file, description.kind, network, kept(found["unet"], param_dtype), unet,
        autoencoder(file, vae, found["vae"], dtype=dtype), encoders, scheduler, description.size,
        zeros=description.zeros, aesthetics=description.aesthetics, linear=ends(_part(tensors, LATENT)) == "linear",
    )  # fmt: skip


def single_file_entries(
    description: Description, unet: Mapping[str, Any], vae: Mapping[str, Any], *, projections: str, square: bool
) -> list[Entry]:
    """All entries of a file: {"unet": .., "vae": .., "text": {"0": .., "1": ..}} here. `unet` and `vae` are complete configs.

    `projections` is how the ends of the U-Net's transformers lie, "conv" or "linear"; `square` whether the autoencoder's
    attention lies as 1x1 convolutions.
    """
    found = moved(guided_entries(unet, order="parts", projections=projections), "unet/", LATENT)
    found += moved(vae_entries(vae, layout="latent", convolved=square), "vae/", FIRST_STAGE)
    for i, tower in enumerate(description.towers):
        found += moved(clip_entries(_config(tower), tower.layout), f"text/{i}/", tower.prefix)
    return found


def _config(tower: Tower) -> dict[str, Any]:
    """As of `load_clip`."""
    return {"embed": tower.embed, "logit_bias": False, "text": dict(tower.text)}


def _part(tensors: Tensors, prefix: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in tensors.items() if name.startswith(prefix)}


def _square(tensors: Tensors) -> bool:
    return convolved(_part(tensors, FIRST_STAGE))


def _told(
    tensors: Tensors, model: str | Description | None, prediction: str | None, where: str
) -> tuple[Description, Scheduler]:
    """The description of a file's model and its scheduler. UserError where neither shapes nor the user tell it."""
    if prediction is not None:
        one_of("prediction", prediction, ("eps", "v"))
    widths = {int(value.shape[-1]) for name, value in tensors.items() if _CONTEXT.fullmatch(name)}
    if not widths or _ENTRANCE not in tensors:
        some = ", ".join(list(tensors)[:3]) or "none"
        raise UserError(
            f"{where} is no whole Stable Diffusion in its authors' layout: no U-Net below {LATENT!r} that hears a text (names "
            f"such as {some}); a part in diffusers' layout is read with its folder"
        )
    width = max(widths)
    fit = {name: known for name, known in MODELS.items() if known.unet["hearing"]["tokens"] == width}
    if isinstance(model, Description):
        fit = {"": model}
    elif model is not None:
        known = MODELS[one_of("model", model, MODELS)]
        if model not in fit:
            near = f"nearest: {next(iter(fit))!r}" if fit else f"known are {', '.join(MODELS)}"
            raise UserError(
                f"{where}: the U-Net hears {width} features a token, and that of model {model!r} "
                f"{known.unet['hearing']['tokens']}; {near}"
            )
        fit = {model: known}
    if not fit:
        all_widths = ", ".join(f"{known.unet['hearing']['tokens']} ({name})" for name, known in MODELS.items())
        raise UserError(
            f"{where}: the U-Net hears {width} features a token, which no model does that is read: {all_widths}"
        )
    said = prediction or ("v" if _V in tensors else None)
    if said is None and len(fit) > 1:
        raise UserError(
            f"{where} does not say whether its network predicts v ({next(iter(fit))}, pictures of 768) or eps (its base, of "
            "512): give prediction, 'v' or 'eps'"
        )
    makes = {name: PREDICTIONS[known.scheduler["prediction_type"]] for name, known in fit.items()}
    description = next((known for name, known in fit.items() if makes[name] == said), next(iter(fit.values())))
    fields = dict(description.scheduler)
    if said is not None:
        fields["prediction_type"] = next(theirs for theirs, ours in PREDICTIONS.items() if ours == said)
    if _ZERO_SNR in tensors:
        # Trained to the very end of the noise: only "trailing" grids begin there (arXiv 2305.08891, section 3.3).
        fields |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = read_scheduler(fields, where)
    return description, scheduler.in_stable_diffusion() if description.kind == "sd" else scheduler


def _configs(tensors: Tensors, description: Description, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Complete configs of the U-Net and the autoencoder, with what the file itself says of them."""
    vae = complete_vae(description.vae)
    if np.size(tensors.get("scale_factor", ())) == 1:
        vae["scale"] = float(np.reshape(tensors["scale_factor"], ()))
    latent, channels = vae["latent_channels"], int(tensors[_ENTRANCE].shape[1])
    if channels not in (latent, 2 * latent + 1):
        raise UserError(
            f"{where}: the U-Net takes {channels} channels, and latents have {latent}: read are U-Nets of {latent}, and of "
            f"{2 * latent + 1} that fill in what a mask hides"
        )
    if not any(name.startswith(FIRST_STAGE) for name in tensors):
        raise UserError(f"{where} lacks the autoencoder (names below {FIRST_STAGE!r}): it is a part of a model")
    for tower in description.towers:
        if not any(name.startswith(tower.prefix) for name in tensors):
            raise UserError(f"{where} lacks a text encoder (names below {tower.prefix!r}): it is a part of a model")
    return complete_unet({**description.unet, "in_channels": channels}), vae


def _prefixed(tensors: dict[str, np.ndarray], description: Description) -> dict[str, np.ndarray]:
    """Text encoders that a newer library wrote without "text_model." by their old names."""
    for tower in description.towers:
        if tower.layout == "hf" and f"{tower.prefix}embeddings.token_embedding.weight" in tensors:
            tensors = {
                f"{tower.prefix}text_model.{name.removeprefix(tower.prefix)}"
                if re.match(re.escape(tower.prefix) + r"(embeddings|encoder|final_layer_norm)\.", name)
                else name: value
                for name, value in tensors.items()
            }
    return tensors


def _ignored(name: str, description: Description) -> bool:
    """True for buffers, averages and losses, and for what of a text encoder is not read."""
    if name in _BUFFERS or _IGNORED.fullmatch(name):
        return True
    for tower in description.towers:
        if name.startswith(tower.prefix):
            rest, layers = name.removeprefix(tower.prefix), tower.text["layers"]
            block = re.match(r"transformer\.resblocks\.(\d+)\.", rest)
            projection = rest in ("text_projection", "text_projection.weight") and tower.embed is None
            return projection or bool(block and layers <= int(block[1]) < layers + tower.unread)
    return False


def _pad(tower: Tower, words: BpeTokenizer) -> int:
    """The id that fills a row."""
    if tower.pad is None:
        return words.end
    if tower.pad not in words.symbols:
        raise UserError(f"the vocabulary has no token {tower.pad!r}, which fills the rows of this model")
    return words.symbols.index(tower.pad)
