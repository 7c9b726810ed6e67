"""How training draws t: each function is sample_t(key, n, schedule, ...) -> [n] times in [t_min, t_max].

**Stratified** (VDM, arXiv 2107.00630, section I.1): t_i = (u_0 + i / n) mod 1 with one uniform u_0 puts one time in
each n-th of the interval, which lowers the variance of the loss. With u_0 = (k + u) / n, k a whole number below n and u
in [0, 1), this is ((k + i) mod n + u) / n: the strata are counted in whole numbers, as steps of 1/n that are added up
can give n + 1 points.

**Log-normal** (EDM, arXiv 2206.00364, table 1): ln(sigma / alpha) ~ N(location, scale^2), so logsnr ~ N(-2 location, 4
scale^2) and t is its time; the defaults are EDM's, EDM2 (arXiv 2312.02696) has (-.4, 1). What falls outside the
schedule's range is put at its end.

SD3 (arXiv 2403.03206, section 3.1) draws t for straight lines, with u uniform:

- **Logit-normal** (eq. 19): t = sigmoid(n), n ~ N(location, scale^2).
- **Mode** (eq. 20): t = 1 - u - s (cos^2(pi u / 2) - 1 + u), which falls from 1 to 0 as long as -1 <= s <= 2 / (pi -
  2); s > 0 favours the middle, s < 0 the ends, s = 0 is uniform.
- **CosMap** (eq. 21): t = 1 - 1 / (tan(pi u / 2) + 1), that is sin / (sin + cos) of pi u / 2, of density 2 / (pi - 2
  pi t + 2 pi t^2): the noise levels of the cosine schedule at uniform times.

On schedules that begin or end elsewhere these are scaled to [t_min, t_max].
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion_jax.typing import Schedule, UserError

__all__ = ["cosmap", "log_normal", "logit_normal", "mode", "strata", "stratified", "uniform"]

Times = Float[Array, " n"]

MODE_RANGE = (-1.0, 2.0 / (math.pi - 2.0))
"""The scales for which the map of `mode` is monotone."""


def _inside(t: Times, schedule: Schedule) -> Times:
    return jnp.clip(t, schedule.t_min, schedule.t_max)


def _scaled(u: Times, schedule: Schedule) -> Times:
    # Rounding may leave the interval by an ulp.
    return _inside(schedule.t_min + (schedule.t_max - schedule.t_min) * u, schedule)


def uniform(key: Array, n: int, schedule: Schedule) -> Times:
    """Independent uniform times."""
    return _scaled(jax.random.uniform(key, (n,)), schedule)


def strata(key: Array, n: int) -> Times:
    """One number in each n-th of [0, 1], equally spaced from a random start and in turn; each alone is uniform."""
    first = jax.random.randint(jax.random.fold_in(key, 0), (), 0, n)
    u = jax.random.uniform(jax.random.fold_in(key, 1), ())
    return ((first + jnp.arange(n)) % n + u) / n


def stratified(key: Array, n: int, schedule: Schedule) -> Times:
    """One time in each n-th of the interval, equally spaced from a random start; each alone is uniform."""
    return _scaled(strata(key, n), schedule)


def logit_normal(key: Array, n: int, schedule: Schedule, location: float = 0.0, scale: float = 1.0) -> Times:
    """Times around the middle of the interval, as SD3 draws them."""
    return _scaled(jax.nn.sigmoid(location + scale * jax.random.normal(key, (n,))), schedule)


def log_normal(key: Array, n: int, schedule: Schedule, location: float = -1.2, scale: float = 1.2) -> Times:
    """Times whose ln(sigma / alpha) is N(location, scale^2), as EDM draws them, whatever the schedule."""
    ratio = location + scale * jax.random.normal(key, (n,))
    return _inside(schedule.t_from_logsnr(-2.0 * ratio), schedule)


def mode(key: Array, n: int, schedule: Schedule, scale: float = 1.29) -> Times:
    """Times around the middle with all others kept possible. Raises UserError unless -1 <= scale <= 2 / (pi - 2)."""
    low, high = MODE_RANGE
    if not low <= scale <= high:
        near = min(max(scale, low), high)
        raise UserError(f"scale {scale} of times 'mode' is not in [{low:g}, {high:.4g}]; nearest: {near:.4g}")
    u = jax.random.uniform(key, (n,))
    return _scaled(1.0 - u - scale * (jnp.cos(0.5 * math.pi * u) ** 2 - 1.0 + u), schedule)


def cosmap(key: Array, n: int, schedule: Schedule) -> Times:
    """Times that give straight lines the noise levels of the cosine schedule."""
    angle = 0.5 * math.pi * jax.random.uniform(key, (n,))
    return _scaled(jnp.sin(angle) / (jnp.sin(angle) + jnp.cos(angle)), schedule)
