"""AdamW and Muon as this package uses them: decay by path, warm-up and cosine, bounds that hold exactly.

One update is theta <- theta - lr(n) (m_hat / (sqrt(v_hat) + eps) + weight_decay theta) (Loshchilov and Hutter,
arXiv 1711.05101), where the decay leaves out what a path pattern names. The number of axes would not do: the biases of
stacked layers have two. The learning rate at update n (from 0) is lr (n + 1) / warmup during warm-up; then either
constant, or lr (e + (1 - e)(1 + cos(pi u)) / 2) with u = (n - warmup) / (total - warmup) in [0, 1] and e = end_scale, or lr
sqrt(r / max(n, r)) with r = reference_steps ("inverse_sqrt": EDM2, arXiv 2312.02696, eq. 67).

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) steps along the orthogonal matrix nearest to the momentum
U S V^T of a hidden layer's kernel [in, out], theta <- theta - lr(n) (0.2 sqrt(max(in, out)) U V^T + weight_decay theta). U V^T
is approached by five Newton-Schulz iterations, and the factor gives the step the root mean square of AdamW's, so that rate and
decay mean the same (Liu et al., arXiv 2502.16982, section 2.2). What is no hidden kernel is left to AdamW.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from diffusion_jax.parallel.rules import path_of
from diffusion_jax.typing import Array, Params, PyTree, UserError, one_of

__all__ = [
    "HIDDEN",
    "NO_DECAY",
    "adamw",
    "clamp_params",
    "decay_mask",
    "learning_rate_at",
    "muon",
    "parted",
    "projected",
]

NO_DECAY = (
    r"(^|/)(bias|[^/]*_bias)$",
    r"(^|/)(scale|gain|logit_scale|mean|std|var|alpha)$",
    r"(^|/)(norm|ln)(_[^/]*)?/",
    r"(^|/)(class|positional|null|query)_embedding$",
    r"(^|/)frequencies$",
)
"""What does not decay: biases, norms and their statistics, the temperature, the alpha of adapters, and the embeddings of
class, position, null and query."""
HIDDEN = (r"(^|/)blocks/(.*/)?kernel$",)
"""The kernels that Muon turns: those of a transformer's blocks, not the first layer, the last, or an embedding."""


