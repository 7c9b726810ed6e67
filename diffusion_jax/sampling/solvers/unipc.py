"""UniPC: a predictor and a corrector of one form, one evaluation a step (arXiv 2302.04867, algorithms 5 and 6, in x0).

The step from lambda_0 to lambda_0 + h with derivatives D_i = (m_i - m_0) / r_i, m the predictions of x0 at lambda_0 +
r_i h, adds to the exponential step

    alpha' B sum_i rho_i D_i,     sum_i rho_i r_i^(k - 1) = k! phi_(k + 1)(-h) h / B for k = 1 .. p,

B = h ("bh1") or 1 - exp(-h) ("bh2"), phi_k those of `steps.phis`. The predictor
uses the past alone; the corrector also the new prediction (r = 1), which the next step needs anyway: each step first
corrects the state that it was given, then predicts. So the last state is a prediction, of order p, while those before
have order p + 1.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.sde import coefficients
from diffusion_jax.sampling.solvers.ending import Ending
from diffusion_jax.sampling.steps import (
    Denoise,
    History,
    change,
    check_order,
    exponential_step,
    finite,
    level_axis,
    phis,
    renoised,
)
from diffusion_jax.typing import Schedule, one_of, pytree_dataclass

__all__ = ["UniPC"]


@pytree_dataclass
class _State:
    """The predictions so far, and the corrected state from which the last step went."""

    history: Any
    before: Any


def _moments(nodes: list[Array], moments: list[Array]) -> list[Array]:
    """Weights rho with sum_j rho_j nodes_j^k = moments_k for k = 0 .. p - 1: Lagrange's polynomials under the functional."""
    if len(nodes) == 1:
        return [moments[0]]
    if len(nodes) == 2:
        a, b = nodes
        return [(moments[1] - b * moments[0]) / (a - b), (moments[1] - a * moments[0]) / (b - a)]
    weights = []
    for j, node in enumerate(nodes):
        a, b = (other for m, other in enumerate(nodes) if m != j)
        weights.append((moments[2] - (a + b) * moments[1] + a * b * moments[0]) / ((node - a) * (node - b)))
    return weights


@dataclasses.dataclass(frozen=True)
class UniPC(Ending):
    """Order 1 to 3, one evaluation a step; `variant` is "bh1" or "bh2". A last step to sigma = 0 is of first order.

    `final_orders` lowers the last steps' order, see `ending`.
    """

    order: int = 3
    variant: str = "bh2"
    final_orders: tuple[int, ...] = ()
    num_steps: int | None = None
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_order(self, self.order, 3)
        one_of("variant", self.variant, ("bh1", "bh2"))
        self._check_ending()

    @property
    def convergence(self) -> int:
        """The order."""
        return self.order

    def init(self, x: Array) -> _State:
        """The memory of `order` predictions and of the last state."""
        return _State(History.empty(x, self.order), jnp.zeros_like(x))

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: _State
    ) -> tuple[Array, _State]:
        """x [batch, ...] at t -> x at t_next < t; draws nothing. x is corrected before it is taken on."""
        new = denoise(x, t).x0
        x = self._corrected(schedule, state, x, new, t)
        history = state.history.spaced(new, t, level_axis(schedule, t_next))
        guess = exponential_step(schedule, renoised(schedule, x, new, t), t, t_next)
        added = self._added(schedule, history, None, t, t_next, guess)
        return guess + added, _State(history, x)

    def _corrected(self, schedule: Schedule, state: _State, x: Array, new: Array, t: Array) -> Array:
        """x, predicted for t from `state.before`, with the prediction made there."""
        history = state.history
        start = jnp.where(history.count > 0, history.times[0], schedule.t_max)
        base = exponential_step(schedule, renoised(schedule, state.before, history.values[0], start), start, t)
        better = base + self._added(schedule, history, new, start, t, base)
        return jnp.where((history.count > 0) & finite(schedule, start, t), better, x)

    def _added(
        self, schedule: Schedule, history: History, new: Array | None, t: Array, t_next: Array, like: Array
    ) -> Array:
        """What is added to the exponential step t -> t_next: the predictor's part, or with `new` the corrector's."""
        h = change(schedule, t, t_next)
        # A step without length has no correction, and any length will do.
        h = jnp.where(h > 0, h, 1.0)
        alpha, _ = coefficients(schedule, t_next, like)
        scale = h if self.variant == "bh1" else -jnp.expm1(-h)
        nodes, usable = history.nodes(level_axis(schedule, t_next))
        # The corrector is of the order of the step that it corrects.
        usable = jnp.minimum(usable, self._highest(history.made))
        ratios = [(node - nodes[0]) / h for node in nodes[1:]]
        slopes = [d / r for d, r in zip(history.differences(), ratios, strict=True)]
        total = jnp.zeros_like(like)
        for order in range(1, self.order + 1):
            places, values = ratios[: order - 1], slopes[: order - 1]
            if new is not None:
                places, values = [*places, jnp.ones_like(h)], [*values, new - history.values[0]]
            if not places:
                continue
            weights = self._weights(places, h, scale, corrector=new is not None)
            part = alpha * scale * sum(w * v for w, v in zip(weights, values, strict=True))
            total = jnp.where(usable >= order, part, total)
        return jnp.where(finite(schedule, t, t_next), total, 0.0)

    def _weights(self, places: list[Array], h: Array, scale: Array, corrector: bool) -> list[Array]:
        # With one place the published weight is 1/2, which has the same order and no cancellation.
        if len(places) == 1:
            return [jnp.full_like(h, 0.5)]
        _, *phi = phis(-h, len(places) + 1)
        moments = [math.factorial(k) * value * h / scale for k, value in enumerate(phi, 1)]
        return _moments(places, moments)
