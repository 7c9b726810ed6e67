"""CLIP: two towers and one learned temperature (arXiv 2103.00020, figure 3); SigLIP adds a bias (arXiv 2303.15343).

`logit_scale` is the logarithm of the inverse temperature, ln(1 / 0.07) at the start (SigLIP: ln 10, with `logit_bias`
-10). It is clamped to [0, ln 100] by the optimiser after each step, not here: a clip in the forward pass has no gradient
above the cap and would stick there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.resnet import ModifiedResNet
from diffusion_jax.nets.text import TextTransformer
from diffusion_jax.nets.vit import TowerOutput, VisionTransformer
from diffusion_jax.typing import one_of

__all__ = ["CLIP", "LOGIT_SCALE_INIT", "TOWERS", "CLIPOutput"]

LOGIT_SCALE_INIT = math.log(1 / 0.07)
SIGLIP_INIT = (math.log(10.0), -10.0)
TOWERS: dict[str, Callable[..., Any]] = {"vit": VisionTransformer, "resnet": ModifiedResNet}


class CLIPOutput(NamedTuple):
    """Unit-norm embeddings of both towers, exp(logit_scale), and SigLIP's logit_bias where there is one."""

    image: Float[Array, "batch embed"]
    text: Float[Array, "batch embed"]
    scale: Float[Array, ""]
    bias: Float[Array, ""] | None = None


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


class CLIP(nnx.Module):
    """A vision and a text tower; `vision` and `text` are their keyword arguments, `embed` the width they share.

    `vision` may have "tower": "vit" (the default) or "resnet". `logit_bias=True` is SigLIP's pair of temperature and bias.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        embed: int,
        vision: dict[str, Any],
        text: dict[str, Any],
        logit_bias: bool = False,
    ) -> None:
        options = dict(vision)
        tower = TOWERS[one_of("tower", options.pop("tower", "vit"), TOWERS)]
        self.visual = tower(rngs, embed=embed, **options)
        self.text = TextTransformer(rngs, embed=embed, **text)
        scale, bias = SIGLIP_INIT if logit_bias else (LOGIT_SCALE_INIT, None)
        self.logit_scale = nnx.Param(jnp.array(scale, jnp.float32))
        self.logit_bias = None if bias is None else nnx.Param(jnp.array(bias, jnp.float32))

    def __call__(self, images: Array, tokens: Array, *, key: Array | None = None, train: bool = False) -> CLIPOutput:
        """Both embeddings of a batch of pairs, each L2-normalised."""
        image = self.encode_image(images, key=key, train=train).embedding
        text = self.encode_text(tokens, key=key, train=train).embedding
        bias = None if self.logit_bias is None else self.logit_bias[...]
        return CLIPOutput(_unit(image), _unit(text), jnp.exp(self.logit_scale[...]), bias)

    def encode_image(self, images: Array, *, key: Array | None = None, train: bool = False) -> TowerOutput:
        """The vision tower alone; its embedding is not normalised."""
        return self.visual(images, key=key, train=train)

    def encode_text(self, tokens: Array, *, key: Array | None = None, train: bool = False) -> TowerOutput:
        """The text tower alone; its embedding is not normalised."""
        return self.text(tokens, key=key, train=train)

    def image_states(self, images: Array, *, key: Array | None = None, train: bool = False) -> Any:
        """Every hidden state of the vision tower: [layers + 1, batch, tokens, width], or the feature maps of a ResNet."""
        if isinstance(self.visual, ModifiedResNet):
            return self.visual.maps(images, key=key, train=train)
        return self.visual.states(images, key=key, train=train)

    def text_states(self, tokens: Array, *, key: Array | None = None, train: bool = False) -> Array:
        """Every hidden state of the text tower, [layers + 1, batch, context, width]."""
        return self.text.states(tokens, key=key, train=train)
