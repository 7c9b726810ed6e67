"""Classifier-free guidance (arXiv 2207.12598): u + w (c - u) with the prediction c under the condition and u without it.

w = 1 is no guidance, w = 0 ignores the condition, larger w follows it more closely; the w of the paper is this one minus 1.
Linear, so the pair (x0, eps) is guided as a whole.

Some are guided in a part of their channels alone: DiT's published samples (arXiv 2212.09748) in the first three of a latent's
four, the fourth being c's.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.sampling.guidance.contrast import Guided, Rule, between, scale_of
from diffusion_jax.sampling.guidance.steered import (
    fitted,
)
from diffusion_jax.typing import (
    DenoiseFn,
    Prediction,
    PyTree,
    UserError,
    pytree_dataclass,
    static,
    whole_number,
)

__all__ = ["Linear", "classifier_free"]


@pytree_dataclass
class Linear(Rule):
    """u + w (c - u) in x0 and in eps; with `channels` in the first so many of the last axis, and c in the others."""

    guidance_scale: Any
    channels: int | None = static(default=None)

    def join(self, c: Prediction, u: Prediction, xt: Array, t: ArrayLike, memory: PyTree) -> tuple[Prediction, PyTree]:
        """The line through both at the scale. UserError for more channels than there are."""
        scale = fitted("guidance_scale", self.guidance_scale, c.x0)
        x0, eps = u.x0 + scale * (c.x0 - u.x0), u.eps + scale * (c.eps - u.eps)
        if self.channels is not None:
            last = c.x0.shape[-1]
            if self.channels > last:
                raise UserError(f"channels {self.channels} are guided of {last} that there are; nearest: {last}")
            here = (jnp.arange(last) < self.channels).reshape((1,) * (c.x0.ndim - 1) + (last,))
            x0, eps = jnp.where(here, x0, c.x0), jnp.where(here, eps, c.eps)
        return Prediction(x0, eps, c.variance), memory


def classifier_free(
    denoise: DenoiseFn,
    null: PyTree,
    guidance_scale: ArrayLike = 1.0,
    negative: PyTree | None = None,
    *,
    channels: int | None = None,
) -> Guided:
    """`denoise` guided towards its condition and away from `null`, or from `negative` where one is given.

    null and negative are conditions with leading axis 1 or batch; guidance_scale is a scalar, or [batch] for several
    scales in one batch. With `channels` the first so many of the last axis are guided and the others are as conditioned. Raises
    UserError when null has another structure than negative, for a negative scale without a negative condition, and for more
    channels than there are.
    """
    guided = None if channels is None else whole_number("channels", channels, 1)
    return Guided(between(denoise, null, negative), Linear(scale_of(guidance_scale, negative), guided))
