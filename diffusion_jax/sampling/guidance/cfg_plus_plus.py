"""CFG++ (arXiv 2406.08070, algorithm 2): x0 is guided by a scale in [0, 1], but noised again with the eps of u.

So the pair does not add up to xt. It is meant for first-order steps from the pair: DDIM, Euler, ExponentialEuler.
"""

from __future__ import annotations

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.sampling.guidance.contrast import Guided, Rule, between
from diffusion_jax.sampling.guidance.steered import (
    fitted,
    setting,
)
from diffusion_jax.typing import (
    DenoiseFn,
    Prediction,
    PyTree,
    pytree_dataclass,
)

__all__ = ["cfg_plus_plus"]


@pytree_dataclass
class _PlusPlus(Rule):
    guidance_scale: Any

    def join(self, c: Prediction, u: Prediction, xt: Array, t: ArrayLike, memory: PyTree) -> tuple[Prediction, PyTree]:
        scale = fitted("guidance_scale", self.guidance_scale, c.x0)
        return Prediction(u.x0 + scale * (c.x0 - u.x0), u.eps, c.variance), memory


def cfg_plus_plus(
    denoise: DenoiseFn, null: PyTree, guidance_scale: ArrayLike = 0.6, negative: PyTree | None = None
) -> Guided:
    """CFG++ with a scale in [0, 1]; for solvers of first order. Raises UserError for a scale outside."""
    rule = _PlusPlus(setting("guidance_scale of CFG++", guidance_scale, 0.0, 1.0))
    return Guided(between(denoise, null, negative), rule)
