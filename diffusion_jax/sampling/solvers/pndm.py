"""PNDM (arXiv 2202.09778): the coefficients of `ipndm` for 4 predictions, after a start by Runge-Kutta. See `adams`.

The start is three steps of four evaluations each ("prk"), or one step of two evaluations ("plms", as Stable Diffusion is
often run).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.sde import coefficients
from diffusion_jax.sampling.solvers.adams import corrected, equal_steps
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
    """Four predictions; `start` is "prk" (three steps of four evaluations) or "plms" (a first step of two)."""

    start: str = "prk"
    deterministic: ClassVar[bool] = True
    convergence: ClassVar[int] = 2

    def __post_init__(self) -> None:
        one_of("start", self.start, ("prk", "plms"))

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
        state = state.pushed(pair.eps, t)
        starting = state.count < 4 if self.start == "prk" else state.count < 2

        def first(pair: Prediction) -> Array:
            if self.start == "plms":
                guess = exponential_step(schedule, pair, t, t_next)
                mean = 0.5 * (pair.eps + denoise(guess, t_next).eps)
                return _moved(schedule, x, mean, pair, t, t_next)
            middle = 0.5 * (t + t_next)
            at = exponential_step(schedule, pair, t, middle)
            second = denoise(at, middle).eps
            third = denoise(_moved(schedule, x, second, pair, t, middle), middle).eps
            fourth = denoise(_moved(schedule, x, third, pair, t, t_next), t_next).eps
            return _moved(schedule, x, (pair.eps + 2 * second + 2 * third + fourth) / 6, pair, t, t_next)

        def later(pair: Prediction) -> Array:
            return corrected(schedule, pair, state, t, t_next, equal_steps(schedule, t, t_next, 4), state.count)

        return jax.lax.cond(starting & finite(schedule, t, t_next), first, later, pair), state

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """How often the denoiser is called over the grid."""
        steps, extra = (3, 3) if self.start == "prk" else (1, 1)
        ends = ts[:-1][:steps], ts[1:][:steps]
        begun = jnp.sum(jax.vmap(lambda t, s: finite(schedule, t, s))(*ends), dtype=jnp.int32)
        return len(ts) - 1 + extra * begun


def _moved(schedule: Schedule, x: Array, eps: Array, pair: Prediction, t: Array, t_next: Array) -> Array:
    """x at t taken to t_next along `eps` instead of the pair's: (x - sigma eps) / alpha is its clean end.

    Written as the pair's own step plus the difference, which is finite also where alpha is 0.
    """
    width = relative_sigma(schedule, t_next) - relative_sigma(schedule, t)
    alpha, _ = coefficients(schedule, t_next, x)
    return exponential_step(schedule, pair, t, t_next) + alpha * width * (eps - pair.eps)
