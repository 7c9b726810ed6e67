"""What the solvers share: noise by example, the exponential step that all of them correct, and the memory of multi-step ones.

With lambda = log(alpha / sigma) and h = lambda_next - lambda > 0, freezing x0_hat over a step solves the semi-linear
ODE exactly (DPM-Solver++, arXiv 2211.01095, eq. 9), and the reverse-SDE family with it (SA-Solver, arXiv 2309.05019,
eq. 14, tau = eta):

    x' = alpha' x0 + sigma' exp(-eta^2 h) eps + sigma' sqrt(1 - exp(-2 eta^2 h)) z.

At eta = 0 this is alpha' x0 + sigma' eps: DDIM, DPM-Solver-1 and exponential Euler are one method. Written with the pair
it is exact and finite at both ends, at sigma' = 0 (it gives x0) and at alpha = 0 (pure noise), where lambda is not.
Every higher-order solver here is this step plus a correction by differences of predictions; the correction vanishes
where a step has no finite h.

Its coefficients have limits as h goes to 0, and as one node of a polynomial comes near another; in floats the formulas
of print have 0 / 0 there, and before it differences of near numbers, divided by h^2. Here they are made once for all:

- `phis` are the functions phi_k(z) = int_0^1 exp((1 - s) z) s^(k - 1) / (k - 1)! ds by their series near 0, so that a
  correction falls as h to its power, down to h = 0, where logsnr is clipped and two times have one lambda;
- `History.nodes` says how many of the last predictions lie apart. A divided difference of two predictions at a distance
  d magnifies their rounding by h / d over a step h, and tells nothing that the newest does not: those nearer than
  h CLOSEST give way to the newest (`History.spaced`), and where two older ones are so near, the step is of a lower order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion_jax.process.prediction import FLOOR
from diffusion_jax.process.sde import coefficients, expand
from diffusion_jax.typing import Prediction, Schedule, UserError, pytree_dataclass

__all__ = [
    "Axis",
    "Denoise",
    "History",
    "Stateless",
    "change",
    "check_order",
    "exponential_step",
    "finite",
    "half_logsnr",
    "inside",
    "lagrange",
    "legendre",
    "level_axis",
    "noise_like",
    "phis",
    "relative_sigma",
    "renoise",
    "renoised",
    "time_at",
]

Denoise = Callable[[Array, Array], Prediction]

CLOSEST = 1 / 16
"""The least distance of two predictions that a polynomial goes through, in steps. The steps of published grids are within
a factor of 3 of each other, but for the last; in bfloat16, a distance of 1 / 16 makes of a rounding of 2^-8 one of 1 / 16."""

LEAST = 1e-30
"""A sigma by which a state may be divided."""

SERIES = 18
"""Terms of phi_k's series: exact to float64 for |z| < 1."""


def noise_like(key: Array, x: Array) -> Array:
    """Standard normal noise of the shape of x, each example from its own key: key [batch].

    Noise itself, floats of the shape of x, may stand in the place of the keys (`sampling.given`), and is returned.
    """
    if jnp.issubdtype(key.dtype, jnp.floating):
        return key
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


def time_at(schedule: Schedule, rho: Array) -> Array:
    """The time whose sigma / alpha is rho > 0."""
    return schedule.t_from_logsnr(-2.0 * jnp.log(rho))


def finite(schedule: Schedule, t: Array, t_next: Array) -> Array:
    """Whether the step has a finite h above 0.

    Not from pure noise (alpha = 0), not to clean data (sigma = 0), and not between times of one lambda, as where logsnr is
    clipped.
    """
    ends = (schedule.alpha(t) > FLOOR) & (schedule.sigma(t_next) > 0)
    return ends & (half_logsnr(schedule, t_next) > half_logsnr(schedule, t))


class Axis(NamedTuple):
    """The variable of a polynomial through predictions: its value at times [k], where the step ends, and its unit.

    Its rounding is that of the larger of its value and the unit: 1 for a logarithm, 0 for what is exact relative to itself.
    """

    place: Callable[[Array], Array]
    end: Array
    unit: float = 0.0


def level_axis(schedule: Schedule, t_next: Array) -> Axis:
    """lambda, in a step to t_next."""
    return Axis(lambda times: half_logsnr(schedule, times), half_logsnr(schedule, t_next), 1.0)


def inside(schedule: Schedule, t: Array, h: Array, share: float, t_next: Array) -> Array:
    """The time at lambda(t) + share h, between t and t_next also where rounding or the clip of logsnr has it outside."""
    s = schedule.t_from_logsnr(2.0 * (half_logsnr(schedule, t) + share * h))
    return jnp.clip(s.astype(t.dtype), t_next, t)


def phis(z: Array, count: int) -> list[Array]:
    """[phi_1(z), .. phi_count(z)], phi_1(z) = (exp(z) - 1) / z and phi_(k + 1) = (phi_k - 1 / k!) / z, for any z."""
    small = jnp.abs(z) < 1.0
    near, far = jnp.where(small, z, 0.0), jnp.where(small, 1.0, z)
    series = jnp.zeros_like(z)
    for j in reversed(range(SERIES)):
        series = series * near + 1.0 / math.factorial(j + count)
    # Upwards each function loses digits to a difference and a division; downwards none.
    below, above = [series], [jnp.expm1(far) / far]
    for k in range(1, count):
        below.insert(0, near * below[0] + 1.0 / math.factorial(count - k))
        above.append((above[-1] - 1.0 / math.factorial(k)) / far)
    return [jnp.where(small, a, b) for a, b in zip(below, above, strict=True)]


