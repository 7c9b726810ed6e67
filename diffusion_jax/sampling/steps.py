"""What the solvers share: noise by example, the exponential step that all of them correct, and the memory of multi-step ones.

With lambda = log(alpha / sigma) and h = lambda_next - lambda > 0, freezing x0_hat over a step solves the semi-linear
ODE exactly (DPM-Solver++, arXiv 2211.01095, eq. 9), and the reverse-SDE family with it (SA-Solver, arXiv 2309.05019,
eq. 14, tau = eta):

    x' = alpha' x0 + sigma' exp(-eta^2 h) eps + sigma' sqrt(1 - exp(-2 eta^2 h)) z.

At eta = 0 this is alpha' x0 + sigma' eps: DDIM, DPM-Solver-1 and exponential Euler are one method. Written with the pair
it is exact and finite at both ends, at sigma' = 0 (it gives x0) and at alpha = 0 (pure noise), where lambda is not.
Every higher-order solver here is this step plus a correction by differences of predictions; the correction vanishes
where a step has no finite h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion_jax.process.prediction import FLOOR
from diffusion_jax.process.sde import coefficients, expand
from diffusion_jax.typing import Prediction, Schedule, UserError, pytree_dataclass

__all__ = [
    "Denoise",
    "History",
    "change",
    "check_order",
    "exponential_step",
    "finite",
    "half_logsnr",
    "lagrange",
    "legendre",
    "noise_like",
    "relative_sigma",
    "renoised",
]

Denoise = Callable[[Array, Array], Prediction]


def noise_like(key: Array, x: Array) -> Array:
    """Standard normal noise of the shape of x, each example from its own key: key [batch]."""
    return jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(key)


def check_order(solver: object, order: int, highest: int) -> None:
    """UserError unless `order` is a whole number from 1 to `highest`."""
    if not isinstance(order, int | np.integer) or not 1 <= order <= highest:
        near = int(min(max(order, 1), highest)) if isinstance(order, int | float) else 1
        raise UserError(f"{type(solver).__name__} has no order {order!r}: 1 to {highest}; nearest: {near}")


def half_logsnr(schedule: Schedule, t: Array) -> Array:
    """lambda = log(alpha / sigma), within [-10, 10]."""
    return 0.5 * schedule.logsnr(t)


def change(schedule: Schedule, t: Array, t_next: Array) -> Array:
    """h = lambda(t_next) - lambda(t), at least 0."""
    return jnp.maximum(half_logsnr(schedule, t_next) - half_logsnr(schedule, t), 0.0)


def relative_sigma(schedule: Schedule, t: Array) -> Array:
    """rho = sigma / alpha, EDM's sigma; alpha is kept above FLOOR."""
    return schedule.sigma(t) / jnp.maximum(schedule.alpha(t), FLOOR)


def finite(schedule: Schedule, t: Array, t_next: Array) -> Array:
    """Whether the step has a finite h: not from pure noise (alpha = 0), and not to clean data (sigma = 0)."""
    return (schedule.alpha(t) > FLOOR) & (schedule.sigma(t_next) > 0)


def exponential_step(
    schedule: Schedule, pair: Prediction, t: Array, t_next: Array, eta: float = 0.0, noise: Array | None = None
) -> Array:
    """x at t_next from the pair at t, of the shape of pair.x0; `noise` is the standard normal z, needed where eta > 0."""
    alpha, sigma = coefficients(schedule, t_next, pair.x0)
    if eta == 0.0:
        return alpha * pair.x0 + sigma * pair.eps
    assert noise is not None
    h = expand(change(schedule, t, t_next), pair.x0)
    kept, drawn = jnp.exp(-(eta**2) * h), jnp.sqrt(-jnp.expm1(-2.0 * eta**2 * h))
    return alpha * pair.x0 + sigma * (kept * pair.eps + drawn * noise)


def renoised(schedule: Schedule, x: Array, x0: Array, t: Array) -> Prediction:
    """The pair of x at t and a clean x0 that need not be the denoiser's at x; sigma(t) > 0."""
    alpha, sigma = coefficients(schedule, t, x)
    return Prediction(x0, (x - alpha * x0) / sigma)


@pytree_dataclass
class History:
    """The last predictions of a multi-step solver, the newest first, and the times at which they were made.

    `count` (int32) says how many there are; the others are zeros. `values` is a tuple of arrays like x, `times` [k].
    """

    count: Any
    values: Any
    times: Any

    @classmethod
    def empty(cls, x: Array, length: int) -> History:
        """No prediction yet, room for `length`."""
        return cls(jnp.int32(0), (jnp.zeros_like(x),) * length, jnp.zeros((length,), x.dtype))

    def pushed(self, value: Array, t: Array) -> History:
        """With `value` at t as the newest."""
        length = len(self.values)
        times = jnp.concatenate([jnp.asarray(t, self.times.dtype)[None], self.times[:-1]])
        return History(jnp.minimum(self.count + 1, length), (value, *self.values[:-1]), times)

    def nodes(self, place: Callable[[Array], Array], at_next: Array) -> Array:
        """place(times) [k] for those that are there. The rest get places beyond the oldest, apart from one another.

        So no weight divides by 0 in a branch that is not taken. `at_next` is the place of the step's end.
        """
        known = place(jnp.where(self.times > 0, self.times, self.times[0]))
        index = jnp.arange(len(self.values), dtype=known.dtype)
        oldest = known[jnp.maximum(self.count - 1, 0)]
        away = jnp.where(known[0] >= at_next, 1.0, -1.0)
        missing = index - self.count.astype(known.dtype) + 1.0
        return jnp.where(missing <= 0, known, oldest + away * missing)

    def differences(self) -> tuple[Array, ...]:
        """What each older prediction differs by from the newest, the second newest first."""
        return tuple(value - self.values[0] for value in self.values[1:])


def lagrange(nodes: Array, points: Array) -> Array:
    """Lagrange's polynomials through `nodes` [k] at `points` [q]: [k, q]."""
    rows = []
    for j in range(nodes.shape[0]):
        row = jnp.ones_like(points)
        for m in range(nodes.shape[0]):
            if m != j:
                row = row * (points - nodes[m]) / (nodes[j] - nodes[m])
        rows.append(row)
    return jnp.stack(rows)


def legendre(count: int, start: Array, end: Array) -> tuple[Array, Array]:
    """Points and weights [count] of Gauss-Legendre's quadrature from start to end, exact up to degree 2 count - 1."""
    points, weights = np.polynomial.legendre.leggauss(count)
    middle, half = 0.5 * (start + end), 0.5 * (end - start)
    return middle + half * jnp.asarray(points, half.dtype), half * jnp.asarray(weights, half.dtype)
