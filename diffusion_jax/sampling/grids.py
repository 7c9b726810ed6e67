"""The times at which a sampler stops, from noise down to data: float64 on the host, [num_steps + 1], strictly falling.

All coefficients of a solver come from the schedule at these times, so a grid costs nothing and is made exactly. A grid
begins at the schedule's t_max and ends at t = 0, which is clean data: the network is asked at every time but the last
(and once more there under a schedule that leaves noise at 0, see `sample`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion_jax.process.network_time import table_length
from diffusion_jax.typing import Schedule, UserError, one_of

__all__ = [
    "SPACINGS",
    "check_grid",
    "discrete",
    "exactly",
    "karras",
    "logsnr_uniform",
    "quadratic",
    "told_apart",
    "uniform",
]

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


def exactly(fn: Callable[[Array], Array], x: float | np.ndarray) -> np.ndarray:
    """A method of a schedule at x, in float64."""
    with _on_the_host():
        return np.array(fn(jnp.asarray(x, jnp.float64)), np.float64)


def _end(schedule: Schedule) -> float:
    """Where sampling ends: t = 0 where that is clean data, else t_min."""
    return 0.0 if exactly(schedule.sigma, 0.0) == 0.0 else float(schedule.t_min)


def uniform(num_steps: int, schedule: Schedule | None = None) -> np.ndarray:
    """Equal steps from the schedule's t_max to t = 0 (to t_min where sigma(0) > 0); from 1 to 0 without a schedule.

    Where steps are so many that equal ones would stop between 0 and t_min, they lead to t_min and the last one to 0.
    Raises UserError unless num_steps is a whole number of at least 1.
    """
    _check_steps(num_steps)
    if schedule is None:
        return np.linspace(1.0, 0.0, num_steps + 1)
    return _above_t_min(np.linspace(1.0, 0.0, num_steps + 1), schedule)


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
    first, last = exactly(schedule.logsnr, np.array([schedule.t_max, schedule.t_min]))
    first, last = max(float(first), logsnr_min), min(float(last), logsnr_max)
    if first >= last:
        raise UserError(f"logsnr_max {logsnr_max:g} is not above the logsnr that the grid begins with, {first:.3g}")
    return _closed(lambda count: np.linspace(first, last, count), num_steps, schedule)


def quadratic(num_steps: int, schedule: Schedule) -> np.ndarray:
    """Times t_max (i / num_steps)^2, i falling to 0: small steps near the data (DDIM, arXiv 2010.02502, appendix D.2).

    Where the last of them would stop between 0 and t_min, they lead to t_min in the same proportions and the last one to 0.
    Raises UserError unless num_steps is a whole number of at least 1.
    """
    _check_steps(num_steps)
    return _above_t_min(np.linspace(1.0, 0.0, num_steps + 1) ** 2, schedule)


def karras(
    num_steps: int,
    schedule: Schedule,
    rho: float = 7.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> np.ndarray:
    """EDM's spacing: equal steps of (sigma / alpha)^(1 / rho), and a last step to t = 0 (arXiv 2206.00364, eq. 5).

    `sigma_min` and `sigma_max` bound sigma / alpha within what the schedule has; the first time is t_max itself. Raises
    UserError unless num_steps is a whole number of at least 1, rho > 0 and 0 < sigma_min < sigma_max.
    """
    _check_steps(num_steps)
    if not rho > 0:
        raise UserError(f"rho {rho} of a Karras grid is not above 0; the published value is 7")
    if not 0 < sigma_min < sigma_max:
        raise UserError(f"sigma_min {sigma_min} and sigma_max {sigma_max} must satisfy 0 < sigma_min < sigma_max")
    first, last = np.exp(-0.5 * exactly(schedule.logsnr, np.array([schedule.t_max, schedule.t_min])))
    first, last = min(float(first), sigma_max), max(float(last), sigma_min)
    if first <= last:
        raise UserError(
            f"sigma_min {sigma_min:g} is not below the sigma / alpha that the grid begins with, {first:.3g}"
        )
    ends = first ** (1 / rho), last ** (1 / rho)
    return _closed(lambda count: -2.0 * rho * np.log(np.linspace(*ends, count)), num_steps, schedule)


SPACINGS = ("leading", "trailing", "linspace")


def discrete(num_steps: int, schedule: Schedule, spacing: str = "trailing", offset: int = 0) -> np.ndarray:
    """`num_steps` of the T steps of a table of betas, as times (i + 1) / T, then t = 0 (arXiv 2305.08891, table 2).

    "trailing" begins at the last step T - 1, "leading" at step offset + (num_steps - 1) floor(T / num_steps), below the
    noisiest, and "linspace" has both ends of the table. T is the schedule's `num_steps`, 1000 for one without a table.
    Raises UserError for another spacing, unless 1 <= num_steps <= T, and for an offset that leaves the table.
    """
    _check_steps(num_steps)
    one_of("spacing", spacing, SPACINGS)
    total = table_length(schedule)
    if num_steps > total:
        raise UserError(f"num_steps {num_steps} is more than the {total} steps of the table; nearest: {total}")
    if offset and spacing != "leading":
        raise UserError(f"offset {offset} goes with the spacing 'leading', not {spacing!r}")
    if spacing == "leading":
        steps = np.arange(num_steps)[::-1] * (total // num_steps) + offset
    elif spacing == "trailing":
        # In whole numbers: steps of total / num_steps that are added up can give one step too many.
        steps = np.round((num_steps - np.arange(num_steps)) * total / num_steps).astype(int) - 1
    else:
        steps = np.round(np.linspace(0, total - 1, num_steps)[::-1]).astype(int)
    if not 0 <= steps[-1] <= steps[0] < total:
        raise UserError(f"offset {offset} takes the grid to step {steps[0]} of a table of {total}")
    return np.append((steps + 1) / total, _end(schedule))


def _closed(levels: Callable[[int], np.ndarray], num_steps: int, schedule: Schedule) -> np.ndarray:
    """The times of levels(count) of logsnr, from t_max to the end: a last step to it, unless the levels reach it themselves."""
    end = _end(schedule)
    times = exactly(schedule.t_from_logsnr, levels(num_steps))
    if times[-1] <= end + SLACK and end == schedule.t_min:
        times = exactly(schedule.t_from_logsnr, levels(num_steps + 1))
        times[-1] = end
    else:
        times = np.append(np.maximum(times, schedule.t_min), end)
    times[0] = schedule.t_max
    return _distinct(times, num_steps)


def _above_t_min(shares: np.ndarray, schedule: Schedule) -> np.ndarray:
    """Times from t_max to the end, t_max at share 1 and the end at 0; none stands between the end and t_min."""
    start, end, low = float(schedule.t_max), _end(schedule), float(schedule.t_min)
    times = end + (start - end) * shares
    if len(times) > 2 and times[-2] < low:
        least = shares[-2]
        times[:-1] = low + (start - low) * (shares[:-1] - least) / (1.0 - least)
    times[0], times[-1] = start, end
    return times


def _distinct(times: np.ndarray, num_steps: int) -> np.ndarray:
    """The times, or a UserError when the schedule's first time t_min swallows some of them."""
    if not (np.diff(times) < 0).all():
        raise UserError(f"num_steps {num_steps} is more than this grid has room for above t_min")
    return times


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


def told_apart(ts: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The times in a float `dtype`, moved by the fewest units in the last place that keep them falling strictly.

    Rounded to float32, two times of a grid in float64 may become one, at which a solver would step nowhere, and one near 0
    becomes 0, where a network is not asked. The ends stay as they are.
    """
    kind = np.dtype(f"i{np.dtype(dtype).itemsize}")
    # Floats that are not negative are ordered as their bits are; those below the least normal one, which many devices take
    # for 0, are left out.
    skipped = np.array(np.finfo(dtype).tiny, dtype).view(kind).astype(np.int64) - 1
    places = np.maximum(np.asarray(ts).astype(dtype).view(kind).astype(np.int64) - skipped, 0)
    index = np.arange(len(places))
    falling = np.minimum.accumulate(places + index) - index
    falling = np.maximum(falling, places[-1] + index[::-1])
    return np.where(falling > 0, falling + skipped, 0).astype(kind).view(dtype)
