"""Paths between two noises, and between two conditions.

**slerp** goes along the great circle between two noises at constant speed, as straight lines leave the sphere on which
Gaussian noise of many dimensions lies; the norm goes linearly from the one to the other. **lerp** is the straight line, for
conditions.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.arguments import data, described
from diffusion_jax.sampling.guidance.steered import fitted, setting
from diffusion_jax.sampling.norms import inner, norm, unit
from diffusion_jax.typing import PyTree, UserError

__all__ = ["interpolate", "lerp", "slerp"]


def slerp(a: Array, b: Array, weights: ArrayLike) -> Array:
    """From a (weight 0) to b (weight 1), both [batch, ...], along the great circle of each example.

    `weights` in [0, 1] is a number, or one an example. The ends are a and b bit for bit; where a and b have one norm, so
    has all between. Examples that point opposite ways have no one circle: they go straight, through 0. Raises UserError
    for shapes that differ and for weights outside.
    """
    a, b = data("a", a), data("b", b)
    if a.shape != b.shape or a.dtype != b.dtype or a.ndim < 2:
        raise UserError(
            f"slerp goes between two batches [batch, ...] alike, not {a.shape} {a.dtype} and {b.shape} {b.dtype}"
        )
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    weight = fitted("weights", setting("weights", weights, 0.0, 1.0), a.astype(dtype))
    u, v = unit(a.astype(dtype)), unit(b.astype(dtype))
    angle = 2.0 * jnp.arctan2(norm(u - v), norm(u + v))
    # The part of b across a; below rounding it is none, and what is left of it need not be across.
    across = unit(v - inner(u, v) * u, 1e-5)
    across = unit(across - inner(u, across) * u, 1e-5)
    length = (1.0 - weight) * norm(a.astype(dtype)) + weight * norm(b.astype(dtype))
    between = length * (jnp.cos(weight * angle) * u + jnp.sin(weight * angle) * across)
    return jnp.where(weight == 0, a, jnp.where(weight == 1, b, between.astype(a.dtype)))


def interpolate(a: Array, b: Array, count: int) -> Array:
    """[count, ...] noises from a to b, each of the shape of one example, along the great circle; both ends exact."""
    if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 2:
        shown = count if isinstance(count, int | float | str) else described(count)
        raise UserError(f"count {shown!r} is not a whole number of at least 2: both ends are among them")
    a, b = data("a", a), data("b", b)
    if a.shape != b.shape:
        raise UserError(f"interpolate goes between two examples of one shape, not {a.shape} and {b.shape}")
    first, last = (jnp.broadcast_to(x[None], (count, *x.shape)) for x in (a, b))
    return slerp(first, last, jnp.linspace(0.0, 1.0, count))


def lerp(a: PyTree, b: PyTree, weights: ArrayLike) -> PyTree:
    """From a to b along straight lines, for conditions: pytrees of floats [batch, ...] with one structure.

    `weights` in [0, 1] is a number, or one an example; the ends are exact. Raises UserError where the trees differ, for
    weights outside, and for whole numbers (the tokens of two prompts have nothing between them: embed them first).
    """
    if jax.tree.structure(a) != jax.tree.structure(b):  # type: ignore[operator]
        raise UserError(
            f"lerp goes between conditions of one structure, not {jax.tree.structure(a)} and {jax.tree.structure(b)}"
        )
    weights = setting("weights", weights, 0.0, 1.0)

    def one(x: Any, y: Any) -> Array:
        x, y = jnp.asarray(x), jnp.asarray(y)
        if x.shape != y.shape or not (jnp.issubdtype(x.dtype, jnp.floating) and x.dtype == y.dtype):
            raise UserError(
                f"lerp goes between floats of one shape, not {x.shape} {x.dtype} and {y.shape} {y.dtype}: embed tokens first"
            )
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        weight = fitted("weights", weights, x.astype(dtype))
        return ((1.0 - weight) * x.astype(dtype) + weight * y.astype(dtype)).astype(x.dtype)

    return jax.tree.map(one, a, b)
