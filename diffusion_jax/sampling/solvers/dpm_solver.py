"""DPM-Solver (arXiv 2206.00927, algorithms 1 and 2): exact for the linear part of the ODE, eps_hat expanded in lambda.

With lambda = log(alpha / sigma) and h the step in lambda, a single step of `order` evaluates at lambda and lambda + h / 2
(order 2), or at lambda, lambda + h / 3 and lambda + 2 h / 3 (order 3).

Steps from pure noise (alpha = 0) and to clean data (sigma = 0) have no finite h: they are of first order, by one
evaluation.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.sde import coefficients, expand
from diffusion_jax.sampling.steps import (
    Denoise,
    Stateless,
    change,
    check_order,
    exponential_step,
    finite,
    inside,
    phis,
)
from diffusion_jax.typing import Schedule

__all__ = ["DPMSolver", "single_evaluations"]


def single_evaluations(order: int, schedule: Schedule, ts: Array) -> Array:
    """Those of single steps: `order` a step, one in a step from pure noise or to clean data."""
    whole = jnp.sum(jax.vmap(lambda t, s: finite(schedule, t, s))(ts[:-1], ts[1:]), dtype=jnp.int32)
    return len(ts) - 1 + (order - 1) * whole


@dataclasses.dataclass(frozen=True)
class DPMSolver(Stateless):
    """Single steps of order 1, 2 or 3 with as many evaluations, for the ODE in eps."""

    order: int = 3
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_order(self, self.order, 3)

    @property
    def convergence(self) -> int:
        """The order."""
        return self.order

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; draws nothing."""
        first = denoise(x, t)
        base = exponential_step(schedule, first, t, t_next)
        if self.order == 1:
            return base, state
        h = change(schedule, t, t_next)
        _, sigma = coefficients(schedule, t_next, x)
        growth = expand(jnp.expm1(h), x)

        def second_order(base: Array) -> Array:
            s = inside(schedule, t, h, 0.5, t_next)
            middle = denoise(exponential_step(schedule, first, t, s), s)
            return base - sigma * growth * (middle.eps - first.eps)

        def third_order(base: Array) -> Array:
            early, late = (inside(schedule, t, h, share, t_next) for share in (1 / 3, 2 / 3))
            second = denoise(exponential_step(schedule, first, t, early), early)
            _, sigma_late = coefficients(schedule, late, x)
            reach = 2 * h / 3
            bend = 2.0 * sigma_late * expand(reach * phis(reach, 2)[1], x) * (second.eps - first.eps)
            third = denoise(exponential_step(schedule, first, t, late) - bend, late)
            return base - 1.5 * sigma * expand(h * phis(h, 2)[1], x) * (third.eps - first.eps)

        higher = second_order if self.order == 2 else third_order
        return jax.lax.cond(finite(schedule, t, t_next), higher, lambda base: base, base), state

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """`order` a step, one in a step from pure noise or to clean data."""
        return single_evaluations(self.order, schedule, ts)
