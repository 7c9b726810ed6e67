"""DEIS (arXiv 2204.13902): eps extrapolated by a polynomial in "t", the paper's tAB, or in "logrho". See `adams`.

`order` counts the predictions: the paper's tAB2 is order 3 here.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.sampling.solvers.adams import Adams, by_order, corrected
from diffusion_jax.sampling.solvers.ending import Ending
from diffusion_jax.sampling.steps import (
    Axis,
    Denoise,
    History,
    change,
    finite,
    half_logsnr,
    lagrange,
    legendre,
    level_axis,
)
from diffusion_jax.typing import Schedule, one_of

__all__ = ["DEIS"]

QUADRATURE = 16
"""Points for polynomials times an exponential: exact to rounding for steps of logsnr up to 10."""


@dataclasses.dataclass(frozen=True)
class DEIS(Ending, Adams):
    """Order 1 to 3, one evaluation a step; `variable` is "t" or "logrho". A last step to sigma = 0 is of first order.

    `final_orders` lowers the last steps' order, see `ending`.
    """

    order: int = 3
    variable: str = "t"
    final_orders: tuple[int, ...] = ()
    num_steps: int | None = None

    highest: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("variable", self.variable, ("t", "logrho"))
        self._check_ending()

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: History
    ) -> tuple[Array, History]:
        """x [batch, ...] at t -> x at t_next < t; draws nothing."""
        pair = denoise(x, t)
        axis = level_axis(schedule, t_next) if self.variable == "logrho" else Axis(lambda times: times, t_next)
        state = state.spaced(pair.eps, t, axis)
        nodes, usable = state.nodes(axis)
        usable = jnp.minimum(usable, self._highest(state.made))
        level, h = half_logsnr(schedule, t), change(schedule, t, t_next)
        # Relative to lambda(t), where small steps are told apart better.
        points, weights = legendre(QUADRATURE, jnp.zeros_like(h), h)
        weights = -jnp.exp(-level) * jnp.exp(-points) * weights  # drho = -exp(-lambda) dlambda
        if self.variable == "t":
            points = jnp.clip(schedule.t_from_logsnr(2.0 * (level + points)).astype(t.dtype), t_next, t)
        else:
            nodes = nodes - level
        weights = jnp.where(finite(schedule, t, t_next), weights, 0.0)
        rows = by_order(nodes, lambda nodes: lagrange(nodes, points) @ weights, self.order)
        return corrected(schedule, pair, state, t, t_next, rows, usable), state
