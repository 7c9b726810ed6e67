"""CLIP: two towers and one learned temperature (arXiv 2103.00020, figure 3).

`logit_scale` is the logarithm of the inverse temperature, ln(1 / 0.07) at the start. It is clamped to [0, ln 100] by
the optimiser after each step, not here: a clip in the forward pass has no gradient above the cap and would stick
there.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.text import TextTransformer
from diffusion_jax.nets.vit import TowerOutput, VisionTransformer

__all__ = ["CLIP", "LOGIT_SCALE_INIT", "CLIPOutput"]

LOGIT_SCALE_INIT = math.log(1 / 0.07)


class CLIPOutput(NamedTuple):
    """Unit-norm embeddings of both towers and exp(logit_scale)."""

    image: Float[Array, "batch embed"]
    text: Float[Array, "batch embed"]
    scale: Float[Array, ""]


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


class CLIP(nnx.Module):
    """A vision and a text tower; `vision` and `text` are their keyword arguments, `embed` the width they share."""

    def __init__(self, rngs: nnx.Rngs, *, embed: int, vision: dict[str, Any], text: dict[str, Any]) -> None:
        self.visual = VisionTransformer(rngs, embed=embed, **vision)
        self.text = TextTransformer(rngs, embed=embed, **text)
        self.logit_scale = nnx.Param(jnp.array(LOGIT_SCALE_INIT, jnp.float32))

    def __call__(self, images: Array, tokens: Array, *, key: Array | None = None, train: bool = False) -> CLIPOutput:
        """Both embeddings of a batch of pairs, each L2-normalised."""
        image = self.encode_image(images, key=key, train=train).embedding
        text = self.encode_text(tokens, key=key, train=train).embedding
        return CLIPOutput(_unit(image), _unit(text), jnp.exp(self.logit_scale[...]))

    def encode_image(self, images: Array, *, key: Array | None = None, train: bool = False) -> TowerOutput:
        """The vision tower alone; its embedding is not normalised."""
        return self.visual(images, key=key, train=train)

    def encode_text(self, tokens: Array, *, key: Array | None = None, train: bool = False) -> TowerOutput:
        """The text tower alone; its embedding is not normalised."""
        return self.text(tokens, key=key, train=train)