def learning_rate_at(
    learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    schedule: str = "cosine",
    end_scale: float = 0.0,
    reference_steps: int = 70_000,
) -> Callable[[Array | int], Array]:
    """The function from the number of updates done (a scalar) to the learning rate of the next (see the module).

    Raises `UserError` for an unknown schedule, for a rate that is negative (it would go uphill) or not finite, for an
    end_scale outside [0, 1], and for a warm-up that is negative or not shorter than the whole.
    """
    one_of("schedule", schedule, ("cosine", "constant", "inverse_sqrt"))
    if not 0 <= learning_rate < math.inf:
        raise UserError(f"learning_rate {learning_rate} is not a finite number of at least 0; usual: 1e-3")
    if not reference_steps >= 1:
        raise UserError(f"reference_steps {reference_steps} is not at least 1; usual: 70000")
    if not 0 <= end_scale <= 1:
        raise UserError(f"end_scale {end_scale} is not in [0, 1]; usual: 0")
    if not 0 <= warmup_steps < total_steps:
        raise UserError(
            f"warmup_steps {warmup_steps} is not in [0, total_steps {total_steps}); "
            f"nearest: {min(max(warmup_steps, 0), max(total_steps - 1, 0))}"
        )

    def at(count: Array | int) -> Array:
        n = jnp.asarray(count, jnp.float32)
        u = jnp.clip((n - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)
        fall = jnp.ones_like(n)
        if schedule == "cosine":
            fall = end_scale + (1 - end_scale) * 0.5 * (1 + jnp.cos(jnp.pi * u))
        elif schedule == "inverse_sqrt":
            fall = jax.lax.rsqrt(jnp.maximum(n / reference_steps, 1.0))
        return learning_rate * jnp.where(n < warmup_steps, (n + 1) / max(warmup_steps, 1), fall)

    return at


def decay_mask(params: Params, no_decay: Sequence[str] = NO_DECAY) -> PyTree:
    """True for each parameter that decays: those in whose path no pattern of `no_decay` is found."""
    patterns = [_compile(pattern, "no_decay") for pattern in no_decay]
    return jax.tree_util.tree_map_with_path(
        lambda key_path, _: not any(p.search(path_of(key_path)) for p in patterns), params
    )


def _compile(pattern: str, what: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{what} pattern {pattern!r} is not a regular expression: {error}") from error


def clamp_params(bounds: Mapping[str, tuple[float, float]]) -> optax.GradientTransformation:
    """Rewrites updates so that `params + update` lies within (lo, hi) where a pattern of `bounds` is found in the path.

    Exact in floating point: hi - p is rounded, so p + (hi - p) may exceed hi by an ulp; then the update gives way by
    the larger of the spacings of hi and of itself. It must be the last of a chain. Raises `UserError` at init for a
    pattern found in no path.
    """
    patterns = [(_compile(pattern, "clamp"), pattern, lo, hi) for pattern, (lo, hi) in bounds.items()]
    for _, pattern, lo, hi in patterns:
        if not lo <= hi:
            raise UserError(f"clamp {pattern!r}: ({lo}, {hi}) is no interval; nearest: ({hi}, {lo})")

    def init(params: Params) -> optax.EmptyState:
        paths = [path_of(key_path) for key_path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for compiled, pattern, _, _ in patterns:
            if not any(compiled.search(path) for path in paths):
                one_of("clamp", pattern, paths)
        return optax.EmptyState()

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        def bounded(key_path: Any, u: Array, p: Array) -> Array:
            for compiled, _, lo, hi in patterns:
                if compiled.search(path_of(key_path)):
                    u = _bounded(u, p, lo, hi)
            return u

        return jax.tree_util.tree_map_with_path(bounded, updates, params), state

    return optax.GradientTransformation(init, update)


def projected(project: Callable[[Params], Params]) -> optax.GradientTransformation:
    """Rewrites updates so that `params + update` is project(params + update), to a rounding; the last of a chain."""

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        moved = project(optax.apply_updates(params, updates))
        return jax.tree.map(lambda after, before: after - before, moved, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def parted(
    tx: optax.GradientTransformation, rates: Mapping[str, float], hidden: Sequence[str] = ()
) -> optax.GradientTransformation:
    """`tx` once for the parameters of each pattern of `rates`, and once for all others.

    Each part has its own moments and its own norm that `clip_norm` bounds, and a part's updates are multiplied by its rate: of
    two networks that play against each other neither's gradient makes the other's step smaller. `tx` as it is without a
    pattern. Raises `UserError` at init for a pattern found in no path, and for one of `hidden`, those of `muon`, which sees a
    part and may find none there.
    """
    if not rates:
        return tx
    patterns = {pattern: _compile(pattern, "apart") for pattern in rates}
    whole = {pattern: _compile(pattern, "hidden") for pattern in hidden}

    def labels(params: Params) -> PyTree:
        paths = [path_of(key_path) for key_path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for what, given in (("apart", patterns), ("hidden", whole)):
            for pattern, compiled in given.items():
                if not any(compiled.search(path) for path in paths):
                    one_of(what, pattern, paths)

        def of(key_path: Any, _: Array) -> str:
            return next((name for name, found in patterns.items() if found.search(path_of(key_path))), "")

        return jax.tree_util.tree_map_with_path(of, params)

    parts = {pattern: optax.chain(tx, optax.scale(rate)) for pattern, rate in rates.items()}
    return optax.partition({"": tx, **parts}, labels)


def _bounded(u: Array, p: Array, lo: float, hi: float) -> Array:
    low, high = jnp.full_like(p, lo), jnp.full_like(p, hi)
    after = p + u
    u = jnp.where(after > high, high - p, jnp.where(after < low, low - p, u))
    less = jnp.minimum(jnp.nextafter(u, -jnp.inf), u - (high - jnp.nextafter(high, -jnp.inf)))
    more = jnp.maximum(jnp.nextafter(u, jnp.inf), u + (jnp.nextafter(low, jnp.inf) - low))
    return jnp.where(p + u > high, less, jnp.where(p + u < low, more, u))


def _numbers(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise UserError(f"{name} {value} is not a finite number of at least 0")


def _shares(**values: float) -> None:
    usual = {"b1": 0.9, "b2": 0.999, "momentum": 0.95}
    for name, value in values.items():
        if not (value >= 0 and np.float32(value) < 1):
            raise UserError(f"{name} {value} is not in [0, 1); usual: {usual[name]}")


def _chained(
    scaling: optax.GradientTransformation,
    rate: Callable[[Array | int], Array],
    weight_decay: float,
    clip_norm: float | None,
    no_decay: Sequence[str],
    clamp: Mapping[str, tuple[float, float]] | None,
) -> optax.GradientTransformation:
    """Bounded gradients, `scaling`, decay, the rate, bounded parameters, in this order."""
    chain = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    chain.append(scaling)
    if weight_decay:
        chain.append(optax.add_decayed_weights(weight_decay, mask=lambda params: decay_mask(params, no_decay)))
    chain.append(optax.scale_by_learning_rate(rate))
    if clamp:
        chain.append(clamp_params(clamp))
    return optax.chain(*chain)


def adamw(
    learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    schedule: str = "cosine",
    end_scale: float = 0.0,
    reference_steps: int = 70_000,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    no_decay: Sequence[str] = NO_DECAY,
    clamp: Mapping[str, tuple[float, float]] | None = None,
) -> optax.GradientTransformation:
    """AdamW with the schedule and the decay mask of this module (there are the formulas).

    `clip_norm` bounds the global norm of the gradients; None or 0 is off, as `weight_decay` 0 is.
    `clamp` maps path patterns to (lo, hi) bounds of parameters and
    comes last; CLIP's is {"logit_scale": (0, ln 100)}. Raises `UserError` as `learning_rate_at` and `clamp_params` do, and
    for numbers with which it would stand still or go uphill: a clip_norm, decay or eps below 0, b1 or b2 outside [0, 1)
    or not to be told from 1 in float32.
    """
    _numbers(clip_norm=clip_norm or 0.0, weight_decay=weight_decay, eps=eps)
    _shares(b1=b1, b2=b2)
    rate = learning_rate_at(learning_rate, warmup_steps, total_steps, schedule, end_scale, reference_steps)
    return _chained(optax.scale_by_adam(b1, b2, eps), rate, weight_decay, clip_norm, no_decay, clamp)


def muon(
    learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    schedule: str = "cosine",
    end_scale: float = 0.0,
    reference_steps: int = 70_000,
    momentum: float = 0.95,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    no_decay: Sequence[str] = NO_DECAY,
    hidden: Sequence[str] = HIDDEN,
    clamp: Mapping[str, tuple[float, float]] | None = None,
) -> optax.GradientTransformation:
    """Muon (see the module) for the kernels in whose path a pattern of `hidden` is found, AdamW of b1, b2, eps for all else.

    A kernel is [in, out] or [height, width, in, out], the latter turned as [height width in, out]; one more axis before these
    is of stacked layers, each turned alone. `momentum` is that of Nesterov. The rest is as `adamw` has it. Raises `UserError`
    as that does, for a momentum outside [0, 1), at init for a pattern found in no path, unless these are a part of the
    parameters (`parted`), which AdamW then has alone, and for what is found and is no kernel.
    """
    _numbers(clip_norm=clip_norm or 0.0, weight_decay=weight_decay, eps=eps)
    _shares(b1=b1, b2=b2, momentum=momentum)
    rate = learning_rate_at(learning_rate, warmup_steps, total_steps, schedule, end_scale, reference_steps)
    patterns = [(_compile(pattern, "hidden"), pattern) for pattern in hidden]

    def named(params: Params, found: Callable[[str, Array], Any], other: Any) -> PyTree:
        """found(path, kernel) for each hidden kernel and `other` elsewhere."""
        paths = [path_of(key_path) for key_path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for compiled, pattern in patterns:
            if not any(compiled.search(path) for path in paths) and not _is_part(params):
                one_of("hidden", pattern, paths)

        def of(key_path: Any, leaf: Array) -> Any:
            path = path_of(key_path)
            return found(path, leaf) if any(compiled.search(path) for compiled, _ in patterns) else other

        return jax.tree_util.tree_map_with_path(of, params)

    turned = optax.contrib.scale_by_muon(
        beta=momentum, weight_dimension_numbers=lambda params: named(params, _kernel_axes, optax.MaskedNode())
    )
    scaling = optax.partition(
        {"muon": optax.chain(turned, _as_large_as_adam()), "adam": optax.scale_by_adam(b1, b2, eps)},
        lambda params: named(params, lambda path, leaf: _kernel_axes(path, leaf) and "muon", "adam"),
    )
    return _chained(scaling, rate, weight_decay, clip_norm, no_decay, clamp)


def _is_part(params: Params) -> bool:
    """Whether these are parameters of which others are masked out: `parted` has looked at the whole."""
    leaves = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    return any(isinstance(leaf, optax.MaskedNode) for leaf in leaves)


def _kernel_axes(path: str, leaf: Array) -> optax.contrib.MuonDimensionNumbers:
    """The axes into and out of a kernel, those of stacked layers left out. UserError for what has too few or too many."""
    if leaf.ndim not in (2, 3, 4, 5):
        raise UserError(
            f"hidden {path!r} is no kernel: its shape is {leaf.shape}, not [in, out] or [height, width, in, out]"
        )
    first = leaf.ndim % 2
    return optax.contrib.MuonDimensionNumbers(tuple(range(first, leaf.ndim - 1)), (leaf.ndim - 1,))


def _as_large_as_adam() -> optax.GradientTransformation:
    """Gives orthogonal steps [in, out] the root mean square 0.2 (arXiv 2502.16982, eq. 4)."""

    def scaled(u: Array) -> Array:
        fans = (math.prod(u.shape[axis] for axis in axes) for axes in _kernel_axes("", u))
        return 0.2 * math.sqrt(max(fans)) * u

    return optax.stateless(lambda updates, params: jax.tree.map(scaled, updates))
