"""PNDM (arXiv 2202.09778): the coefficients of `ipndm` for 4 predictions, after a start by Runge-Kutta. See `adams`.

The start is three steps of four evaluations each ("prk"), or one step of two evaluations ("plms", as Stable Diffusion is
often run). What the polynomials go through is eps, or v as such a network says it (`raw="v"`, as diffusers runs Stable
Diffusion 2): then sum_j w_j v_j is read as the v at the step's beginning. Along a straight trajectory v turns with the angle
arctan(sigma / alpha) while eps stands still; the weights extrapolate that turn, and the step makes it once more. So it is of
first order.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.prediction import from_pair, to_prediction
from diffusion_jax.process.sde import coefficients
from diffusion_jax.sampling.solvers.adams import EQUAL_STEPS, corrected, equal_steps
from diffusion_jax.sampling.steps import (
    Denoise,
    History,
    exponential_step,
    finite,
    relative_sigma,
)
from diffusion_jax.typing import Prediction, Schedule, one_of

__all__ = ["PNDM"]


@dataclasses.dataclass(frozen=True)
class PNDM:
    """Four predictions; `start` is "prk" (three steps of four evaluations) or "plms" (a first step of two).

    `raw` is "eps" or "v", the prediction that is extrapolated.
    """

    start: str = "prk"
    raw: str = "eps"
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("start", self.start, ("prk", "plms"))
        one_of("raw", self.raw, ("eps", "v"))

    @property
    def convergence(self) -> int:
        """2, and 1 on the raw v."""
        return 2 if self.raw == "eps" else 1

    def init(self, x: Array) -> History:
        """The memory of 4 predictions."""
        return History.empty(x, 4)

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: History
    ) -> tuple[Array, History]:
        """x [batch, ...] at t -> x at t_next < t; draws nothing.

        A step from alpha = 0 or to sigma = 0 is not begun by Runge-Kutta.
        """
        pair = denoise(x, t)
        raw = self._raw(schedule, pair, t)
        state = state.pushed(raw, t)
        starting = state.count < 4 if self.start == "prk" else state.count < 2

        def moved(mean: Array, end: Array) -> Array:
            return self._moved(schedule, x, mean, pair, t, end)

        def asked(y: Array, s: Array) -> Array:
            return self._raw(schedule, denoise(y, s), s)

        def first(pair: Prediction) -> Array:
            if self.start == "plms":
                guess = exponential_step(schedule, pair, t, t_next)
                return moved(0.5 * (raw + asked(guess, t_next)), t_next)
            middle = 0.5 * (t + t_next)
            second = asked(exponential_step(schedule, pair, t, middle), middle)
            third = asked(moved(second, middle), middle)
            fourth = asked(moved(third, t_next), t_next)
            return moved((raw + 2 * second + 2 * third + fourth) / 6, t_next)

        def later(pair: Prediction) -> Array:
            if self.raw == "eps":
                return corrected(schedule, pair, state, t, t_next, equal_steps(schedule, t, t_next, 4), state.count)
            rows = jnp.asarray([(*row[1:], *(0.0,) * (4 - len(row))) for row in EQUAL_STEPS], x.dtype)
            return moved(
                raw + sum(w * d for w, d in zip(rows[state.count - 1], state.differences(), strict=True)), t_next
            )

        return jax.lax.cond(starting & finite(schedule, t, t_next), first, later, pair), state

    def _raw(self, schedule: Schedule, pair: Prediction, t: Array) -> Array:
        return pair.eps if self.raw == "eps" else from_pair("v", pair.x0, pair.eps, t, schedule)

    def _moved(self, schedule: Schedule, x: Array, mean: Array, pair: Prediction, t: Array, t_next: Array) -> Array:
        """x at t taken to t_next along the prediction `mean` instead of the pair's.

        For eps it is written as the pair's own step plus the difference, which is finite also where alpha is 0.
        """
        if self.raw == "v":
            return exponential_step(schedule, to_prediction("v", mean, x, t, schedule), t, t_next)
        width = relative_sigma(schedule, t_next) - relative_sigma(schedule, t)
        alpha, _ = coefficients(schedule, t_next, x)
        return exponential_step(schedule, pair, t, t_next) + alpha * width * (mean - pair.eps)

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """How often the denoiser is called over the grid."""
        steps, extra = (3, 3) if self.start == "prk" else (1, 1)
        ends = ts[:-1][:steps], ts[1:][:steps]
        begun = jnp.sum(jax.vmap(lambda t, s: finite(schedule, t, s))(*ends), dtype=jnp.int32)
        return len(ts) - 1 + extra * begun
