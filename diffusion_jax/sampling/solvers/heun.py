"""Heun's method for the probability-flow ODE, dx = x0_hat dalpha + eps_hat dsigma: the trapezoid rule.

The pair (x0_hat, eps_hat) is averaged over the step's two ends, in the differentials of alpha and sigma, which do not
diverge where their rates do; where alpha = 1 this is EDM's method (arXiv 2206.00364, algorithm 1). As in EDM's, a last step
to sigma = 0 is Euler's: the pair is not evaluated where there is no noise. `variable="t"` integrates dx/dt instead, as
in `euler`; `variable="rho"` is the trapezoid rule for d(x / alpha) = eps_hat drho, rho = sigma / alpha: EDM's own under any
schedule, as k-diffusion has it. From pure noise, where rho is not finite, it is of first order.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.prediction import FLOOR
from diffusion_jax.process.sde import coefficients, expand, velocity
from diffusion_jax.sampling.solvers.euler import VARIABLES
from diffusion_jax.sampling.steps import Denoise, Stateless, exponential_step, relative_sigma
from diffusion_jax.typing import Prediction, Schedule, one_of

__all__ = ["Heun"]


def _move(schedule: Schedule, x: Array, pair: Prediction, t: Array, t_next: Array) -> Array:
    """x moved along a frozen pair, by the change of alpha and sigma."""
    alpha, sigma = coefficients(schedule, t, x)
    alpha_next, sigma_next = coefficients(schedule, t_next, x)
    return x + (alpha_next - alpha) * pair.x0 + (sigma_next - sigma) * pair.eps


@dataclasses.dataclass(frozen=True)
class Heun(Stateless):
    """Second order, two evaluations a step (one at a last step to sigma = 0).

    `variable` is "sigma", "t" or "rho"; see the module.
    """

    variable: str = "sigma"
    convergence: ClassVar[int] = 2
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("variable", self.variable, (*VARIABLES, "rho"))

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; draws nothing."""
        first = denoise(x, t)
        if self.variable == "t":
            slope = velocity(schedule, first, t)
            guess = x + ((t_next - t) * slope).astype(x.dtype)
        elif self.variable == "rho":
            guess = exponential_step(schedule, first, t, t_next)
        else:
            guess = _move(schedule, x, first, t, t_next)

        def corrected(guess: Array) -> Array:
            second = denoise(guess, t_next)
            if self.variable == "t":
                mean_slope = 0.5 * (slope + velocity(schedule, second, t_next))
                return x + ((t_next - t) * mean_slope).astype(x.dtype)
            if self.variable == "rho":
                alpha, _ = coefficients(schedule, t_next, x)
                width = expand(relative_sigma(schedule, t_next) - relative_sigma(schedule, t), x)
                bend = jnp.where(expand(schedule.alpha(t), x) > FLOOR, 0.5 * width * (second.eps - first.eps), 0.0)
                return guess + alpha * bend
            mean = Prediction(0.5 * (first.x0 + second.x0), 0.5 * (first.eps + second.eps))
            return _move(schedule, x, mean, t, t_next)

        return jax.lax.cond(schedule.sigma(t_next) > 0, corrected, lambda guess: guess, guess), state

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """How often the denoiser is called over the grid: twice a step, once in a step to sigma = 0."""
        return len(ts) - 1 + jnp.sum(schedule.sigma(ts[1:]) > 0, dtype=jnp.int32)
