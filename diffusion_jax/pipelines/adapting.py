"""A LoRA merged into a pipeline: the U-Net and the text encoders that its file adapts, all else shared."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp

from diffusion_jax.convert import load_lora
from diffusion_jax.pipelines.parts import Parts
from diffusion_jax.pipelines.text_encoder import TextEncoder
from diffusion_jax.train.lora import merge_lora
from diffusion_jax.typing import Params, UserError, path_of

__all__ = ["adapted"]


def adapted(pipeline: Parts, path: str | Path, scale: float) -> tuple[Params, tuple[TextEncoder, ...]]:
    """(the U-Net's weights, the text encoders) of `TextToImage.with_lora`."""
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise UserError(f"the scale {scale!r} of a LoRA is not a finite number; usual: 1.0")
    if any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(pipeline.params)):
        raise UserError(
            "the weights are in bfloat16, in whose rounding a LoRA is lost: load them in float32, merge, and then take "
            'pipeline.rounded("bfloat16")'
        )
    # The refiner's one encoder is XL's second.
    names = ("text_encoder", "text_encoder_2") if pipeline.kind == "sdxl" else ("text_encoder",)
    encoders = dict(zip(names[-len(pipeline.encoders) :], pipeline.encoders, strict=True))
    first, second = (encoders[name].config if name in encoders else None for name in ("text_encoder", "text_encoder_2"))
    loras = load_lora(path_of("path", path), unet=pipeline.unet_config, text_encoder=first, text_encoder_2=second)
    params = merge_lora(pipeline.params, loras["unet"], scale) if "unet" in loras else pipeline.params
    return params, tuple(_encoder(encoder, loras.get(name), scale) for name, encoder in encoders.items())


def _encoder(encoder: TextEncoder, lora: Params | None, scale: float) -> TextEncoder:
    if lora is None:
        return encoder
    return dataclasses.replace(encoder, params=merge_lora({"text": encoder.params}, lora, scale)["text"])
