"""Adaptive projected guidance (arXiv 2410.02416, algorithm 1), in x0.

With d = c - u, plus `momentum` times the d of the step before, its norm capped, and d split in a part along c and one across
it, the guided x0 is c + (w - 1) (d_across + eta d_along). At eta = 1 without cap and momentum it is classifier-free
guidance.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.arguments import check_schedule, known
from diffusion_jax.sampling.guidance.contrast import Guided, Rule, between, scale_of
from diffusion_jax.sampling.guidance.steered import (
    fitted,
    setting,
    with_x0,
)
from diffusion_jax.sampling.norms import inner, norm
from diffusion_jax.typing import (
    DenoiseFn,
    Prediction,
    PyTree,
    Schedule,
    pytree_dataclass,
)

__all__ = ["apg"]


@pytree_dataclass
class _Projected(Rule):
    guidance_scale: Any
    eta: Any
    momentum: Any  # None: there is no memory
    norm_threshold: Any
    schedule: Any

    def start(self, xt: Array) -> PyTree:
        return () if self.momentum is None else jnp.zeros(xt.shape, jnp.promote_types(xt.dtype, jnp.float32))

    def join(self, c: Prediction, u: Prediction, xt: Array, t: ArrayLike, memory: PyTree) -> tuple[Prediction, PyTree]:
        difference = c.x0 - u.x0
        if self.momentum is not None:
            difference = memory = difference + fitted("momentum", self.momentum, difference) * memory
        length, cap = norm(difference), fitted("norm_threshold", self.norm_threshold, difference)
        difference = jnp.where(length > cap, cap / jnp.where(length > cap, length, 1.0), 1.0) * difference
        square = inner(c.x0, c.x0)
        along = jnp.where(square > 0, inner(difference, c.x0) / jnp.where(square > 0, square, 1.0), 0.0) * c.x0
        scale, eta = (fitted(n, v, c.x0) for n, v in (("guidance_scale", self.guidance_scale), ("eta", self.eta)))
        update = difference + (eta - 1.0) * along
        return with_x0(c, c.x0 + (scale - 1.0) * update, t, self.schedule), memory


def apg(
    denoise: DenoiseFn,
    null: PyTree,
    guidance_scale: ArrayLike,
    negative: PyTree | None = None,
    *,
    schedule: Schedule,
    eta: ArrayLike = 0.0,
    momentum: ArrayLike = -0.5,
    norm_threshold: ArrayLike = float("inf"),
) -> Guided:
    """Adaptive projected guidance: as `classifier_free`, less of what only brightens.

    `eta` is the share of the part along the conditional x0; `momentum` of the differences before (negative values push
    away from them; exactly 0 needs no memory); `norm_threshold` > 0 caps the norm of the
    difference of an example. Raises UserError as `classifier_free`.
    """
    check_schedule(schedule)
    forgetful = known(momentum) and not np.any(np.asarray(momentum))
    rule = _Projected(
        scale_of(guidance_scale, negative),
        setting("eta", eta),
        None if forgetful else setting("momentum", momentum, -1.0, 1.0),
        setting("norm_threshold", norm_threshold, 0.0),
        schedule,
    )
    return Guided(between(denoise, null, negative), rule)
