"""Guidance by contrast: two predictions, one to go towards (c) and one to leave (u), and a rule that joins them.

The two come from one denoiser under two conditions, in one call on a batch of 2B, or from two denoisers under one
condition, a good one and a weaker one (**autoguidance**, arXiv 2406.02507). A **negative prompt** takes the place of the
null condition, so that samples are led away from it. With w the guidance scale the rules are

- **classifier-free** (arXiv 2207.12598): u + w (c - u). w = 1 is no guidance, w = 0 ignores the condition, larger w
  follows it more closely; the w of the paper is this one minus 1. Linear, so the pair (x0, eps) is guided as a whole.
- **rescaled** (arXiv 2305.08891, section 3.4): the guided prediction g, in the form in which the network was trained,
  becomes phi (std c / std g) g + (1 - phi) g, with standard deviations over an example's entries.
- **APG** (arXiv 2410.02416, algorithm 1), in x0: with d = c - u, plus `momentum` times the d of the step before,
  its norm capped, and d split in a part along c and one across it: c + (w - 1) (d_across + eta d_along). At eta = 1
  without cap and momentum it is classifier-free guidance.
- **CFG++** (arXiv 2406.08070, algorithm 2): x0 is guided by a scale in [0, 1], but noised again with the eps of u. So the
  pair does not add up to xt. It is meant for first-order steps from the pair: DDIM, Euler, ExponentialEuler.
- **CFG-Zero*** (arXiv 2503.18886, algorithm 1), in the velocity: s u + w (c - s u) with s = <c, u> / |u|^2; the velocity is
  0 at the beginning, at times above `zero_above`.

The learned variance, where there is one, is c's. Scales are data: a number, or one an example; other values do not
recompile.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.arguments import check_condition, check_schedule, known
from diffusion_jax.process.asking import AnyTime
from diffusion_jax.process.prediction import KINDS, from_pair, to_prediction
from diffusion_jax.process.sde import expand
from diffusion_jax.sampling.guidance.steered import (
    Steered,
    fitted,
    memory_of,
    remembering,
    setting,
    structured,
    with_x0,
)
from diffusion_jax.typing import (
    DenoiseFn,
    Prediction,
    PyTree,
    Schedule,
    UserError,
    one_of,
    pytree_dataclass,
    static,
)

__all__ = [
    "Guided",
    "apg",
    "autoguidance",
    "cfg_plus_plus",
    "cfg_zero",
    "classifier_free",
    "interleave",
    "predict_all",
    "predict_both",
    "rescale",
]


@pytree_dataclass
class Guided(Steered, AnyTime):
    """The predictions of `contrast`, joined by `rule`. Made by the functions of this module."""

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
class _Conditions:
    """One denoiser under the condition and under `other` [1 or batch, ...]."""

    denoise: Any
    other: Any

    def start(self, xt: Array) -> PyTree:
        return memory_of(self.denoise, interleave([xt, xt]))

    def predictions(self, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Any, Any, PyTree]:
        (towards, away), memory = predict_all(self.denoise, xt, t, cond, [self.other], memory)
        return towards, away, memory


@pytree_dataclass
class _Models:
    """Two denoisers under the condition."""

    denoise: Any
    weak: Any

    def start(self, xt: Array) -> PyTree:
        return memory_of(self.denoise, xt), memory_of(self.weak, xt)

    def predictions(self, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Any, Any, PyTree]:
        towards, first = remembering(self.denoise, xt, t, cond, memory[0])
        away, second = remembering(self.weak, xt, t, cond, memory[1])
        return towards, away, (first, second)


class _Rule:
    """`join` makes one pair of two; most rules have no memory."""

    def start(self, xt: Array) -> PyTree:
        return ()

    def join(self, c: Prediction, u: Prediction, xt: Array, t: ArrayLike, memory: PyTree) -> tuple[Prediction, PyTree]:
        raise NotImplementedError


@pytree_dataclass
class _Linear(_Rule):
    guidance_scale: Any

    def join(self, c: Prediction, u: Prediction, xt: Array, t: ArrayLike, memory: PyTree) -> tuple[Prediction, PyTree]:
        scale = fitted("guidance_scale", self.guidance_scale, c.x0)
        return Prediction(u.x0 + scale * (c.x0 - u.x0), u.eps + scale * (c.eps - u.eps), c.variance), memory


@pytree_dataclass
class _Rescaled(_Rule):
    rule: Any
    phi: Any
    schedule: Any
    prediction: str = static()

    def start(self, xt: Array) -> PyTree:
        return self.rule.start(xt)

    def join(self, c: Prediction, u: Prediction, xt: Array, t: ArrayLike, memory: PyTree) -> tuple[Prediction, PyTree]:
        pair, memory = self.rule.join(c, u, xt, t, memory)
        guided, plain = (from_pair(self.prediction, p.x0, p.eps, t, self.schedule) for p in (pair, c))
        phi, spread = fitted("rescale", self.phi, guided), _std(guided)
        ratio = jnp.where(spread > 0, _std(plain) / jnp.where(spread > 0, spread, 1.0), 1.0)
        # From the guided pair on, so that phi = 0 leaves it as it is.
        change = phi * (ratio - 1.0)
        moved = to_prediction(self.prediction, guided + change * guided, xt, t, self.schedule)
        kept = change == 0
        return Prediction(
            jnp.where(kept, pair.x0, moved.x0), jnp.where(kept, pair.eps, moved.eps), pair.variance
        ), memory


@pytree_dataclass
class _Projected(_Rule):
    guidance_scale: Any
    eta: Any
    momentum: Any  # None: there is no memory
    norm_threshold: Any
    schedule: Any

    def start(self, xt: Array) -> PyTree:
        return () if self.momentum is None else jnp.zeros(xt.shape, jnp.promote_types(xt.dtype, jnp.float32))

    def join(self, c: Prediction, u: Prediction, xt: Array, t: ArrayLike, memory: PyTree) -> tuple[Prediction, PyTree]:
        difference = c.x0 - u.x0
        if self.momentum is not None:
            difference = memory = difference + fitted("momentum", self.momentum, difference) * memory
        norm, cap = _norm(difference), fitted("norm_threshold", self.norm_threshold, difference)
        difference = jnp.where(norm > cap, cap / jnp.where(norm > cap, norm, 1.0), 1.0) * difference
        square = _inner(c.x0, c.x0)
        along = jnp.where(square > 0, _inner(difference, c.x0) / jnp.where(square > 0, square, 1.0), 0.0) * c.x0
        scale, eta = (fitted(n, v, c.x0) for n, v in (("guidance_scale", self.guidance_scale), ("eta", self.eta)))
        update = difference + (eta - 1.0) * along
        return with_x0(c, c.x0 + (scale - 1.0) * update, t, self.schedule), memory


@pytree_dataclass
class _PlusPlus(_Rule):
    guidance_scale: Any

    def join(self, c: Prediction, u: Prediction, xt: Array, t: ArrayLike, memory: PyTree) -> tuple[Prediction, PyTree]:
        scale = fitted("guidance_scale", self.guidance_scale, c.x0)
        return Prediction(u.x0 + scale * (c.x0 - u.x0), u.eps, c.variance), memory


@pytree_dataclass
class _Zero(_Rule):
    guidance_scale: Any
    zero_above: Any
    schedule: Any

    def join(self, c: Prediction, u: Prediction, xt: Array, t: ArrayLike, memory: PyTree) -> tuple[Prediction, PyTree]:
        towards, away = (from_pair("velocity", p.x0, p.eps, t, self.schedule) for p in (c, u))
        square = _inner(away, away)
        best = jnp.where(square > 0, _inner(towards, away) / jnp.where(square > 0, square, 1.0), 1.0)
        scale = fitted("guidance_scale", self.guidance_scale, towards)
        velocity = best * away + scale * (towards - best * away)
        begins = expand(jnp.asarray(t, jnp.float32), towards) > fitted("zero_above", self.zero_above, towards)
        pair = to_prediction("velocity", jnp.where(begins, 0.0, velocity), xt, t, self.schedule)
        return dataclasses.replace(pair, variance=c.variance), memory


def _inner(a: Array, b: Array) -> Array:
    """The inner product of each example, in the shape that multiplies it."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