def exponential_step(
    schedule: Schedule, pair: Prediction, t: Array, t_next: Array, eta: float = 0.0, noise: Array | None = None
) -> Array:
    """x at t_next from the pair at t, of the shape of pair.x0; `noise` is the standard normal z, needed where eta > 0."""
    alpha, sigma = coefficients(schedule, t_next, pair.x0)
    if eta == 0.0:
        return alpha * pair.x0 + sigma * pair.eps
    assert noise is not None
    h = change(schedule, t, t_next)
    # From pure noise h has no bound, though logsnr is clipped: nothing of eps is kept.
    h = expand(jnp.where(schedule.alpha(t) > FLOOR, h, jnp.inf), pair.x0)
    kept, drawn = jnp.exp(-(eta**2) * h), jnp.sqrt(-jnp.expm1(-2.0 * eta**2 * h))
    return alpha * pair.x0 + sigma * (kept * pair.eps + drawn * noise)


def renoise(schedule: Schedule, x: Array, t: Array, later: Array, noise: Array) -> Array:
    """x [batch, ...] at t taken up to the time `later` >= t by standard normal `noise`: the forward process's transition.

    Finite where alpha(later) = 0, which is noise alone.
    """
    alpha, sigma = coefficients(schedule, t, x)
    alpha_later, sigma_later = coefficients(schedule, later, x)
    shrink = alpha_later / jnp.maximum(alpha, FLOOR)
    return shrink * x + jnp.sqrt(jnp.maximum(sigma_later**2 - (shrink * sigma) ** 2, 0.0)) * noise


def renoised(schedule: Schedule, x: Array, x0: Array, t: Array) -> Prediction:
    """The pair of x at t and a clean x0 that need not be the denoiser's at x; sigma(t) > 0."""
    alpha, sigma = coefficients(schedule, t, x)
    return Prediction(x0, (x - alpha * x0) / jnp.maximum(sigma, LEAST))


class Stateless:
    """A solver that remembers nothing from step to step."""

    def init(self, x: Array) -> Any:
        """No state."""
        return ()


@pytree_dataclass
class History:
    """The last predictions of a multi-step solver, the newest first, and the times at which they were made.

    `count` (int32) says how many there are; the others are zeros. `values` is a tuple of arrays like x, `times` [k]. `made`
    (int32) counts all that were ever made, one a step.
    """

    count: Any
    values: Any
    times: Any
    made: Any

    @classmethod
    def empty(cls, x: Array, length: int) -> History:
        """No prediction yet, room for `length`."""
        return cls(jnp.int32(0), (jnp.zeros_like(x),) * length, jnp.zeros((length,), x.dtype), jnp.int32(0))

    def pushed(self, value: Array, t: Array) -> History:
        """With `value` at t as the newest."""
        length = len(self.values)
        times = jnp.concatenate([jnp.asarray(t, self.times.dtype)[None], self.times[:-1]])
        return History(jnp.minimum(self.count + 1, length), (value, *self.values[:-1]), times, self.made + 1)

    def spaced(self, value: Array, t: Array, axis: Axis) -> History:
        """With `value` at t as the newest, in the place of the last where that is too near for the step."""
        times = jnp.concatenate([jnp.asarray(t, self.times.dtype)[None], self.times[1:]])
        renewed = History(jnp.maximum(self.count, 1), (value, *self.values[1:]), times, self.made + 1)
        pair = axis.place(jnp.stack([times[0], jnp.where(self.count > 0, self.times[0], times[0])]))
        near = (self.count > 0) & ~_apart(pair, axis)[0]
        return jax.tree.map(lambda kept, moved: jnp.where(near, kept, moved), renewed, self.pushed(value, t))

    def nodes(self, axis: Axis) -> tuple[Array, Array]:
        """(the places of the predictions [k], how many of the newest lie apart for the step, at least 1).

        The rest get places beyond the oldest of these, apart from one another, so that no weight divides by 0 in a branch
        that is not taken. The order of a step is at most that number.
        """
        index = jnp.arange(len(self.values))
        known = axis.place(jnp.where(index < self.count, self.times, self.times[0]))
        apart = _apart(known, axis) & (index[1:] < self.count)
        usable = 1 + jnp.sum(jnp.cumprod(apart.astype(jnp.int32)), dtype=jnp.int32)
        oldest = known[usable - 1]
        away = jnp.where(known[0] > axis.end, 1.0, -1.0) * jnp.maximum(jnp.abs(oldest), 1.0)
        missing = (index - usable + 1).astype(known.dtype)
        return jnp.where(missing <= 0, known, oldest + away * missing), usable

    def differences(self) -> tuple[Array, ...]:
        """What each older prediction differs by from the newest, the second newest first."""
        return tuple(value - self.values[0] for value in self.values[1:])


def _apart(places: Array, axis: Axis) -> Array:
    """Whether each place but the first is far enough beyond the one before for a step from the first to the end, [k - 1]."""
    reach = places[0] - axis.end
    gaps = (places[1:] - places[:-1]) * jnp.sign(reach)
    # A compiler may round a place otherwise each time that it is used: what is to be no 0 must be above that.
    rounding = 4.0 * jnp.finfo(places.dtype).eps * jnp.maximum(jnp.abs(places[1:]), axis.unit)
    return (gaps > rounding) & (gaps >= CLOSEST * jnp.abs(reach))


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
