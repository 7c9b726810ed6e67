"""Solvers of the probability-flow ODE, dx = x0_hat dalpha + eps_hat dsigma, from noise to data.

Written in its differentials, the ODE has no derivative that diverges: over a step, **Euler** freezes the pair
(x0_hat, eps_hat),

    x' = x + (alpha' - alpha) x0_hat + (sigma' - sigma) eps_hat = alpha' x0_hat + sigma' eps_hat,

which is DDIM without noise (arXiv 2010.02502, eq. 12), for every schedule; and **Heun** averages the pair over the
step's two ends (the trapezoid rule), which is EDM's method (arXiv 2206.00364, algorithm 1) where alpha = 1. As in EDM's,
a last step to sigma = 0 is Euler's: the pair is not evaluated where there is no noise.

`variable="t"` integrates dx/dt instead, with the derivatives of alpha and sigma at the ends of the step, as
flow-matching code does; for RectifiedFlow both are the same. Where sigma' diverges (VPLinear at 0) it leaves part of
the noise at a last step to t = 0.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.sde import coefficients, velocity
from diffusion_jax.sampling.steps import Denoise
from diffusion_jax.typing import Prediction, Schedule, one_of

__all__ = ["Euler", "Heun"]

VARIABLES = ("sigma", "t")


def _move(schedule: Schedule, x: Array, pair: Prediction, t: Array, t_next: Array) -> Array:
    """x moved along a frozen pair, by the change of alpha and sigma."""
    alpha, sigma = coefficients(schedule, t, x)
    alpha_next, sigma_next = coefficients(schedule, t_next, x)
    return x + (alpha_next - alpha) * pair.x0 + (sigma_next - sigma) * pair.eps


@dataclasses.dataclass(frozen=True)
class Euler:
    """First order, one evaluation a step. `variable` is "sigma" or "t"; see the module."""

    variable: str = "sigma"

    def __post_init__(self) -> None:
        one_of("variable", self.variable, VARIABLES)

    def init(self, x: Array) -> Any:
        """No state."""
        return ()

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; draws nothing."""
        pair = denoise(x, t)
        if self.variable == "t":
            return x + ((t_next - t) * velocity(schedule, pair, t)).astype(x.dtype), state
        # x = alpha x0 + sigma eps, so that this is x moved along the pair, with two roundings less.
        alpha_next, sigma_next = coefficients(schedule, t_next, x)
        return alpha_next * pair.x0 + sigma_next * pair.eps, state


@dataclasses.dataclass(frozen=True)
class Heun:
    """Second order, two evaluations a step (one at a last step to sigma = 0). `variable` is "sigma" or "t"; see the module."""

    variable: str = "sigma"

    def __post_init__(self) -> None:
        one_of("variable", self.variable, VARIABLES)

    def init(self, x: Array) -> Any:
        """No state."""
        return ()

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; draws nothing."""
        first = denoise(x, t)
        if self.variable == "t":
            slope = velocity(schedule, first, t)
            guess = x + ((t_next - t) * slope).astype(x.dtype)
        else:
            guess = _move(schedule, x, first, t, t_next)

        def corrected(guess: Array) -> Array:
            second = denoise(guess, t_next)
            if self.variable == "t":
                mean_slope = 0.5 * (slope + velocity(schedule, second, t_next))
                return x + ((t_next - t) * mean_slope).astype(x.dtype)
            mean = Prediction(0.5 * (first.x0 + second.x0), 0.5 * (first.eps + second.eps))
            return _move(schedule, x, mean, t, t_next)

        return jax.lax.cond(schedule.sigma(t_next) > 0, corrected, lambda guess: guess, guess), state

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """How often the denoiser is called over the grid: twice a step, once in a step to sigma = 0."""
        return len(ts) - 1 + jnp.sum(schedule.sigma(ts[1:]) > 0, dtype=jnp.int32)
