"""What the solvers share that extrapolate eps: one evaluation a step, and a memory of the last ones.

In x / alpha and rho = sigma / alpha the probability-flow ODE is d(x / alpha) = eps drho. A polynomial through the last
predictions eps_j, with Lagrange's weights l_j of any variable u, integrates to

    x' = alpha' x0 + sigma' eps_0 + alpha' sum_{j > 0} (eps_j - eps_0) int l_j(u(rho)) drho,

since the weights sum to 1. `deis`, `lms`, `ipndm` and `pndm` differ by the variable.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.prediction import FLOOR
from diffusion_jax.process.sde import coefficients
from diffusion_jax.sampling.steps import (
    History,
    check_order,
    exponential_step,
    relative_sigma,
)
from diffusion_jax.typing import Prediction, Schedule

__all__ = ["EQUAL_STEPS", "Adams", "by_order", "corrected", "equal_steps"]

EQUAL_STEPS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth for 1 to 4 predictions at equal steps, the newest first."""


def corrected(
    schedule: Schedule,
    pair: Prediction,
    history: History,
    t: Array,
    t_next: Array,
    weights: list[Array],
    usable: Array,
) -> Array:
    """The exponential step plus alpha' sum_j weights[n - 1][j] (eps_j - eps_0), n = `usable`; alone where alpha is 0."""
    base = exponential_step(schedule, pair, t, t_next)
    if not history.differences():
        return base
    chosen = jnp.where(schedule.alpha(t) > FLOOR, jnp.stack(weights)[usable - 1], 0.0)
    alpha, _ = coefficients(schedule, t_next, base)
    return base + alpha * sum(w * d for w, d in zip(chosen, history.differences(), strict=True))


def by_order(nodes: Array, integrate: object, length: int) -> list[Array]:
    """For 1 .. length predictions, the weights of the older ones, filled with zeros to [length - 1]."""
    rows = []
    for order in range(1, length + 1):
        weights = integrate(nodes[:order])[1:]  # type: ignore[operator]
        rows.append(jnp.concatenate([weights, jnp.zeros((length - order,), nodes.dtype)]))
    return rows


def equal_steps(schedule: Schedule, t: Array, t_next: Array, length: int) -> list[Array]:
    """The weights of the older predictions for 1 .. length of them at equal steps of rho, filled with zeros to [length - 1]."""
    width = relative_sigma(schedule, t_next) - relative_sigma(schedule, t)
    pad = [(*row[1:], *(0.0,) * (length - len(row))) for row in EQUAL_STEPS[:length]]
    return [width * jnp.asarray(row, width.dtype) for row in pad]


class Adams:
    """The memory of `order` predictions. For frozen dataclasses with the field `order`, from 1 to `highest`."""

    order: int
    highest: ClassVar[int]
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_order(self, self.order, self.highest)

    @property
    def convergence(self) -> int:
        """The number of predictions."""
        return self.order

    def init(self, x: Array) -> History:
        """The memory of `order` predictions."""
        return History.empty(x, self.order)
