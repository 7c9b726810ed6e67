"""Guidance: functions from a DenoiseFn to a DenoiseFn.

**Classifier-free guidance** (arXiv 2207.12598): guided = u + w (c - u), c and u the predictions under the condition
and under the null condition; w = 1 is no guidance, w = 0 ignores the condition, larger w follows it more closely. The
w of the paper is this one minus 1. A **negative prompt** takes the place of the null condition, so that samples are
led away from it. Both predictions come from one call on a batch of 2B. The pair (x0, eps) is guided as a whole:
guidance is linear and xt = alpha x0 + sigma eps holds for both.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.sde import expand
from diffusion_jax.typing import DenoiseFn, Prediction, PyTree, UserError, pytree_dataclass

__all__ = ["ClassifierFree", "classifier_free"]


@pytree_dataclass
class ClassifierFree:
    """u + w (c - u) as a DenoiseFn; made by `classifier_free`. All fields are leaves: other values do not recompile."""

    denoise: Any
    other: Any
    guidance_scale: Any

    def __call__(self, xt: Array, t: Array, cond: PyTree = None) -> Prediction:
        """The guided pair at xt [batch, ...] and t (scalar or [batch]). Raises UserError without a condition."""
        if cond is None:
            raise UserError("classifier-free guidance needs a condition; sample(..., cond=...) was given None")
        size = xt.shape[0]
        t = jnp.broadcast_to(jnp.asarray(t), (size,))
        both = jax.tree.map(lambda c, o: jnp.concatenate([c, _broadcast(o, c)]), cond, self.other)
        pair = self.denoise(jnp.concatenate([xt, xt]), jnp.concatenate([t, t]), both)
        scale = expand(self.guidance_scale, xt)
        x0, eps = (a[size:] + scale * (a[:size] - a[size:]) for a in (pair.x0, pair.eps))
        return Prediction(x0, eps)


def _broadcast(other: Array, cond: Array) -> Array:
    other, cond = jnp.asarray(other), jnp.asarray(cond)
    if other.shape[1:] != cond.shape[1:] or other.shape[:1] not in ((1,), cond.shape[:1]):
        raise UserError(
            f"the null or negative condition has shape {other.shape} beside a condition of shape {cond.shape}"
        )
    return jnp.broadcast_to(other, cond.shape).astype(cond.dtype)


def classifier_free(
    denoise: DenoiseFn, null: PyTree, guidance_scale: float | Array = 1.0, *, negative: PyTree | None = None
) -> ClassifierFree:
    """`denoise` guided towards its condition and away from `null`, or from `negative` where one is given.

    null and negative are conditions with leading axis 1 or batch; guidance_scale is a scalar, or [batch] for several
    scales in one batch. Raises UserError when null has another structure than negative.
    """
    if negative is not None and jax.tree.structure(negative) != jax.tree.structure(null):
        raise UserError("the negative condition has another structure than the null condition")
    # An array, so that a scale of 3 and one of 3.0 are one compiled program.
    scale = jnp.asarray(guidance_scale, jnp.float32)
    if scale.ndim > 1:
        raise UserError(f"guidance_scale has shape {scale.shape}; it is a number, or one an example")
    return ClassifierFree(denoise, null if negative is None else negative, scale)
