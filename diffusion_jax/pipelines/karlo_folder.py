"""A folder of diffusers' UnCLIPPipeline or UnCLIPImageVariationPipeline, as Karlo is published: the stages of an `UnCLIP`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.build.networks import compute_dtype, kept
from diffusion_jax.convert.files import read_json
from diffusion_jax.convert.unclip_text import load_text_projection
from diffusion_jax.nets import Network, TextProjection
from diffusion_jax.pipelines.configs import read_configs
from diffusion_jax.pipelines.folder import Index
from diffusion_jax.pipelines.image_encoder import load_image_encoder
from diffusion_jax.pipelines.karlo import KarloDecoder, KarloPrior, KarloUpsampler
from diffusion_jax.pipelines.scheduler import Scheduler, read_scheduler
from diffusion_jax.pipelines.text_encoder import load_text_encoder, load_words
from diffusion_jax.pipelines.unclip import UnCLIP
from diffusion_jax.systems.diffusion.pretrained import Pretrained, load_network
from diffusion_jax.typing import UserError

__all__ = ["load_karlo"]

SCHEDULER = "scheduler_config.json"


def load_karlo(index: Index, how: Mapping[str, Any]) -> UnCLIP:
    """The pipeline of a folder's index; `how` are `dtype`, `remat` and `param_dtype` of `load_pipeline`.

    Raises UserError for a part that cannot be read, and for parts that do not fit together.
    """
    folder = index.path
    schedulers = {name: _scheduler(folder / name) for name in index.parts if name.endswith("_scheduler")}
    ((encoder, tokenizer),) = index.encoders
    words = load_words(encoder, read_configs(index)["text_encoder"], tokenizer)
    dtype, param_dtype = how["dtype"], how["param_dtype"]
    text = load_text_encoder(encoder, tokenizer, dtype, param_dtype, words=words)
    sizes, params = load_text_projection(folder / "text_proj")
    projection = Network(lambda rngs: TextProjection(rngs, **sizes, dtype=compute_dtype(dtype)))
    unet, first, last = (
        load_network(folder / name, **how) for name in ("decoder", "super_res_first", "super_res_last")
    )
    prior = load_network(folder / "prior", **how) if "prior" in index.parts else None
    images = None
    if "image_encoder" in index.parts:
        beside = folder / "feature_extractor" if "feature_extractor" in index.parts else None
        images = load_image_encoder(folder / "image_encoder", beside, dtype, param_dtype)
    where = repr(str(folder))
    _check(where, sizes, text.config["embed"], text.width, unet, prior, None if images is None else images.size)
    edge = _edge(unet, where)
    decoder = KarloDecoder(
        unet, projection, kept(params, param_dtype), text, schedulers["decoder_scheduler"], edge, images
    )  # fmt: skip
    if _edge(first, where) != _edge(last, where):
        raise UserError(
            f"{where}: super_res_first draws {_edge(first, where)} pixels, super_res_last {_edge(last, where)}"
        )
    upsampler = KarloUpsampler(first, last, schedulers["super_res_scheduler"], _edge(first, where))
    made = None if prior is None else KarloPrior(prior, text, schedulers["prior_scheduler"])
    return UnCLIP(decoder, made, (upsampler,))


def _scheduler(folder: Path) -> Scheduler:
    file = folder / SCHEDULER
    if not file.is_file():
        raise UserError(f"{str(folder)!r} lacks {SCHEDULER}: it says how the noise of the model was made")
    return read_scheduler({"_class_name": "UnCLIPScheduler", **read_json(file)}, str(file))


def _edge(found: Pretrained, where: str) -> int:
    size = found.told.get("sample_size")
    if not isinstance(size, int):
        raise UserError(f"{where}: sample_size {size!r} of {found.path.name} is no whole number of pixels")
    return size


def _check(
    where: str,
    sizes: Mapping[str, Any],
    embed: int,
    width: int,
    unet: Pretrained,
    prior: Pretrained | None,
    images: int | None,
) -> None:
    """UserError for parts of several models."""
    heard = unet.config["hearing"]
    said: dict[str, tuple[Any, Any]] = {
        "the text encoder's embedding and the projection's": (embed, sizes["embedding"]),
        "the text encoder's tokens and the projection's": (width, sizes["tokens"]),
        "what the projection gives the time and what the decoder hears": (sizes["width"], heard.get("embedding")),
        "what the projection makes of tokens and what the decoder attends to": (sizes["context"], heard.get("tokens")),
    }
    if prior is not None:
        drawn = prior.config.get("out_dim") or prior.config["dim"]
        said["the prior's embedding and the projection's"] = (drawn, sizes["embedding"])
        said["the text encoder's embedding and the prior's"] = (embed, prior.config["pooled"])
        said["the text encoder's tokens and the prior's"] = (width, prior.config["context"] or width)
    if images is not None:
        said["the image encoder's embedding and the projection's"] = (images, sizes["embedding"])
    for what, (one, other) in said.items():
        if one != other:
            raise UserError(f"{where}: {what} have {one} and {other} numbers: parts of two models")
