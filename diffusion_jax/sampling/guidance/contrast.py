"""Guidance by contrast: two predictions, one to go towards (c) and one to leave (u), and a rule that joins them.

The two come from one denoiser under two conditions, in one call on a batch of 2B, or from two denoisers under one
condition, a good one and a weaker one (`autoguidance`). A **negative prompt** takes the place of the null condition, so
that samples are led away from it. The rules are a file each: `classifier_free`, `rescale`, `apg`, `cfg_plus_plus` and
`cfg_zero`.

The learned variance, where there is one, is c's. Scales are data: a number, or one an example; other values do not
recompile.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.arguments import check_condition, known
from diffusion_jax.process.asking import AnyTime
from diffusion_jax.sampling.guidance.steered import (
    Steered,
    memory_of,
    remembering,
    setting,
    structured,
)
from diffusion_jax.typing import (
    DenoiseFn,
    Prediction,
    PyTree,
    UserError,
    pytree_dataclass,
)

__all__ = ["Conditions", "Guided", "Models", "Rule", "between", "interleave", "predict_all", "predict_both", "scale_of"]


@pytree_dataclass
class Guided(Steered, AnyTime):
    """The predictions of `contrast`, joined by `rule`. Made by `classifier_free` and its kin."""

    contrast: Any
    rule: Any

    def start(self, xt: Array) -> PyTree:
        """The memories of the rule and of the denoisers."""
        return self.rule.start(xt), self.contrast.start(xt)

    def step(self, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Prediction, PyTree]:
        """The guided pair; UserError without a condition, and for scales and conditions that do not fit the batch."""
        own, inner = memory
        towards, away, inner = self.contrast.predictions(xt, t, cond, inner)
        pair, own = self.rule.join(towards, away, xt, t, own)
        return pair, (own, inner)


@pytree_dataclass
class Conditions:
    """One denoiser under the condition and under `other` [1 or batch, ...]."""

    denoise: Any
    other: Any

    def start(self, xt: Array) -> PyTree:
        """The memory of the denoiser."""
        return memory_of(self.denoise, interleave([xt, xt]))

    def predictions(self, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Any, Any, PyTree]:
        """(towards, away, memory) at xt [batch, ...] and t."""
        (towards, away), memory = predict_all(self.denoise, xt, t, cond, [self.other], memory)
        return towards, away, memory


@pytree_dataclass
class Models:
    """Two denoisers under the condition."""

    denoise: Any
    weak: Any

    def start(self, xt: Array) -> PyTree:
        """The memories of both."""
        return memory_of(self.denoise, xt), memory_of(self.weak, xt)

    def predictions(self, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Any, Any, PyTree]:
        """(towards, away, memory) at xt [batch, ...] and t."""
        towards, first = remembering(self.denoise, xt, t, cond, memory[0])
        away, second = remembering(self.weak, xt, t, cond, memory[1])
        return towards, away, (first, second)


class Rule:
    """`join` makes one pair of two; most rules have no memory."""

    def start(self, xt: Array) -> PyTree:
        """The empty memory for a batch like xt."""
        return ()

    def join(self, c: Prediction, u: Prediction, xt: Array, t: ArrayLike, memory: PyTree) -> tuple[Prediction, PyTree]:
        """The guided pair of c and u at xt [batch, ...], and the memory after it."""
        raise NotImplementedError


def predict_all(
    denoise: DenoiseFn, xt: Array, t: ArrayLike, cond: PyTree, others: list[PyTree], memory: PyTree
) -> tuple[list[Prediction], PyTree]:
    """The predictions under `cond` and under each of `others`, by one call of `denoise` on a batch of (1 + len(others)) B.

    cond has leading axis batch, the others 1 or batch. Second, the denoiser's memory. Raises UserError when cond is None
    or one of the others does not fit it.
    """
    if cond is None:
        raise UserError("guidance needs a condition; sample(..., cond=...) was given None")
    for other in others:
        if not _alike(cond, other):
            raise UserError(
                f"the null or negative condition is {jax.tree.structure(other)}, the condition "
                f"{jax.tree.structure(cond)}: they must have the same structure"
            )
    count = 1 + len(others)
    t = jnp.asarray(t)
    times = interleave([t] * count) if t.shape == xt.shape[:1] and t.shape != (1,) else t
    together = jax.tree.map(lambda c, *o: interleave([jnp.asarray(c), *(_fit(one, c) for one in o)]), cond, *others)
    pair, memory = remembering(denoise, interleave([xt] * count), times, together, memory)
    return [jax.tree.map(lambda a: a.reshape(-1, count, *a.shape[1:])[:, i], pair) for i in range(count)], memory  # noqa: B023


def predict_both(
    denoise: DenoiseFn, xt: Array, t: ArrayLike, cond: PyTree, other: PyTree
) -> tuple[Prediction, Prediction]:
    """The predictions under `cond` and under `other`; see `predict_all`."""
    memory = memory_of(denoise, interleave([xt, xt]))
    (towards, away), _ = predict_all(denoise, xt, t, cond, [other], memory)
    return towards, away


def _alike(a: PyTree, b: PyTree) -> bool:
    return bool(jax.tree.structure(a) == jax.tree.structure(b))  # type: ignore[operator]


def interleave(parts: list[Array]) -> Array:
    """[a_0, b_0, a_1, b_1, ...]: where the batch is spread over devices, all of an example stay on its device."""
    return jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def _fit(other: Array, cond: Array) -> Array:
    other, cond = jnp.asarray(other), jnp.asarray(cond)
    if other.shape[1:] != cond.shape[1:] or other.shape[:1] not in ((1,), cond.shape[:1]):
        raise UserError(
            f"the null or negative condition has shape {other.shape} beside a condition of shape {cond.shape}"
        )
    return jnp.broadcast_to(other, cond.shape).astype(cond.dtype)


def between(denoise: Any, null: PyTree, negative: PyTree | None) -> Conditions:
    """`denoise` under its condition and under `negative`, or `null` without one. UserError for what is no condition."""
    check_condition("the null condition", null)
    if any(isinstance(leaf, str) for leaf in jax.tree.leaves(negative)):
        raise UserError(f"the negative condition {negative!r} is text: encode it first, as run.encode_text([...])")
    if negative is not None and not _alike(negative, null):
        raise UserError("the negative condition has another structure than the null condition")
    return Conditions(structured(denoise), null if negative is None else negative)


def scale_of(guidance_scale: Any, negative: Any) -> Array:
    """A guidance scale. UserError for an infinite one, and for one below 0 without `negative`.

    That leads away from the condition with nothing to go towards instead, which is a slip.
    """
    scale = setting("guidance_scale", guidance_scale)
    if known(scale) and not np.isfinite(np.asarray(scale)).all():
        raise UserError("guidance_scale is infinite: usual scales are from 1 to 10")
    if negative is None and not isinstance(scale, jax.core.Tracer) and bool((np.asarray(scale) < 0).any()):
        raise UserError(
            f"guidance_scale {np.asarray(scale).min():g} is negative without a negative prompt: to keep away from a "
            "condition give it as `negative`; the nearest scale is 0, which ignores the condition"
        )
    return scale
