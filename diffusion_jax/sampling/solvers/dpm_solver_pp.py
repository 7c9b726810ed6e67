"""DPM-Solver++ (arXiv 2211.01095): exact for the linear part of the ODE, Taylor expansions of x0_hat in lambda for the rest.

x0_hat stays bounded under thresholds and guidance, which eps_hat of `dpm_solver` does not. Multi-step (2M, 3M) takes the
derivatives from the last predictions; single steps (2S, 3S) evaluate within the step. With `sde` it solves the reverse SDE
with the same expansions (section 4.4 there; arXiv 2305.14267 for order 3); the noise of a single step's stage and of its end
are of one Brownian path.

Steps from pure noise (alpha = 0) and to clean data (sigma = 0) have no finite h: they are of first order, by one
evaluation.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.sde import coefficients, expand
from diffusion_jax.sampling.solvers.dpm_solver import VARIANTS, exact_curvature, from_the_past, single_evaluations
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
    noise_like,
    phis,
)
from diffusion_jax.typing import Prediction, Schedule, UserError, one_of

__all__ = ["DPMSolverPP"]


@dataclasses.dataclass(frozen=True)
class DPMSolverPP(Ending):
    """Order 1 to 3 in x0; `multistep` takes one evaluation a step, else `order`; `sde` solves the reverse SDE.

    `variant` is "midpoint" or "heun", of multi-step order 2, see `dpm_solver`; `final_orders` lowers the order of the last
    multi-steps, see `ending`.
    """

    order: int = 2
    multistep: bool = True
    sde: bool = False
    variant: str = "midpoint"
    final_orders: tuple[int, ...] = ()
    num_steps: int | None = None

    def __post_init__(self) -> None:
        check_order(self, self.order, 3)
        one_of("variant", self.variant, VARIANTS)
        self._check_ending()
        if self.sde and not self.multistep and self.order == 3:
            raise UserError("DPMSolverPP has no single-step SDE form of order 3; nearest: order 2, or multistep=True")

    @property
    def deterministic(self) -> bool:
        """Without `sde`."""
        return not self.sde

    @property
    def convergence(self) -> int:
        """The order; 2 at most with `sde`, as differences of predictions along a path with noise are rough."""
        return min(self.order, 2) if self.sde else self.order

    def init(self, x: Array) -> Any:
        """The memory of `order` predictions, when it is multi-step."""
        return History.empty(x, self.order) if self.multistep else ()

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch], used with `sde`."""
        eta = 1.0 if self.sde else 0.0
        pair = denoise(x, t)
        if self.multistep:
            noise = noise_like(key, x) if self.sde else None
            base = exponential_step(schedule, pair, t, t_next, eta, noise)
            state = state.spaced(pair.x0, t, level_axis(schedule, t_next))
            if self.order == 1:
                return base, state
            highest = self._highest(state.made)
            added = from_the_past(state, schedule, t, t_next, -self._speed(), highest, self.variant, self._curvature)
            alpha, _ = coefficients(schedule, t_next, x)
            return base + jnp.where(finite(schedule, t, t_next), alpha * added, 0.0), state
        if self.order == 1:
            noise = noise_like(key, x) if self.sde else None
            return exponential_step(schedule, pair, t, t_next, eta, noise), state
        return self._single_step(denoise, schedule, pair, x, t, t_next, key), state

    def _speed(self) -> float:
        """1 + eta^2: the exponent of h in all coefficients of x0."""
        return 2.0 if self.sde else 1.0

    def _curvature(self, reach: Array, phi_2: Array, phi_3: Array) -> Array:
        return exact_curvature(reach, phi_2, phi_3)

    def _single_step(
        self, denoise: Denoise, schedule: Schedule, first: Prediction, x: Array, t: Array, t_next: Array, key: Array
    ) -> Array:
        h = change(schedule, t, t_next)
        alpha, _ = coefficients(schedule, t_next, x)
        if self.order == 3:
            return self._third(denoise, schedule, first, x, t, t_next)
        eta = 1.0 if self.sde else 0.0
        s = inside(schedule, t, h, 0.5, t_next)
        if self.sde:
            halves = jax.vmap(jax.random.split, out_axes=1)(key)
            early, late = noise_like(halves[0], x), noise_like(halves[1], x)
            noise = _joined(schedule, early, late, t, s, t_next)
        else:
            early = noise = None  # type: ignore[assignment]
        base = exponential_step(schedule, first, t, t_next, eta, noise)

        def corrected(base: Array) -> Array:
            middle = denoise(exponential_step(schedule, first, t, s, eta, early), s)
            return base - alpha * expand(jnp.expm1(-self._speed() * h), x) * (middle.x0 - first.x0)

        return jax.lax.cond(finite(schedule, t, t_next), corrected, lambda base: base, base)

    def _third(
        self, denoise: Denoise, schedule: Schedule, first: Prediction, x: Array, t: Array, t_next: Array
    ) -> Array:
        h = change(schedule, t, t_next)
        alpha, _ = coefficients(schedule, t_next, x)

        def corrected(base: Array) -> Array:
            early, late = (inside(schedule, t, h, share, t_next) for share in (1 / 3, 2 / 3))
            second = denoise(exponential_step(schedule, first, t, early), early)
            alpha_late, _ = coefficients(schedule, late, x)
            reach = 2 * h / 3
            bend = 2.0 * alpha_late * expand(reach * phis(-reach, 2)[1], x) * (second.x0 - first.x0)
            third = denoise(exponential_step(schedule, first, t, late) + bend, late)
            return base + 1.5 * alpha * expand(h * phis(-h, 2)[1], x) * (third.x0 - first.x0)

        base = exponential_step(schedule, first, t, t_next)
        return jax.lax.cond(finite(schedule, t, t_next), corrected, lambda base: base, base)

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """One a step when multi-step; else `order`, and one in a step from pure noise or to clean data."""
        if self.multistep:
            return jnp.int32(len(ts) - 1)
        return single_evaluations(self.order, schedule, ts)


def _joined(schedule: Schedule, early: Array, late: Array, t: Array, s: Array, t_next: Array) -> Array:
    """The standard normal noise of the step t -> t_next whose halves t -> s and s -> t_next have `early` and `late`.

    The noise of the first half decays by exp(-h2) relative to sigma; the squares of the weights sum to 1.
    """
    h1, h2 = (expand(change(schedule, a, b), early) for a, b in ((t, s), (s, t_next)))
    whole = jnp.maximum(-jnp.expm1(-2.0 * (h1 + h2)), 1e-30)
    return (jnp.exp(-h2) * jnp.sqrt(-jnp.expm1(-2.0 * h1)) * early + jnp.sqrt(-jnp.expm1(-2.0 * h2)) * late) / jnp.sqrt(
        whole
    )
