"""CFG-Zero* (arXiv 2503.18886, algorithm 1), in the velocity.

It is s u + w (c - s u) with s = <c, u> / |u|^2; the velocity is 0 at the beginning, at times above `zero_above`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.arguments import check_schedule
from diffusion_jax.process.prediction import from_pair, to_prediction
from diffusion_jax.process.sde import expand
from diffusion_jax.sampling.guidance.contrast import Guided, Rule, between, scale_of
from diffusion_jax.sampling.guidance.steered import (
    fitted,
    setting,
)
from diffusion_jax.sampling.norms import inner
from diffusion_jax.typing import (
    DenoiseFn,
    Prediction,
    PyTree,
    Schedule,
    pytree_dataclass,
)

__all__ = ["cfg_zero"]


@pytree_dataclass
class _Zero(Rule):
    guidance_scale: Any
    zero_above: Any
    schedule: Any

    def join(self, c: Prediction, u: Prediction, xt: Array, t: ArrayLike, memory: PyTree) -> tuple[Prediction, PyTree]:
        towards, away = (from_pair("velocity", p.x0, p.eps, t, self.schedule) for p in (c, u))
        square = inner(away, away)
        best = jnp.where(square > 0, inner(towards, away) / jnp.where(square > 0, square, 1.0), 1.0)
        scale = fitted("guidance_scale", self.guidance_scale, towards)
        velocity = best * away + scale * (towards - best * away)
        begins = expand(jnp.asarray(t, jnp.float32), towards) > fitted("zero_above", self.zero_above, towards)
        pair = to_prediction("velocity", jnp.where(begins, 0.0, velocity), xt, t, self.schedule)
        return dataclasses.replace(pair, variance=c.variance), memory


def cfg_zero(
    denoise: DenoiseFn,
    null: PyTree,
    guidance_scale: ArrayLike,
    negative: PyTree | None = None,
    *,
    schedule: Schedule,
    zero_above: ArrayLike = 1.0,
) -> Guided:
    """CFG-Zero*, made for flow matching: the unconditional velocity at its best length, and none at times above `zero_above`.

    The paper keeps the velocity 0 for the first 4% of the steps: `zero_above=0.96`; 1 never does. Raises UserError as
    `classifier_free`, and for `zero_above` outside [0, 1].
    """
    check_schedule(schedule)
    rule = _Zero(scale_of(guidance_scale, negative), setting("zero_above", zero_above, 0.0, 1.0), schedule)
    return Guided(between(denoise, null, negative), rule)
