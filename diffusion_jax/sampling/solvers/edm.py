"""EDM's stochastic sampler (arXiv 2206.00364, algorithm 2): churn, then a step of Heun's.

Adding noise to x_t along the process itself leaves the marginals as they are: from t up to s > t, x / alpha gains the
variance rho_s^2 - rho_t^2, rho = sigma / alpha. Before each step rho rises by a factor 1 + gamma, gamma = min(s_churn /
num_steps, sqrt(2) - 1) where s_tmin <= rho <= s_tmax; then Heun's method solves the ODE down. s_churn = 0 is Heun.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.sampling.solvers.heun import Heun
from diffusion_jax.sampling.steps import Denoise, Stateless, noise_like, relative_sigma, renoise, time_at
from diffusion_jax.typing import Schedule, UserError

__all__ = ["EDMStochastic"]


@dataclasses.dataclass(frozen=True)
class EDMStochastic(Stateless):
    """Second order with churn, two evaluations a step (one at a last step to sigma = 0).

    s_churn >= 0 counts over the whole grid, s_tmin and s_tmax bound rho = sigma / alpha, s_noise scales the added noise
    (the paper's values for ImageNet-64 are 40, .05, 50 and 1.003). `num_steps` is filled in by `sample`.
    """

    s_churn: float = 40.0
    s_tmin: float = 0.05
    s_tmax: float = 50.0
    s_noise: float = 1.003
    num_steps: int | None = None

    def __post_init__(self) -> None:
        if not self.s_churn >= 0:
            raise UserError(f"s_churn {self.s_churn} is below 0; nearest: 0")
        if not 0 <= self.s_tmin <= self.s_tmax:
            raise UserError(f"s_tmin {self.s_tmin} and s_tmax {self.s_tmax} must satisfy 0 <= s_tmin <= s_tmax")

    @property
    def deterministic(self) -> bool:
        """Without churn."""
        return self.s_churn == 0

    @property
    def convergence(self) -> int | None:
        """2, Heun's; none where s_noise makes more or less noise than the process has."""
        return 2 if self.s_churn == 0 or self.s_noise == 1 else None

    def over(self, num_steps: int) -> EDMStochastic:
        """This solver for a grid of `num_steps` steps."""
        return self if self.num_steps else dataclasses.replace(self, num_steps=num_steps)

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]. Raises UserError without num_steps."""
        if self.s_churn > 0:
            if self.num_steps is None:
                raise UserError("EDMStochastic spreads its churn over the grid: give num_steps, or use `sample`")
            gamma = min(self.s_churn / self.num_steps, math.sqrt(2.0) - 1.0)
            rho = relative_sigma(schedule, t)
            top = relative_sigma(schedule, jnp.asarray(schedule.t_max, x.dtype))
            churned = (rho >= self.s_tmin) & (rho <= self.s_tmax) & (schedule.alpha(t) > 0)
            higher = jnp.minimum(rho * (1.0 + gamma), top)
            later = jnp.where(churned, jnp.maximum(time_at(schedule, higher).astype(t.dtype), t), t)
            x = renoise(schedule, x, t, later, self.s_noise * noise_like(key, x))
            t = later
        return Heun().step(denoise, schedule, x, t, t_next, key, state)

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """As Heun."""
        return Heun().evaluations(schedule, ts)
