"""The checks of `process.arguments` for what sampling is given besides: a solver and a grid."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from diffusion_jax.process.arguments import check_cond, check_denoise, check_schedule, data, described, known
from diffusion_jax.sampling.grids import check_grid
from diffusion_jax.typing import PyTree, UserError

__all__ = ["ORDER", "check_solver", "checked", "grid"]

ORDER = " (the order is denoise, schedule, solver, x1, ts, key, cond)"


def check_solver(solver: Any, order: str = ORDER) -> None:
    """UserError unless `solver` is one: with `init` and `step`, and no class."""
    if isinstance(solver, type):
        raise UserError(f"solver is the class {solver.__name__}, not one of it: write {solver.__name__}()")
    missing = [name for name in ("init", "step") if not callable(getattr(solver, name, None))]
    if len(missing) == 2:
        hint = order if hasattr(solver, "alpha") else ""
        raise UserError(f"solver is {described(solver)}, not a solver such as DDIM(){hint}")
    if missing:
        raise UserError(f"solver {type(solver).__name__} has no {missing[0]}: a solver has init and step")


def grid(ts: Any, schedule: Any, order: str = "") -> Any:
    """`ts` as an array of times, checked against the schedule where both are known. UserError for what is no grid."""
    times: Any = ts
    if not isinstance(ts, jax.core.Tracer):
        if np.ndim(ts) == 0 and isinstance(ts, int | np.integer):
            raise UserError(
                f"ts is the number {ts}, not a grid of falling times: write uniform({max(int(ts), 1)}, schedule)"
            )
        try:
            times = np.asarray(ts)
            if times.dtype.kind == "c":
                raise TypeError
            times = times if times.dtype.kind == "f" else np.asarray(ts, np.float64)
        except (TypeError, ValueError):
            raise UserError(
                f"ts is {described(ts)}, not a grid of falling times such as uniform(20, schedule){order}"
            ) from None
    if times.ndim != 1 or len(times) < 2:
        raise UserError(
            f"a grid is a list of at least 2 times; ts has shape {times.shape}{order if times.ndim > 1 else ''}"
        )
    if known(schedule, times):
        check_grid(np.asarray(times, np.float64), schedule)
    return times


def checked(
    denoise: Any, schedule: Any, name: str, x: Any, ts: Any, cond: PyTree, *, clean: bool, order: str
) -> tuple[Array, Any]:
    """(x, ts) as arrays, after all that a function of a denoiser, a schedule, data and a grid is given was looked at."""
    check_denoise(denoise, order)
    check_schedule(schedule, order)
    x = data(name, x, clean=clean, order=order)
    times = grid(ts, schedule, order)
    check_cond(cond, x.shape[0])
    return x, times
