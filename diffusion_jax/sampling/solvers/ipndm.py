"""IPNDM (arXiv 2204.13902, section 4): Adams-Bashforth with the coefficients of equal steps, whatever the grid. See `adams`.

It is of second order on smooth grids, as its first steps are of lower order and its weights do not know the spacing.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jaxtyping import Array

from diffusion_jax.sampling.solvers.adams import Adams, corrected, equal_steps
from diffusion_jax.sampling.steps import (
    Denoise,
    History,
)
from diffusion_jax.typing import Schedule

__all__ = ["IPNDM"]


@dataclasses.dataclass(frozen=True)
class IPNDM(Adams):
    """Order 1 to 4 in name (the number of predictions), one evaluation a step."""

    order: int = 4
    highest: ClassVar[int] = 4

    @property
    def convergence(self) -> int:
        """2 at most, whatever the number of predictions; see the module."""
        return min(self.order, 2)

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: History
    ) -> tuple[Array, History]:
        """x [batch, ...] at t -> x at t_next < t; draws nothing."""
        pair = denoise(x, t)
        state = state.pushed(pair.eps, t)
        weights = equal_steps(schedule, t, t_next, self.order)
        return corrected(schedule, pair, state, t, t_next, weights, state.count), state
