"""How training draws t: each function is sample_t(key, n, schedule) -> [n] times in [t_min, t_max].

**Stratified** (VDM, arXiv 2107.00630, section I.1): t_i = (u_0 + i / n) mod 1 with one uniform u_0 puts one time in
each n-th of the interval, which lowers the variance of the loss. With u_0 = (k + u) / n, k a whole number below n and u
in [0, 1), this is ((k + i) mod n + u) / n: the strata are counted in whole numbers, as steps of 1/n that are added up
can give n + 1 points. **Logit-normal** (SD3, arXiv 2403.03206, section 3.1): t = sigmoid(n), n ~ N(location,
scale^2).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion_jax.typing import Schedule

__all__ = ["logit_normal", "stratified", "uniform"]

Times = Float[Array, " n"]


def _scaled(u: Times, schedule: Schedule) -> Times:
    t = schedule.t_min + (schedule.t_max - schedule.t_min) * u
    return jnp.clip(t, schedule.t_min, schedule.t_max)  # rounding may leave the interval by an ulp


def uniform(key: Array, n: int, schedule: Schedule) -> Times:
    """Independent uniform times."""
    return _scaled(jax.random.uniform(key, (n,)), schedule)


def stratified(key: Array, n: int, schedule: Schedule) -> Times:
    """One time in each n-th of the interval, equally spaced from a random start; each alone is uniform."""
    first = jax.random.randint(jax.random.fold_in(key, 0), (), 0, n)
    u = jax.random.uniform(jax.random.fold_in(key, 1), ())
    return _scaled(((first + jnp.arange(n)) % n + u) / n, schedule)


def logit_normal(key: Array, n: int, schedule: Schedule, location: float = 0.0, scale: float = 1.0) -> Times:
    """Times around the middle of the interval, as SD3 draws them."""
    return _scaled(jax.nn.sigmoid(location + scale * jax.random.normal(key, (n,))), schedule)
