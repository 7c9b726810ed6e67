"""LMS (k-diffusion): Adams-Bashforth in rho = sigma / alpha, EDM's sigma; exact at a last step to rho = 0. See `adams`."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array

from diffusion_jax.sampling.solvers.adams import _by_order, _corrected
from diffusion_jax.sampling.steps import (
    Axis,
    Denoise,
    History,
    check_order,
    lagrange,
    legendre,
    relative_sigma,
)
from diffusion_jax.typing import Schedule

__all__ = ["LMS"]


@dataclasses.dataclass(frozen=True)
class LMS:
    """Order 1 to 4, one evaluation a step."""

    order: int = 4

    def __post_init__(self) -> None:
        check_order(self, self.order, 4)

    def init(self, x: Array) -> History:
        """The memory of `order` predictions."""
        return History.empty(x, self.order)

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
        rows = _by_order(nodes, lambda nodes: lagrange(nodes, points) @ weights, self.order)
        return _corrected(schedule, pair, state, t, t_next, rows, usable), state
