"""The times at which a sampler stops, from noise down to data: float64 on the host, [num_steps + 1], strictly falling.

All coefficients of a solver come from the schedule at these times, so a grid costs nothing and is made exactly.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.typing import Schedule, UserError

__all__ = ["check_grid", "logsnr_uniform", "uniform"]


def _check_steps(num_steps: int) -> None:
    if not isinstance(num_steps, int | np.integer) or num_steps < 1:
        raise UserError(f"num_steps {num_steps!r} is not a whole number of at least 1")


def uniform(num_steps: int, schedule: Schedule | None = None) -> np.ndarray:
    """Equal steps from the schedule's t_max (1 without a schedule) to t = 0, where the data is."""
    _check_steps(num_steps)
    start = 1.0 if schedule is None else schedule.t_max
    # From whole numbers, so that both ends are exact.
    return start * np.arange(num_steps, -1, -1) / num_steps


def logsnr_uniform(num_steps: int, schedule: Schedule, logsnr_max: float = 10.0) -> np.ndarray:
    """Equal steps of logsnr from t_max up to `logsnr_max` (sigma / alpha = .0067 at 10), and a last step from there to t = 0.

    Where logsnr at t_max lies below -`logsnr_max` (pure noise), the first step jumps to -`logsnr_max`. Solvers that
    are exact in logsnr for smooth data do best on such grids (DPM-Solver, arXiv 2206.00927, section 3.4). Raises
    UserError when `logsnr_max` is not above the logsnr at t_max.
    """
    _check_steps(num_steps)
    with jax.ensure_compile_time_eval():
        first = float(schedule.logsnr(jnp.float32(schedule.t_max)))
        if first >= logsnr_max:
            raise UserError(f"logsnr_max {logsnr_max} is not above the logsnr at t_max, {first:.3g}")
        levels = np.linspace(max(first, -logsnr_max), logsnr_max, num_steps)
        times = np.asarray(schedule.t_from_logsnr(jnp.asarray(levels)), np.float64)
    times[0] = schedule.t_max
    return np.append(times, 0.0)


def check_grid(ts: np.ndarray, schedule: Schedule) -> None:
    """UserError unless `ts` has two times at least, falls strictly, and stays within [0, t_max]."""
    if ts.ndim != 1 or len(ts) < 2:
        raise UserError(f"a grid is a list of at least 2 times; this one has shape {ts.shape}")
    for i, t in enumerate(ts):
        if not 0.0 <= t <= schedule.t_max + 1e-6:
            raise UserError(
                f"grid time ts[{i}] = {t:.6g} is not in [0, {schedule.t_max:g}], where the schedule is defined"
            )
        if i and not t < ts[i - 1]:
            raise UserError(
                f"a grid falls from noise to data, but ts[{i}] = {t:.6g} is not below ts[{i - 1}] = {ts[i - 1]:.6g}"
            )
