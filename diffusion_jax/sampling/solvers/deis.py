"""Multi-step solvers that extrapolate eps: one evaluation a step, and a memory of the last ones.

In x / alpha and rho = sigma / alpha the probability-flow ODE is d(x / alpha) = eps drho. A polynomial through the last
predictions eps_j, with Lagrange's weights l_j of any variable u, integrates to

    x' = alpha' x0 + sigma' eps_0 + alpha' sum_{j > 0} (eps_j - eps_0) int l_j(u(rho)) drho,

since the weights sum to 1. The solvers differ by the variable:

- **DEIS** (arXiv 2204.13902): "t", the paper's tAB, or "logrho". `order` counts the predictions (the paper's tAB2 is
  order 3 here).
- **LMS**: rho itself, Adams-Bashforth in EDM's sigma (k-diffusion's `lms`); exact at a last step to rho = 0.
- **IPNDM** (arXiv 2204.13902, section 4): the coefficients of equal steps, whatever the grid; second order on smooth
  grids, as its first steps are of lower order and its weights do not know the spacing.
- **PNDM** (arXiv 2202.09778): the same coefficients for 4 predictions, after a start of three Runge-Kutta steps of four
  evaluations each ("prk"), or after one step of two evaluations ("plms", as Stable Diffusion is often run).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.prediction import FLOOR
from diffusion_jax.process.sde import coefficients
from diffusion_jax.sampling.steps import (
    Axis,
    Denoise,
    History,
    change,
    check_order,
    exponential_step,
    finite,
    half_logsnr,
    lagrange,
    legendre,
    level_axis,
    relative_sigma,
)
from diffusion_jax.typing import Prediction, Schedule, one_of

__all__ = ["DEIS", "IPNDM", "LMS", "PNDM"]

QUADRATURE = 16
"""Points for polynomials times an exponential: exact to rounding for steps of logsnr up to 10."""

EQUAL_STEPS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth for 1 to 4 predictions at equal steps, the newest first."""


def _corrected(
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


def _by_order(nodes: Array, integrate: object, length: int) -> list[Array]:
    """For 1 .. length predictions, the weights of the older ones, filled with zeros to [length - 1]."""
    rows = []
    for order in range(1, length + 1):
        weights = integrate(nodes[:order])[1:]  # type: ignore[operator]
        rows.append(jnp.concatenate([weights, jnp.zeros((length - order,), nodes.dtype)]))
    return rows


@dataclasses.dataclass(frozen=True)
class DEIS:
    """Order 1 to 3, one evaluation a step; `variable` is "t" or "logrho". A last step to sigma = 0 is of first order."""

    order: int = 3
    variable: str = "t"

    def __post_init__(self) -> None:
        check_order(self, self.order, 3)
        one_of("variable", self.variable, ("t", "logrho"))

    def init(self, x: Array) -> History:
        """The memory of `order` predictions."""
        return History.empty(x, self.order)

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: History
    ) -> tuple[Array, History]:
        """x [batch, ...] at t -> x at t_next < t; draws nothing."""
        pair = denoise(x, t)
        axis = level_axis(schedule, t_next) if self.variable == "logrho" else Axis(lambda times: times, t_next)
        state = state.spaced(pair.eps, t, axis)
        nodes, usable = state.nodes(axis)
        level, h = half_logsnr(schedule, t), change(schedule, t, t_next)
        # Relative to lambda(t), where small steps are told apart better.
        points, weights = legendre(QUADRATURE, jnp.zeros_like(h), h)
        weights = -jnp.exp(-level) * jnp.exp(-points) * weights  # drho = -exp(-lambda) dlambda
        if self.variable == "t":
            points = jnp.clip(schedule.t_from_logsnr(2.0 * (level + points)).astype(t.dtype), t_next, t)
        else:
            nodes = nodes - level
        weights = jnp.where(finite(schedule, t, t_next), weights, 0.0)
        rows = _by_order(nodes, lambda nodes: lagrange(nodes, points) @ weights, self.order)
        return _corrected(schedule, pair, state, t, t_next, rows, usable), state


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


def _equal(schedule: Schedule, t: Array, t_next: Array, length: int) -> list[Array]:
    width = relative_sigma(schedule, t_next) - relative_sigma(schedule, t)
    pad = [(*row[1:], *(0.0,) * (length - len(row))) for row in EQUAL_STEPS[:length]]
    return [width * jnp.asarray(row, width.dtype) for row in pad]


@dataclasses.dataclass(frozen=True)
class IPNDM:
    """Order 1 to 4 in name (the number of predictions), one evaluation a step."""

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
        state = state.pushed(pair.eps, t)
        weights = _equal(schedule, t, t_next, self.order)
        return _corrected(schedule, pair, state, t, t_next, weights, state.count), state


@dataclasses.dataclass(frozen=True)
class PNDM:
    """Four predictions; `start` is "prk" (three steps of four evaluations) or "plms" (a first step of two)."""

    start: str = "prk"

    def __post_init__(self) -> None:
        one_of("start", self.start, ("prk", "plms"))

    def init(self, x: Array) -> History:
        """The memory of 4 predictions."""
        return History.empty(x, 4)

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: History
    ) -> tuple[Array, History]:
        """x [batch, ...] at t -> x at t_next < t; draws nothing.

        A step from alpha = 0 or to sigma = 0 is not begun by Runge-Kutta.
        """
        pair = denoise(x, t)
        state = state.pushed(pair.eps, t)
        starting = state.count < 4 if self.start == "prk" else state.count < 2

        def first(pair: Prediction) -> Array:
            if self.start == "plms":
                guess = exponential_step(schedule, pair, t, t_next)
                mean = 0.5 * (pair.eps + denoise(guess, t_next).eps)
                return _moved(schedule, x, mean, pair, t, t_next)
            middle = 0.5 * (t + t_next)
            at = exponential_step(schedule, pair, t, middle)
            second = denoise(at, middle).eps
            third = denoise(_moved(schedule, x, second, pair, t, middle), middle).eps
            fourth = denoise(_moved(schedule, x, third, pair, t, t_next), t_next).eps
            return _moved(schedule, x, (pair.eps + 2 * second + 2 * third + fourth) / 6, pair, t, t_next)

        def later(pair: Prediction) -> Array:
            return _corrected(schedule, pair, state, t, t_next, _equal(schedule, t, t_next, 4), state.count)

        return jax.lax.cond(starting & finite(schedule, t, t_next), first, later, pair), state

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """How often the denoiser is called over the grid."""
        steps, extra = (3, 3) if self.start == "prk" else (1, 1)
        ends = ts[:-1][:steps], ts[1:][:steps]
        begun = jnp.sum(jax.vmap(lambda t, s: finite(schedule, t, s))(*ends), dtype=jnp.int32)
        return len(ts) - 1 + extra * begun


def _moved(schedule: Schedule, x: Array, eps: Array, pair: Prediction, t: Array, t_next: Array) -> Array:
    """x at t taken to t_next along `eps` instead of the pair's: (x - sigma eps) / alpha is its clean end.

    Written as the pair's own step plus the difference, which is finite also where alpha is 0.
    """
    width = relative_sigma(schedule, t_next) - relative_sigma(schedule, t)
    alpha, _ = coefficients(schedule, t_next, x)
    return exponential_step(schedule, pair, t, t_next) + alpha * width * (eps - pair.eps)