def _norm(a: Array) -> Array:
    return jnp.sqrt(_inner(a, a))


def _std(a: Array) -> Array:
    return jnp.std(a, axis=tuple(range(1, a.ndim)), keepdims=True)


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


def _contrast(denoise: Any, null: PyTree, negative: PyTree | None) -> _Conditions:
    check_condition("the null condition", null)
    if any(isinstance(leaf, str) for leaf in jax.tree.leaves(negative)):
        raise UserError(f"the negative condition {negative!r} is text: encode it first, as run.encode_text([...])")
    if negative is not None and not _alike(negative, null):
        raise UserError("the negative condition has another structure than the null condition")
    return _Conditions(structured(denoise), null if negative is None else negative)


def _scale(guidance_scale: Any, negative: Any) -> Array:
    """A scale below 0 leads away from the condition: with nothing to go towards instead that is a slip."""
    scale = setting("guidance_scale", guidance_scale)
    if known(scale) and not np.isfinite(np.asarray(scale)).all():
        raise UserError("guidance_scale is infinite: usual scales are from 1 to 10")
    if negative is None and not isinstance(scale, jax.core.Tracer) and bool((np.asarray(scale) < 0).any()):
        raise UserError(
            f"guidance_scale {np.asarray(scale).min():g} is negative without a negative prompt: to keep away from a "
            "condition give it as `negative`; the nearest scale is 0, which ignores the condition"
        )
    return scale


