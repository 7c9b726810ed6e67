"""The times at which a sampler stops, from noise down to data: float64 on the host, [num_steps + 1], strictly falling.

All coefficients of a solver come from the schedule at these times, so a grid costs nothing and is made exactly. A grid
begins at the schedule's t_max and ends at t = 0, where sigma is 0: the network is asked at every time but the last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion_jax.typing import Schedule, UserError

__all__ = ["check_grid", "logsnr_uniform", "uniform"]

SLACK = 1e-6
"""How far rounding to float32 may take a time past the schedule's ends."""


def _check_steps(num_steps: int) -> None:
    if not isinstance(num_steps, int | np.integer) or num_steps < 1:
        raise UserError(f"num_steps {num_steps!r} is not a whole number of at least 1")


@contextlib.contextmanager
def _on_the_host() -> Iterator[None]:
    """JAX in float64, at once even under `jax.jit`, on the CPU where JAX has it beside the accelerator."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.ensure_compile_time_eval())
        stack.enter_context(jax.enable_x64(True))
        with contextlib.suppress(RuntimeError):
            stack.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
        yield


def _exact(fn: Callable[[Array], Array], x: float | np.ndarray) -> np.ndarray:
    """A method of a schedule at x, in float64."""
    with _on_the_host():
        return np.array(fn(jnp.asarray(x, jnp.float64)), np.float64)


def _end(schedule: Schedule) -> float:
    """Where sampling ends: t = 0 where that is clean data, else t_min."""
    return 0.0 if _exact(schedule.sigma, 0.0) == 0.0 else float(schedule.t_min)


def uniform(num_steps: int, schedule: Schedule | None = None) -> np.ndarray:
    """Equal steps from the schedule's t_max to t = 0 (to t_min where sigma(0) > 0); from 1 to 0 without a schedule.

    Raises UserError unless num_steps is a whole number of at least 1.
    """
    _check_steps(num_steps)
    start, end = (1.0, 0.0) if schedule is None else (float(schedule.t_max), _end(schedule))
    return np.linspace(start, end, num_steps + 1)


def logsnr_uniform(
    num_steps: int, schedule: Schedule, logsnr_max: float = 10.0, logsnr_min: float = -12.0
) -> np.ndarray:
    """Equal steps of logsnr from t_max up to `logsnr_max` (sigma / alpha = .0067 at 10), and a last step to t = 0.

    The first time is t_max itself. Where logsnr there lies below `logsnr_min` (pure noise has none), the steps are counted
    from `logsnr_min`; where t_min is reached before `logsnr_max`, they end at t_min. Solvers that are exact in logsnr for
    smooth data do best on such grids (DPM-Solver, arXiv 2206.00927, section 3.4). Raises UserError unless num_steps is
    a whole number of at least 1, and when `logsnr_max` is not above the logsnr at t_max.
    """
    _check_steps(num_steps)
    first, last = _exact(schedule.logsnr, np.array([schedule.t_max, schedule.t_min]))
    first, last = max(float(first), logsnr_min), min(float(last), logsnr_max)
    if first >= last:
        raise UserError(f"logsnr_max {logsnr_max:g} is not above the logsnr that the grid begins with, {first:.3g}")
    times = _exact(schedule.t_from_logsnr, np.linspace(first, last, num_steps))
    times[0] = schedule.t_max
    return np.append(np.maximum(times, schedule.t_min), _end(schedule))


def check_grid(ts: np.ndarray, schedule: Schedule) -> None:
    """UserError unless `ts` has two times at least, falls strictly, and stays within [t_min, t_max].

    The last time may also be 0 where sigma(0) = 0: the state is then clean, and the network is not asked there.
    """
    if ts.ndim != 1 or len(ts) < 2:
        raise UserError(f"a grid is a list of at least 2 times; this one has shape {ts.shape}")
    low, high, end = schedule.t_min, schedule.t_max, _end(schedule)
    for i, t in enumerate(ts):
        inside = low - SLACK <= t <= high + SLACK or (i == len(ts) - 1 and t == end)
        if not inside:
            raise UserError(
                f"grid time ts[{i}] = {t:.6g} is not in [{low:g}, {high:g}], where {type(schedule).__name__} is defined"
                + (", nor is it a last time of 0" if end == 0.0 < low else "")
            )
        if i and not t < ts[i - 1]:
            raise UserError(
                f"a grid falls from noise to data, but ts[{i}] = {t:.6g} is not below ts[{i - 1}] = {ts[i - 1]:.6g}"
            )
