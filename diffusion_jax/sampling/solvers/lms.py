"""LMS (k-diffusion): Adams-Bashforth in rho = sigma / alpha, EDM's sigma; exact at a last step to rho = 0. See `adams`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jaxtyping import Array

from diffusion_jax.sampling.solvers.adams import Adams, by_order, corrected
from diffusion_jax.sampling.steps import (
    Axis,
    Denoise,
    History,
    lagrange,
    legendre,
    relative_sigma,
)
from diffusion_jax.typing import Schedule

__all__ = ["LMS"]


@dataclasses.dataclass(frozen=True)
class LMS(Adams):
    """Order 1 to 4, one evaluation a step."""

    order: int = 4
    highest: ClassVar[int] = 4

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: History
    ) -> tuple[Array, History]:
        """x [batch, ...] at t -> x at t_next < t; draws nothing."""
        pair = denoise(x, t)
        rho, rho_next = relative_sigma(schedule, t), relative_sigma(schedule, t_next)
        axis = Axis(lambda times: relative_sigma(schedule, times), rho_next)
        state = state.spaced(pair.eps, t, axis)
        nodes, usable = state.nodes(axis)
        points, weights = legendre(2, rho, rho_next)
        rows = by_order(nodes, lambda nodes: lagrange(nodes, points) @ weights, self.order)
        return corrected(schedule, pair, state, t, t_next, rows, usable), state
