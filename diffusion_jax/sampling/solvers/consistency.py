"""Multi-step sampling with a consistency model (arXiv 2303.01469, algorithm 1): to clean data and part of the way back.

A consistency function maps x_t to the clean end of its ODE trajectory. Each step takes that end and draws x at the next
time around it, with fresh noise: x' = alpha' x0 + sigma' z. If the function is exact, every step's marginal is exact
whatever the grid. With a denoiser, whose x0_hat is a mean and not an end, samples are smoothed.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array

from diffusion_jax.process.sde import coefficients
from diffusion_jax.sampling.steps import Denoise, Stateless, noise_like
from diffusion_jax.typing import Schedule

__all__ = ["ConsistencyMultistep"]


@dataclasses.dataclass(frozen=True)
class ConsistencyMultistep(Stateless):
    """One evaluation a step; `denoise` gives the trajectory's end as x0."""

    deterministic: ClassVar[bool] = False
    convergence: ClassVar[None] = None

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]."""
        alpha, sigma = coefficients(schedule, t_next, x)
        return alpha * denoise(x, t).x0 + sigma * noise_like(key, x), state
