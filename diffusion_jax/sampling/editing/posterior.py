"""Inverse problems: samples x0 that explain y = A x0 + noise_std n, for a given operator A and any denoiser.

The score of the posterior at xt is the denoiser's plus grad_xt log p(y | xt), and p(y | xt) = E[p(y | x0)] over p(x0 | xt).
`pigdm` and `dps` differ in what they take p(x0 | xt) for; here is what they share, the look at the operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.typing import UserError

__all__ = ["seen"]


def seen(operator: Callable[[Array], Array], y: Any, x: Array) -> jax.ShapeDtypeStruct:
    """What the operator makes of x [batch, ...], by its shape alone. UserError where it fails or y does not fit."""
    name = f"the operator of an inverse problem, on a batch of shape {x.shape},"
    try:
        out = jax.eval_shape(operator, jax.ShapeDtypeStruct(x.shape, x.dtype))
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"{name} fails: {str(error).strip().splitlines()[0]}") from error
    shape = getattr(out, "shape", None)
    if shape is None or not jnp.issubdtype(out.dtype, jnp.floating):
        raise UserError(f"{name} gives {out!r}, not an array of floats")
    if shape[:1] != x.shape[:1] or jnp.shape(y) not in (shape, (1, *shape[1:])):
        raise UserError(
            f"{name} gives the shape {shape}, but y has shape {jnp.shape(y)}: they must be equal (or y's batch 1)"
        )
    return out
