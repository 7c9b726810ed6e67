"""The network's own times, carried with the grid: what `process.network_time` makes of it in float64, handed to denoisers."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.arguments import known
from diffusion_jax.process.denoiser import Denoiser
from diffusion_jax.process.network_time import TIME_INPUTS, on_grid
from diffusion_jax.sampling.grids import told_apart
from diffusion_jax.typing import UserError

__all__ = ["carried", "rounded"]


def rounded(ts: Any, x: Any) -> np.ndarray:
    """A grid in the floats of the state x, float32 at least: its times stay apart, see `told_apart`."""
    return told_apart(np.asarray(ts, np.float64), jnp.promote_types(x.dtype, jnp.float32))


def carried(denoise: Any, ts: Any, times: np.ndarray, seen: ArrayLike | None = None, *, ahead: bool = False) -> Any:
    """`denoise` with every network in it told what it sees at the grid's times `ts` [n], which solvers ask as `times` [n].

    `ts` is in float64, `times` what it is rounded to. `seen` [n] is what the networks see there, in the unit that their
    `time` names, for published samplers whose network hears another time than the noise has; without it their own `time`
    says it, in float64. With `ahead` they are told in its place what they see at the time before it in the list: on the way up
    a falling grid, the time that a step goes to. A network that has been told keeps what it was told; a function that is no
    pytree of `Denoiser`s stays as it is, and so does one whose schedule is being traced. Raises UserError for `seen` of another
    length.
    """
    if seen is not None and np.shape(seen) != np.shape(ts):
        raise UserError(f"seen has shape {np.shape(seen)} for a grid of {np.shape(ts)}: one time of the network each")

    def told(part: Any) -> Any:
        if not isinstance(part, Denoiser) or part.grid is not None:
            return part
        made = seen
        if made is None:
            made = on_grid(part.time, part.schedule, ts) if known(part.schedule) else None
        if made is None and ahead and known(part.schedule):
            made = TIME_INPUTS[part.time](part.schedule, jnp.asarray(times))
        if made is None:
            return part
        made = np.asarray(made, np.float64)
        made = np.append(made[:1], made[:-1]) if ahead else made
        return dataclasses.replace(part, grid=(jnp.asarray(times), jnp.asarray(made, times.dtype)))

    return jax.tree.map(told, denoise, is_leaf=lambda part: isinstance(part, Denoiser))
