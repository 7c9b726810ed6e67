"""SA-Solver: stochastic Adams with predictor and corrector, one evaluation a step (arXiv 2309.05019, section 5).

The reverse-SDE family with constant tau (eta elsewhere), its linear part and its noise solved exactly, x0_hat a
polynomial in lambda through the last predictions m_j with Lagrange's weights l_j:

    x' = alpha' m_0 + sigma' exp(-tau^2 h) eps_0 + sigma' sqrt(1 - exp(-2 tau^2 h)) z + sum_{j > 0} b_j (m_j - m_0),
    b_j = alpha' (1 + tau^2) int_0^h exp(-(1 + tau^2) (h - u)) l_j(lambda + u) du.

The predictor takes the past, the corrector the new prediction too, with the same noise z. tau = 0 is an exponential
Adams method for the ODE, tau = 1 solves Song's reverse SDE.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.sde import coefficients
from diffusion_jax.sampling.steps import (
    Denoise,
    History,
    change,
    check_order,
    exponential_step,
    finite,
    lagrange,
    legendre,
    level_axis,
    noise_like,
    renoised,
)
from diffusion_jax.typing import Schedule, UserError, pytree_dataclass

__all__ = ["SASolver"]

QUADRATURE = 12


@pytree_dataclass
class _State:
    """The predictions so far, the corrected state from which the last step went, and its noise."""

    history: Any
    before: Any
    noise: Any


@dataclasses.dataclass(frozen=True)
class SASolver:
    """`predictor_order` and `corrector_order` 1 to 3 count the predictions used; a corrector_order of 0 corrects nothing.

    The corrector of order p uses the new prediction and the p - 1 before it. tau >= 0.
    """

    predictor_order: int = 3
    corrector_order: int = 3
    tau: float = 1.0

    def __post_init__(self) -> None:
        check_order(self, self.predictor_order, 3)
        if self.corrector_order:
            check_order(self, self.corrector_order, 3)
        if not self.tau >= 0:
            raise UserError(f"tau {self.tau} is below 0; nearest: 0")

    @property
    def deterministic(self) -> bool:
        """At tau = 0: the ODE."""
        return self.tau == 0

    @property
    def convergence(self) -> int:
        """That of the state that the corrector leaves, or the predictor's without one; 2 at most with noise."""
        corrector, predictor = self.corrector_order, self.predictor_order
        order = min(corrector, predictor + 1) if corrector else predictor
        return min(order, 2) if self.tau else order

    def init(self, x: Array) -> _State:
        """The memory of the predictions, of the last state and of its noise."""
        length = max(self.predictor_order, self.corrector_order)
        return _State(History.empty(x, length), jnp.zeros_like(x), jnp.zeros_like(x))

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: _State
    ) -> tuple[Array, _State]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]. x is corrected before it is taken on."""
        new = denoise(x, t).x0
        history = state.history
        if self.corrector_order:
            begun = history.count > 0
            start = jnp.where(begun, history.times[0], schedule.t_max)
            pair = renoised(schedule, state.before, history.values[0], start)
            base = exponential_step(schedule, pair, start, t, self.tau, state.noise)
            better = base + self._added(schedule, history, new, start, t, base)
            x = jnp.where(begun & finite(schedule, start, t), better, x)
        history = history.spaced(new, t, level_axis(schedule, t_next))
        noise = noise_like(key, x) if self.tau else jnp.zeros_like(x)
        guess = exponential_step(schedule, renoised(schedule, x, new, t), t, t_next, self.tau, noise)
        return guess + self._added(schedule, history, None, t, t_next, guess), _State(history, x, noise)

    def _added(
        self, schedule: Schedule, history: History, new: Array | None, t: Array, t_next: Array, like: Array
    ) -> Array:
        """sum_j b_j (m_j - m_0) over the past, and with `new` over the prediction at t_next too."""
        end = change(schedule, t, t_next)
        # A step without length has no correction, and any length will do.
        end = jnp.where(end > 0, end, 0.5)
        points, weights = legendre(QUADRATURE, jnp.zeros_like(end), end)
        speed = 1.0 + self.tau**2
        kernel = speed * jnp.exp(-speed * (end - points)) * weights
        alpha, _ = coefficients(schedule, t_next, like)
        nodes, usable = history.nodes(level_axis(schedule, t_next))
        # Relative to lambda_0, where small steps are told apart better.
        nodes = nodes - nodes[0]
        highest = self.predictor_order if new is None else self.corrector_order
        past = history.differences()
        total = jnp.zeros_like(like)
        for order in range(1, highest + 1):
            count = order if new is None else order - 1
            if new is None:
                places, values = nodes[:count], list(past[: count - 1])
            elif count == 0:
                # The new prediction alone, frozen over the step.
                places, values = end[None], [new - history.values[0]]
            else:
                places = jnp.concatenate([nodes[:count], end[None]])
                values = [*past[: count - 1], new - history.values[0]]
            integrals = lagrange(places, points) @ kernel
            rows = integrals if new is not None and count == 0 else integrals[1:]
            part = sum((w * v for w, v in zip(rows, values, strict=True)), jnp.zeros_like(like))
            total = jnp.where(usable >= max(count, 1), alpha * part, total)
        return jnp.where(finite(schedule, t, t_next), total, 0.0)
