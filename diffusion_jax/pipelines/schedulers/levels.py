"""The tables, timesteps and noise levels of diffusers' schedulers, on the host.

Their tables are float32: betas, 1 - beta, and the running product, which is summed up in float64 and rounded at each step.
Timesteps that are found from noise levels (Karras's and others) show these roundings in their last digits, and some are then
rounded to whole ones. So the tables are made here in the same floats, and all that follows in float64, as theirs is.

A level is sigma / alpha = sqrt((1 - alpha-bar) / alpha-bar), the sigma of EDM and k-diffusion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import betaincinv

from diffusion_jax.process.discrete import beta_table
from diffusion_jax.typing import UserError

__all__ = ["respaced", "signal", "step_at", "table_of_levels", "timesteps"]

RHO = 7.0
"""Karras's exponent (arXiv 2206.00364, section 3), which diffusers fixes."""

SPACINGS = ("use_karras_sigmas", "use_lu_lambdas", "use_exponential_sigmas", "use_beta_sigmas")

ALMOST_ZERO = 2.0**-24
"""What schedulers that divide by alpha put in the place of a last alpha-bar of 0."""


def _line(start: float, end: float, count: int) -> np.ndarray:
    """PyTorch's linspace in float32: from either end to the middle, each number rounded once."""
    low, high = np.float32(start), np.float32(end)
    step = np.float64((high - low) / np.float32(count - 1))
    index = np.arange(count)
    line = np.where(index < count // 2, low + step * index, high - step * (count - 1 - index))
    return line.astype(np.float32)


def _betas(fields: Mapping[str, Any]) -> np.ndarray:
    count = fields["num_train_timesteps"]
    if fields.get("trained_betas") is not None:
        return np.asarray(fields["trained_betas"], np.float32)
    if fields["beta_schedule"] == "squaredcos_cap_v2":
        return beta_table("cosine", count).astype(np.float32)
    start, end = fields["beta_start"], fields["beta_end"]
    if fields["beta_schedule"] == "linear":
        return _line(start, end, count)
    return _line(start**0.5, end**0.5, count) ** 2


def _product(alphas: np.ndarray) -> np.ndarray:
    return np.cumprod(alphas.astype(np.float64)).astype(np.float32)


def signal(fields: Mapping[str, Any], divides: bool) -> np.ndarray:
    """alpha-bar, float32 [T]. With a zero terminal SNR the last is 0, or 2^-24 where the scheduler `divides` by alpha."""
    one = np.float32(1)
    bars = _product(one - _betas(fields))
    if not fields.get("rescale_betas_zero_snr"):
        return bars
    roots = np.sqrt(bars)
    first, last = roots[0], roots[-1]
    roots = (roots - last) * (first / (first - last))
    squares = roots**2
    alphas = np.concatenate([squares[:1], squares[1:] / squares[:-1]])
    bars = _product(one - (one - alphas))
    if divides:
        bars[-1] = ALMOST_ZERO
    return bars


def table_of_levels(bars: np.ndarray) -> np.ndarray:
    """sigma / alpha at each step of the table, float32 [T]; infinite where no signal is left."""
    with np.errstate(divide="ignore"):
        return np.sqrt((np.float32(1) - bars) / bars)


def timesteps(
    fields: Mapping[str, Any],
    num_steps: int,
    where: str,
    *,
    below: bool = False,
    whole: bool = True,
    top: int | None = None,
) -> np.ndarray:
    """The timesteps, falling, float64 [num_steps]; `whole` rounds those of "linspace".

    `below` leaves room for one more below the last, which is the end (DPM-Solver, UniPC, DEIS). They lie below step `top`, T
    without one. Raises UserError for more steps
    than the table has, and where steps_offset leads out of it.
    """
    total, spacing, offset = fields["num_train_timesteps"], fields["timestep_spacing"], fields["steps_offset"]
    top = total if top is None else top
    if num_steps + below > total:
        raise UserError(
            f"{where}: num_steps {num_steps} is more than a table of {total} has room for; nearest: {total - below}"
        )
    count = num_steps + below
    if spacing == "linspace":
        steps = np.linspace(0, top - 1, count, dtype=np.float64 if whole else np.float32)
        steps = (steps.round() if whole else steps)[::-1][:num_steps].astype(np.float64)
    elif spacing == "leading":
        steps = (np.arange(count) * (top // count))[::-1][:num_steps].astype(np.float64) + offset
    else:
        # A float's rounding may make one too many of it.
        steps = np.arange(total, 0, -total / num_steps)[:num_steps].round() - 1
    if steps[0] > total - 1:
        raise UserError(
            f"{where}: steps_offset {offset} takes the first of {num_steps} steps to {steps[0]:g} of a table of {total}; "
            f"nearest: {max(0, offset - int(steps[0]) + total - 1)}"
        )
    if not (np.diff(steps) < 0).all():
        raise UserError(
            f"{where}: num_steps {num_steps} is so many that timestep_spacing {spacing!r} repeats a timestep"
        )
    return steps


def respaced(fields: Mapping[str, Any], levels: np.ndarray, num_steps: int, where: str) -> np.ndarray | None:
    """Noise levels [num_steps] in another spacing between the ends of `levels`; None where the config asks for none.

    Karras's (arXiv 2206.00364, eq. 5), equal factors, or quantiles of a Beta(.6, .6) (arXiv 2407.12173). sigma_min and
    sigma_max replace the ends. Raises UserError for two spacings at once, and for ends outside the table.
    """
    asked = [name for name in SPACINGS if fields.get(name)]
    if len(asked) > 1:
        raise UserError(f"{where}: {asked[0]} and {asked[1]} are both true: a grid has one spacing")
    if not asked:
        return None
    low, high = (fields.get(name) for name in ("sigma_min", "sigma_max"))
    if asked[0] == "use_lu_lambdas":  # equal steps of lambda, which are equal factors, over the whole table
        low = high = None
    low, high = float(levels[-1]) if low is None else low, float(levels[0]) if high is None else high
    if not low < high:
        raise UserError(f"{where}: sigma_min {low:g} is not below sigma_max {high:g}")
    if asked[0] == "use_karras_sigmas":
        ramp = np.linspace(0, 1, num_steps)
        return (high ** (1 / RHO) + ramp * (low ** (1 / RHO) - high ** (1 / RHO))) ** RHO
    if asked[0] in ("use_exponential_sigmas", "use_lu_lambdas"):
        return np.exp(np.linspace(math.log(high), math.log(low), num_steps))
    return low + betaincinv(0.6, 0.6, 1 - np.linspace(0, 1, num_steps)) * (high - low)


def step_at(level: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The timesteps of noise levels: linear in their logarithms between two steps of the table, within its ends."""
    logs, log = np.log(table), np.log(np.maximum(level, 1e-10))
    low = np.clip(np.searchsorted(logs, log, side="right") - 1, 0, len(logs) - 2)
    share = np.clip((logs[low] - log) / (logs[low] - logs[low + 1]), 0, 1)
    return (1 - share) * low + share * (low + 1)
