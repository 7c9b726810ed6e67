"""DPM-Solver (arXiv 2206.00927, algorithms 1 and 2): exact for the linear part of the ODE, eps_hat expanded in lambda.

With lambda = log(alpha / sigma) and h the step in lambda, a single step of `order` evaluates at lambda and lambda + h / 2
(order 2), or at lambda, lambda + h / 3 and lambda + 2 h / 3 (order 3). Multi-step it takes the derivatives D_k of eps in lambda
from the last predictions instead, with one evaluation a step and phi_k those of `steps.phis`:

    x' = alpha' x0 + sigma' eps - sigma' h (phi_2(h) h D_1 + phi_3(h) h^2 D_2 ..).

At order 2, "midpoint" has phi_1(h) / 2 in the place of phi_2(h), as the single step has, which changes nothing of the order.

Steps from pure noise (alpha = 0) and to clean data (sigma = 0) have no finite h: they are of first order, by one
evaluation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.sde import coefficients, expand
from diffusion_jax.sampling.solvers.ending import Ending
from diffusion_jax.sampling.steps import (
    Denoise,
    History,
    change,
    check_order,
    exponential_step,
    finite,
    inside,
    level_axis,
    phis,
)
from diffusion_jax.typing import Schedule, one_of

__all__ = ["VARIANTS", "DPMSolver", "exact_curvature", "from_the_past", "single_evaluations"]

VARIANTS = ("midpoint", "heun")


def exact_curvature(reach: Array, phi_2: Array, phi_3: Array) -> Array:
    """What multiplies the second divided difference of the predictions, half a second derivative, at order 3."""
    # Several published codes leave out the 2, and with it the third order.
    return 2.0 * reach * phi_3


def from_the_past(
    state: History,
    schedule: Schedule,
    t: Array,
    t_next: Array,
    speed: float,
    highest: Array,
    variant: str,
    curvature: Callable[[Array, Array, Array], Array] = exact_curvature,
) -> Array:
    """|z| (phi_2(z) h D_1 + phi_3(z) h^2 D_2 ..), z = speed h, from predictions at distances in lambda: of the shape of x.

    `highest` bounds the order; see the module for `variant`.
    """
    h = change(schedule, t, t_next)
    # A step without length has no correction, and any length will do.
    h = jnp.where(h > 0, h, 1.0)
    nodes, usable = state.nodes(level_axis(schedule, t_next))
    usable = jnp.minimum(usable, highest)
    z = speed * h
    reach = jnp.abs(z)
    newest, *older = state.values
    if not older:
        return jnp.zeros_like(newest)
    phi_1, phi_2, phi_3 = phis(z, 3)
    slope = (newest - older[0]) / ((nodes[0] - nodes[1]) / h)
    second = (0.5 * reach * phi_1 if variant == "midpoint" else reach * phi_2) * slope
    if len(older) == 1:
        return jnp.where(usable > 1, second, 0.0)
    r0, r1 = (nodes[0] - nodes[1]) / h, (nodes[1] - nodes[2]) / h
    before = (older[0] - older[1]) / r1
    first_derivative = slope + r0 / (r0 + r1) * (slope - before)
    third = reach * phi_2 * first_derivative + curvature(reach, phi_2, phi_3) * ((slope - before) / (r0 + r1))
    return jnp.where(usable > 2, third, jnp.where(usable > 1, second, 0.0))


def single_evaluations(order: int, schedule: Schedule, ts: Array) -> Array:
    """Those of single steps: `order` a step, one in a step from pure noise or to clean data."""
    whole = jnp.sum(jax.vmap(lambda t, s: finite(schedule, t, s))(ts[:-1], ts[1:]), dtype=jnp.int32)
    return len(ts) - 1 + (order - 1) * whole


@dataclasses.dataclass(frozen=True)
class DPMSolver(Ending):
    """Order 1, 2 or 3 for the ODE in eps: single steps with as many evaluations, or `multistep` with one a step.

    `variant` is "midpoint" or "heun", of multi-step order 2; `final_orders` lowers the last multi-steps' order, see `ending`.
    """

    order: int = 3
    multistep: bool = False
    variant: str = "midpoint"
    final_orders: tuple[int, ...] = ()
    num_steps: int | None = None
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_order(self, self.order, 3)
        one_of("variant", self.variant, VARIANTS)
        self._check_ending()

    def init(self, x: Array) -> Any:
        """The memory of `order` predictions, when it is multi-step."""
        return History.empty(x, self.order) if self.multistep else ()

    @property
    def convergence(self) -> int:
        """The order."""
        return self.order

    def _curvature(self, reach: Array, phi_2: Array, phi_3: Array) -> Array:
        return exact_curvature(reach, phi_2, phi_3)

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; draws nothing."""
        first = denoise(x, t)
        base = exponential_step(schedule, first, t, t_next)
        if self.multistep:
            state = state.spaced(first.eps, t, level_axis(schedule, t_next))
            highest = self._highest(state.made)
            added = from_the_past(state, schedule, t, t_next, 1.0, highest, self.variant, self._curvature)
            _, sigma = coefficients(schedule, t_next, x)
            return base - jnp.where(finite(schedule, t, t_next), sigma * added, 0.0), state
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
        """One a step when multi-step; else `order`, and one in a step from pure noise or to clean data."""
        if self.multistep:
            return jnp.int32(len(ts) - 1)
        return single_evaluations(self.order, schedule, ts)
