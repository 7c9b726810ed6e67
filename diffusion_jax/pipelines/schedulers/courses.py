"""A course: what one of diffusers' schedulers does in so many steps, in the times of this library.

diffusers' Euler family keeps x / alpha, the others x; the process is one, and so is the state here, x = alpha x0 + sigma eps
with alpha^2 + sigma^2 = 1. Each step has the time of its noise level, the time that it goes to, and what the network is told;
the three may differ from what their places in a grid say, as published.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from diffusion_jax.pipelines.schedulers.levels import respaced, step_at, timesteps
from diffusion_jax.process.discrete import Discrete
from diffusion_jax.sampling.grids import exactly
from diffusion_jax.typing import UserError

__all__ = ["Asked", "Course", "from_levels", "time_of_level", "time_of_step"]


@dataclasses.dataclass(frozen=True, eq=False)
class Course:
    """Steps i = 0 .. n - 1 from `times[i]` to `targets[i]`, at which the network is told `seen[i]`; float64 [n] each.

    `timesteps` is diffusers' own list, one entry a call of the network; `between` are the (time, told) of calls within steps,
    [k, 2]. `largest` is the first noise level, or None where unit noise is x1 itself; `scale` multiplies the sample.
    """

    times: np.ndarray
    targets: np.ndarray
    seen: np.ndarray
    timesteps: np.ndarray
    solver: Any
    between: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 2)))
    largest: float | None = None
    scale: float = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """What a course is made from: the config's fields, its schedule and table of levels, the steps asked for.

    `skipped` steps are left out at the beginning (img2img); `where` names the file in refusals. `share` in (0, 1] is that of
    the distillation's timesteps which LCM's steps are drawn from.
    """

    name: str
    fields: Mapping[str, Any]
    schedule: Discrete
    table: np.ndarray
    num_steps: int
    skipped: int
    where: str
    eta: float = 0.0
    share: float = 1.0

    @property
    def total(self) -> int:
        """T."""
        return len(self.table)


def time_of_step(steps: ArrayLike, total: int) -> Any:
    """(i + 1) / T for each step i of the table; 0 for -1, clean data."""
    return (np.asarray(steps, np.float64) + 1) / total


def time_of_level(asked: Asked, levels: np.ndarray) -> np.ndarray:
    """The times of noise levels sigma / alpha, 0 that of level 0. Raises UserError for one outside the table."""
    levels = np.asarray(levels, np.float64)
    low, high = float(asked.table[0]), float(asked.table[-1])
    for level in (levels[levels > 0].min(), levels.max()):
        if not low * (1 - 1e-5) <= level <= high * (1 + 1e-5):
            name, near = ("sigma_min", low) if level < low else ("sigma_max", high)
            raise UserError(
                f"{asked.where}: {name} {level:g} is outside the noise levels of the table, {low:.6g} to {high:.6g}; "
                f"nearest: {near:.6g}"
            )
    inside = np.clip(levels, low, high)
    times = np.clip(exactly(asked.schedule.t_from_logsnr, -2 * np.log(inside)), 1 / asked.total, 1.0)
    return np.where(levels > 0, times, 0.0)


def from_levels(
    asked: Asked,
    *,
    below: bool,
    final: str,
    rounds: Callable[[np.ndarray], np.ndarray] | None = None,
    top: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(noise levels [n + 1] in float32, the network's timesteps [n]) of the schedulers that go by levels.

    `below` and `top` as in `timesteps`; `final` is the last level: "zero", "sigma_min" (the table's least), or "last" for the
    last step's again. `rounds` is applied to timesteps that are found from levels. The levels are float32, as theirs are.
    """
    fields, count = asked.fields, asked.num_steps
    steps = timesteps(fields, count, asked.where, below=below, whole=below, top=top)
    levels = np.interp(steps, np.arange(asked.total), asked.table)
    if fields.get("interpolation_type") == "log_linear":
        ends = np.log(asked.table[-1]), np.log(asked.table[0])
        levels = np.exp(np.linspace(*ends, count + 1))
    made = respaced(fields, asked.table[::-1] if below else levels, count, asked.where)
    if made is not None:
        levels = made
        steps = step_at(levels, asked.table)
        steps = steps if rounds is None else rounds(steps)
    last = {"zero": 0.0, "sigma_min": float(asked.table[0]), "last": float(levels[-1])}[final]
    if len(levels) == count:
        levels = np.append(levels, last)
    return levels.astype(np.float32).astype(np.float64), steps
