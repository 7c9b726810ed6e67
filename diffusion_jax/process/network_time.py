"""What a network sees of the time t in [0, 1]: t itself, its logsnr, or the step of a table of betas.

A table's step i = 0 .. T - 1 is the time (i + 1) / T, so that a network of steps sees T t - 1. In float32 that is off by up to
3e-5 of a step: T t has lost the digits of t that rounding to float32 took, and the difference keeps the error. At the
table's own steps it is mended by rounding to them. Between them (Karras's noise levels on a table) the digits are with the
grid alone, in float64 on the host: `on_grid` makes of a grid the network's times in float64, and a `Denoiser` that is asked
at one of the grid's times takes them from there.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion_jax.process.discrete import snapped
from diffusion_jax.typing import Schedule, UserError

__all__ = ["TIME_INPUTS", "looked_up", "on_grid", "table_length"]


def table_length(schedule: Schedule) -> int:
    """The number of steps of a discrete schedule's table, shifted or not; 1000 for those without a table."""
    return int(getattr(getattr(schedule, "base", schedule), "num_steps", 1000))


TIME_INPUTS: dict[str, Callable[[Schedule, Array], Array]] = {
    "t": lambda schedule, t: t,
    "t1000": lambda schedule, t: 1000.0 * t,
    "logsnr": lambda schedule, t: schedule.logsnr(t),
    "c_noise": lambda schedule, t: -0.125 * schedule.logsnr(t),
    "index": lambda schedule, t: jnp.maximum(snapped(t, table_length(schedule)) - 1.0, 0.0),
}
"""What the network sees of the time; c_noise is EDM's ln(sigma / alpha) / 4 (arXiv 2206.00364, table 1), index the place in
a table of betas, from 0, with a fraction between two steps of it."""

_ON_THE_HOST: dict[str, Callable[[Schedule, np.ndarray], np.ndarray]] = {
    "t1000": lambda schedule, ts: 1000.0 * ts,
    "index": lambda schedule, ts: np.maximum(table_length(schedule) * ts - 1.0, 0.0),
}
"""Those whose digits t in float32 has not: the rest are as exact as t is."""


def on_grid(name: str, schedule: Schedule, ts: np.ndarray) -> np.ndarray | None:
    """What a network of time `name` sees at the times `ts` [n], float64 [n]; None where t in float32 says as much."""
    made = _ON_THE_HOST.get(name)
    return None if made is None else made(schedule, np.asarray(ts, np.float64))


def looked_up(times: Array, seen: Array, t: Array, otherwise: Array) -> Array:
    """For each t [batch] the one of `seen` [n] whose time among `times` [n] it is, bit for bit; else that of `otherwise`.

    Raises UserError where `times` and `seen` differ in length.
    """
    if times.shape != seen.shape or times.ndim != 1:
        raise UserError(f"a network's times of shape {seen.shape} do not go with a grid of {times.shape}: one each")
    same = t[:, None] == times[None, :]
    return jnp.where(same.any(axis=1), seen[jnp.argmax(same, axis=1)].astype(otherwise.dtype), otherwise)
