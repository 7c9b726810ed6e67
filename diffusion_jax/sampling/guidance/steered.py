"""DenoiseFn's that alter what another one says, and may remember: the form that every kind of guidance has.

A `Steered` is a DenoiseFn with `step`, which takes a memory and returns its successor, like a solver's state. Most have
none, (). The sampling driver carries the memory of the outermost one from step to step: the evaluation at a step's
beginning makes the next memory, and every evaluation within the step is given the same. Each hands on the memory of the one
inside. Called as a plain DenoiseFn it begins with an empty memory.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.arguments import check_function, floats, known
from diffusion_jax.process.asking import ask, checked, predict
from diffusion_jax.process.prediction import FLOOR
from diffusion_jax.process.sde import coefficients, expand
from diffusion_jax.typing import DenoiseFn, Prediction, PyTree, Schedule, UserError

__all__ = ["Steered", "fitted", "memory_of", "remembering", "setting", "structured", "with_x0"]


class Steered:
    """What alters a denoiser: `step` is to be given, `start` where there is a memory."""

    def start(self, xt: Array) -> PyTree:
        """The empty memory for a batch like xt [batch, ...]."""
        return ()

    def step(self, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Prediction, PyTree]:
        """The pair at xt [batch, ...] and t (scalar or [batch]), and the memory after it."""
        raise NotImplementedError

    def __call__(self, xt: Array, t: ArrayLike, cond: PyTree = None) -> Prediction:
        """The pair at xt [batch, ...] and t (scalar or [batch]), float32 at least, from an empty memory."""
        return remembering(self, xt, t, cond, self.start(xt))[0]


def memory_of(denoise: DenoiseFn, xt: Array) -> PyTree:
    """The empty memory of any DenoiseFn for a batch like xt."""
    return denoise.start(xt) if isinstance(denoise, Steered) else ()


def remembering(denoise: DenoiseFn, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Prediction, PyTree]:
    """denoise(xt, t, cond) for any DenoiseFn, with the memory after it."""
    if isinstance(denoise, Steered):
        pair, memory = ask(denoise.step, xt, t, cond, memory)
        return checked(denoise, pair, xt), memory
    return predict(denoise, xt, t, cond), memory


def structured(fn: Any, name: str = "denoise") -> Any:
    """`fn` as a pytree: a plain function becomes structure, so that another one compiles anew. UserError for no function."""
    check_function(fn, name)
    return jax.tree_util.Partial(fn) if jax.tree_util.all_leaves([fn]) else fn


def setting(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> Array:
    """A number, or one an example, as a float32 array: a scale of 3 and one of 3.0 are one compiled program.

    Raises UserError for more axes, and for a value that is not from `low` to `high` (one traced by JAX is not looked at).
    """
    array = floats(name, value, "a number, or one an example")
    if array.ndim > 1:
        raise UserError(f"{name} has shape {array.shape}; it is a number, or one an example")
    if known(array):
        bad = array[~((array >= low) & (array <= high))]
        if bad.size:
            near = np.clip(np.nan_to_num(bad[0], nan=low), low, high)
            raise UserError(f"{name} {bad[0]:g} is not from {low:g} to {high:g}; nearest: {near:g}")
    return jnp.asarray(array)


def fitted(name: str, value: Array, x: Array) -> Array:
    """A `setting` in the shape that multiplies x [batch, ...]. Raises UserError for one of another batch."""
    if jnp.shape(value) not in ((), x.shape[:1]):
        raise UserError(f"{name} has shape {jnp.shape(value)} for a batch of {x.shape[0]}")
    return expand(value, x)


def with_x0(pair: Prediction, x0: Array, t: ArrayLike, schedule: Schedule) -> Prediction:
    """The pair of the same xt with another x0; eps moves by -alpha / sigma of the change, so not without one."""
    alpha, sigma = coefficients(schedule, t, x0)
    eps = pair.eps - alpha / jnp.maximum(sigma, FLOOR) * (x0 - pair.x0)
    return Prediction(x0, eps, pair.variance)
