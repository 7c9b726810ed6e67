"""Image to image (SDEdit, arXiv 2108.01073, algorithm 1): noised to a time inside the grid, and sampled from there."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.arguments import described, typed_key
from diffusion_jax.process.sde import noised
from diffusion_jax.sampling.arguments import check_solver, checked
from diffusion_jax.sampling.sample import initial_noise, sample
from diffusion_jax.typing import DenoiseFn, PyTree, Schedule, Solver, UserError

__all__ = ["img2img", "tail"]


def tail(ts: Any, strength: Any) -> Any:
    """The last round(strength * n) of the n steps of the falling grid `ts`; strength in (0, 1], 1 the whole grid.

    Raises UserError for a strength outside, and for one that leaves no step.
    """
    total = len(ts) - 1
    kind = getattr(getattr(strength, "dtype", None), "kind", "f" if isinstance(strength, int | float) else "O")
    if kind not in "fiu" or np.ndim(strength):
        shown = strength if np.ndim(strength) == 1 and kind in "fiu" else described(strength)
        raise UserError(f"strength {shown} is not one number: it sets how many steps there are, for all the batch")
    strength = float(np.asarray(strength))
    if not 0 < strength <= 1:
        raise UserError(f"strength {strength} is not in (0, 1]; nearest: {1 if strength > 1 else 1 / total:.3g}")
    count = round(strength * total)
    if count < 1:
        raise UserError(f"strength {strength} leaves no step of a grid of {total}; nearest: {1 / total:.3g}")
    return ts[total - count :]


def img2img(
    denoise: DenoiseFn,
    schedule: Schedule,
    solver: Solver,
    x0: Array,
    ts: Any,
    key: Array,
    strength: ArrayLike,
    cond: PyTree = None,
) -> Array:
    """Images near x0 [batch, ...], as the denoiser and its condition see them; [batch, ...].

    x0 is noised to the time that leaves round(strength * n) of the n steps of `ts`, and sampled from there. The noise is
    `initial_noise(key, ...)`, by example: one key, or one an example. At strength 1 the start is alpha x0 + sigma noise at
    ts[0], which is noise alone only where alpha is 0 there. Raises UserError as `tail` and `sample` do.
    """
    order = " (the order is denoise, schedule, solver, x0, ts, key, strength, cond)"
    x0, ts = checked(denoise, schedule, "x0", x0, ts, cond, clean=True, order=order)
    check_solver(solver, order)
    left = tail(ts, strength)
    noise = initial_noise(typed_key(key), x0.shape).astype(jnp.promote_types(x0.dtype, jnp.float32))
    return sample(denoise, schedule, solver, noised(schedule, x0.astype(noise.dtype), noise, left[0]), left, key, cond)
