"""Inner products and norms of each example of a batch, in the shape that multiplies it: [batch, ...] -> [batch, 1, ...]."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

__all__ = ["inner", "norm", "std", "unit"]


def _axes(a: Array) -> tuple[int, ...]:
    return tuple(range(1, a.ndim))


def inner(a: Array, b: Array) -> Array:
    """The inner product of each example."""
    return jnp.sum(a * b, axis=_axes(a), keepdims=True)


def norm(a: Array) -> Array:
    """The Euclidean norm of each example."""
    return jnp.sqrt(inner(a, a))


def std(a: Array) -> Array:
    """The standard deviation of each example's entries."""
    return jnp.std(a, axis=_axes(a), keepdims=True)


def unit(a: Array, smallest: float = 0.0) -> Array:
    """a over its norm, an example; 0 where the norm is not above `smallest`."""
    length = norm(a)
    return jnp.where(length > smallest, a / jnp.where(length > smallest, length, 1.0), 0.0)
