"""Classifier-free guidance (arXiv 2207.12598): u + w (c - u) with the prediction c under the condition and u without it.

w = 1 is no guidance, w = 0 ignores the condition, larger w follows it more closely; the w of the paper is this one minus 1.
Linear, so the pair (x0, eps) is guided as a whole.
"""

from __future__ import annotations

from typing import Any

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
    pytree_dataclass,
)

__all__ = ["Linear", "classifier_free"]


@pytree_dataclass
class Linear(Rule):
    """u + w (c - u) in x0 and in eps."""

    guidance_scale: Any

    def join(self, c: Prediction, u: Prediction, xt: Array, t: ArrayLike, memory: PyTree) -> tuple[Prediction, PyTree]:
        """The line through both at the scale."""
        scale = fitted("guidance_scale", self.guidance_scale, c.x0)
        return Prediction(u.x0 + scale * (c.x0 - u.x0), u.eps + scale * (c.eps - u.eps), c.variance), memory


def classifier_free(
    denoise: DenoiseFn, null: PyTree, guidance_scale: ArrayLike = 1.0, negative: PyTree | None = None
) -> Guided:
    """`denoise` guided towards its condition and away from `null`, or from `negative` where one is given.

    null and negative are conditions with leading axis 1 or batch; guidance_scale is a scalar, or [batch] for several
    scales in one batch. Raises UserError when null has another structure than negative, and for a negative scale without
    a negative condition.
    """
    return Guided(between(denoise, null, negative), Linear(scale_of(guidance_scale, negative)))
