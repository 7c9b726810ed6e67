"""Which grid goes with a schedule, and which one cannot be right: both by what DDIM makes of Gaussian data on it.

Under data N(0, s^2 I) the denoiser is known, and DDIM's step from t to t' multiplies x by

    (alpha' alpha s^2 + sigma' sigma) / (alpha^2 s^2 + sigma^2) <= sqrt(V' / V),   V = alpha^2 s^2 + sigma^2:

by the Cauchy-Schwarz inequality each step loses spread, the more the further it goes past the noise levels sigma / alpha
about s, at which the data are decided. The product of the steps over its ideal is the share of the data's standard
deviation that the samples have, in closed form, for any grid. With 20 steps and s = 1/2:

| schedule | uniform | Karras |
|---|---|---|
| VPLinear, Discrete | .86 | .86 |
| Cosine, RectifiedFlow | .93 | .86 |
| VE | .90 | .89 |
| EDM | .12 | .86 |

EDM's sigma is linear in t up to 80, so that equal steps of t end with sigma 8, 4, 0. Other solvers lose less at a step, but
none knows what lies between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from diffusion_jax.process.network_time import table_length
from diffusion_jax.sampling.grids import SLACK, discrete, exactly, karras, uniform
from diffusion_jax.typing import Schedule, UserError

__all__ = ["doubt", "natural", "natural_name", "spread_kept"]

STEPS, HALF = 20, 0.5
"""At so many steps a schedule's grid is chosen; a grid that keeps less than this share of what another does is doubted."""


def spread_kept(ts: np.ndarray, schedule: Schedule, std: float = 0.5) -> float:
    """The standard deviation of DDIM's samples over that of the data, N(0, std^2 I), on the grid `ts`; in [0, 1]."""
    alpha, sigma = (exactly(fn, np.asarray(ts, np.float64)) for fn in (schedule.alpha, schedule.sigma))
    variance = (alpha * std) ** 2 + sigma**2
    steps = (alpha[1:] * alpha[:-1] * std**2 + sigma[1:] * sigma[:-1]) / variance[:-1]
    return float(sigma[0] * np.prod(steps) / np.sqrt(variance[-1]))


def natural_name(schedule: Schedule, num_steps: int = STEPS) -> str:
    """The name of the grid that `natural` makes: "discrete", "karras" or "uniform"."""
    base, total = getattr(schedule, "base", schedule), table_length(schedule)
    if hasattr(base, "num_steps") and num_steps <= total and schedule.t_min <= 1 / total + SLACK:
        return "discrete"
    with contextlib.suppress(UserError):  # a schedule without Karras's noise levels
        if spread_kept(uniform(STEPS, schedule), schedule) < HALF * spread_kept(karras(STEPS, schedule), schedule):
            return "karras"
    return "uniform"


def natural(num_steps: int, schedule: Schedule) -> np.ndarray:
    """The grid that goes with a schedule: the table's own steps for `Discrete`, Karras's for `EDM`, else equal steps of t.

    Shifted and truncated schedules, and those of one's own, are measured like the others: equal steps, unless they lose half
    of the spread that Karras's spacing keeps. Raises UserError unless num_steps is a whole number of at least 1.
    """
    grids: dict[str, Callable[..., np.ndarray]] = {"discrete": discrete, "karras": karras, "uniform": uniform}
    return grids[natural_name(schedule, num_steps)](num_steps, schedule)


def doubt(ts: np.ndarray, schedule: Schedule, std: float = 0.5) -> str | None:
    """A line where the grid `ts` keeps less than half the spread of the natural grid of its length, for data of `std`."""
    found, name = spread_kept(ts, schedule, std), natural_name(schedule, len(ts) - 1)
    best = spread_kept(natural(len(ts) - 1, schedule), schedule, std)
    if found >= HALF * best:
        return None
    levels = exactly(schedule.logsnr, np.asarray(ts, np.float64)[-3:-1])
    last = ", ".join(f"{np.exp(-0.5 * level):.2g}" for level in levels)
    return (
        f"this grid of {len(ts) - 1} steps does not fit {type(schedule).__name__} (its last noise levels are {last} and the "
        f"end): of the spread of data of standard deviation {std:g} it keeps {found:.2f}, the grid {name!r} {best:.2f}"
    )
