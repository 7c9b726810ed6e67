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
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.sde import expand
from diffusion_jax.typing import DenoiseFn, Prediction, PyTree, UserError, pytree_dataclass

__all__ = ["ClassifierFree", "classifier_free", "predict_both"]


@pytree_dataclass
class ClassifierFree:
    """u + w (c - u) as a DenoiseFn; made by `classifier_free`. All fields are leaves: other values do not recompile."""

    denoise: Any
    other: Any
    guidance_scale: Any

    def __call__(self, xt: Array, t: ArrayLike, cond: PyTree = None) -> Prediction:
        """The guided pair at xt [batch, ...] and t (scalar or [batch]); a learned variance is the condition's.

        Raises UserError without a condition, for one that does not fit the null or negative one, and for scales that
        do not fit the batch.
        """
        if jnp.shape(self.guidance_scale) not in ((), xt.shape[:1]):
            raise UserError(f"guidance_scale has shape {jnp.shape(self.guidance_scale)} for a batch of {xt.shape[0]}")
        c, u = predict_both(self.denoise, xt, t, cond, self.other)
        scale = expand(self.guidance_scale, c.x0)
        return Prediction(u.x0 + scale * (c.x0 - u.x0), u.eps + scale * (c.eps - u.eps), c.variance)


def predict_both(
    denoise: DenoiseFn, xt: Array, t: ArrayLike, cond: PyTree, other: PyTree
) -> tuple[Prediction, Prediction]:
    """The predictions under `cond` and under `other`, by one call of `denoise` on a batch of 2B.

    cond has leading axis batch, other 1 or batch. Raises UserError when cond is None or the two do not fit.
    """
    if cond is None:
        raise UserError("guidance needs a condition; sample(..., cond=...) was given None")
    if not _alike(cond, other):
        raise UserError(
            f"the null or negative condition is {jax.tree.structure(other)}, the condition {jax.tree.structure(cond)}: "
            "they must have the same structure"
        )
    t = jnp.broadcast_to(jnp.asarray(t), xt.shape[:1])
    both = jax.tree.map(lambda c, o: _interleave(jnp.asarray(c), _fit(o, c)), cond, other)
    pair = denoise(_interleave(xt, xt), _interleave(t, t), both)
    halves = [jax.tree.map(lambda a: a.reshape(-1, 2, *a.shape[1:])[:, i], pair) for i in (0, 1)]  # noqa: B023
    return halves[0], halves[1]


def _alike(a: PyTree, b: PyTree) -> bool:
    return bool(jax.tree.structure(a) == jax.tree.structure(b))  # type: ignore[operator]


def _interleave(a: Array, b: Array) -> Array:
    """[a_0, b_0, a_1, b_1, ...]: where the batch is spread over devices, both halves of an example stay on its device."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def _fit(other: Array, cond: Array) -> Array:
    other, cond = jnp.asarray(other), jnp.asarray(cond)
    if other.shape[1:] != cond.shape[1:] or other.shape[:1] not in ((1,), cond.shape[:1]):
        raise UserError(
            f"the null or negative condition has shape {other.shape} beside a condition of shape {cond.shape}"
        )
    return jnp.broadcast_to(other, cond.shape).astype(cond.dtype)


def classifier_free(
    denoise: DenoiseFn, null: PyTree, guidance_scale: ArrayLike = 1.0, negative: PyTree | None = None
) -> ClassifierFree:
    """`denoise` guided towards its condition and away from `null`, or from `negative` where one is given.

    null and negative are conditions with leading axis 1 or batch; guidance_scale is a scalar, or [batch] for several
    scales in one batch. Raises UserError when null has another structure than negative.
    """
    if negative is not None and not _alike(negative, null):
        raise UserError("the negative condition has another structure than the null condition")
    # An array, so that a scale of 3 and one of 3.0 are one compiled program.
    scale = jnp.asarray(guidance_scale, jnp.float32)
    if scale.ndim > 1:
        raise UserError(f"guidance_scale has shape {scale.shape}; it is a number, or one an example")
    if jax.tree_util.all_leaves([denoise]):
        denoise = jax.tree_util.Partial(denoise)  # a plain function becomes structure
    return ClassifierFree(denoise, null if negative is None else negative, scale)