def classifier_free(
    denoise: DenoiseFn, null: PyTree, guidance_scale: ArrayLike = 1.0, negative: PyTree | None = None
) -> Guided:
    """`denoise` guided towards its condition and away from `null`, or from `negative` where one is given.

    null and negative are conditions with leading axis 1 or batch; guidance_scale is a scalar, or [batch] for several
    scales in one batch. Raises UserError when null has another structure than negative, and for a negative scale without
    a negative condition.
    """
    return Guided(_contrast(denoise, null, negative), _Linear(_scale(guidance_scale, negative)))


def autoguidance(denoise: DenoiseFn, weak: DenoiseFn, guidance_scale: ArrayLike = 2.0) -> Guided:
    """`denoise` led away from `weak`, a smaller or less trained model of the same data and conditions.

    The condition may be None. For guidance towards a condition besides, give both models guided. Raises UserError for a
    negative scale.
    """
    return Guided(_Models(structured(denoise), structured(weak, "weak")), _Linear(_scale(guidance_scale, None)))


def rescale(guided: DenoiseFn, schedule: Schedule, prediction: str, phi: ArrayLike = 0.7) -> Guided:
    """`guided` with its prediction scaled to the spread of the conditional one by the share phi in [0, 1]; 0 leaves it.

    `prediction` is what the network was trained to give. Raises UserError for another kind, for phi outside [0, 1], and
    for a denoiser that is not guided by contrast.
    """
    if not isinstance(guided, Guided):
        raise UserError(f"rescale acts on a guided denoiser, as classifier_free makes, not on {type(guided).__name__}")
    check_schedule(schedule)
    one_of("prediction", prediction, KINDS)
    rule = _Rescaled(guided.rule, setting("rescale", phi, 0.0, 1.0), schedule, prediction)
    return Guided(guided.contrast, rule)


def apg(
    denoise: DenoiseFn,
    null: PyTree,
    guidance_scale: ArrayLike,
    negative: PyTree | None = None,
    *,
    schedule: Schedule,
    eta: ArrayLike = 0.0,
    momentum: ArrayLike = -0.5,
    norm_threshold: ArrayLike = float("inf"),
) -> Guided:
    """Adaptive projected guidance: as `classifier_free`, less of what only brightens.

    `eta` is the share of the part along the conditional x0; `momentum` of the differences before (negative values push
    away from them; exactly 0 needs no memory); `norm_threshold` > 0 caps the norm of the
    difference of an example. Raises UserError as `classifier_free`.
    """
    check_schedule(schedule)
    forgetful = known(momentum) and not np.any(np.asarray(momentum))
    rule = _Projected(
        _scale(guidance_scale, negative),
        setting("eta", eta),
        None if forgetful else setting("momentum", momentum, -1.0, 1.0),
        setting("norm_threshold", norm_threshold, 0.0),
        schedule,
    )
    return Guided(_contrast(denoise, null, negative), rule)


def cfg_plus_plus(
    denoise: DenoiseFn, null: PyTree, guidance_scale: ArrayLike = 0.6, negative: PyTree | None = None
) -> Guided:
    """CFG++ with a scale in [0, 1]; for solvers of first order. Raises UserError for a scale outside."""
    rule = _PlusPlus(setting("guidance_scale of CFG++", guidance_scale, 0.0, 1.0))
    return Guided(_contrast(denoise, null, negative), rule)


def cfg_zero(
    denoise: DenoiseFn,
    null: PyTree,
    guidance_scale: ArrayLike,
    negative: PyTree | None = None,
    *,
    schedule: Schedule,
    zero_above: ArrayLike = 1.0,
) -> Guided:
    """CFG-Zero*, made for flow matching: the unconditional velocity at its best length, and none at times above `zero_above`.

    The paper keeps the velocity 0 for the first 4% of the steps: `zero_above=0.96`; 1 never does. Raises UserError as
    `classifier_free`, and for `zero_above` outside [0, 1].
    """
    check_schedule(schedule)
    rule = _Zero(_scale(guidance_scale, negative), setting("zero_above", zero_above, 0.0, 1.0), schedule)
    return Guided(_contrast(denoise, null, negative), rule)
