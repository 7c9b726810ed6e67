"""Parameters that stand still: locked towers (LiT, arXiv 2111.07991), chosen by path patterns.

A locked parameter takes no gradient (`locked_loss`: XLA drops its part of the backward pass) and no update, no decay and no
moments (`locked_optimizer`: its state is not even allocated). Patterns are regular expressions searched for in the path
of a parameter, keys joined by "/": "^visual/" locks CLIP's vision tower whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from diffusion_jax.parallel.rules import parameter_path
from diffusion_jax.typing import Array, Batch, Context, LossFn, Params, PyTree, UserError

__all__ = ["locked_loss", "locked_optimizer", "locked_tree"]


def locked_tree(params: Params, patterns: Sequence[str]) -> PyTree:
    """True for each parameter in whose path a pattern is found.

    Raises UserError for a pattern that is no regular expression, that finds nothing, and when nothing is left to train.
    """
    found = dict.fromkeys(patterns, 0)

    def locked(path: tuple[Any, ...], leaf: Any) -> bool:
        name = parameter_path(path)
        hits = [pattern for pattern in patterns if _compile(pattern).search(name)]
        for pattern in hits:
            found[pattern] += 1
        return bool(hits)

    tree = jax.tree_util.tree_map_with_path(locked, params)
    for pattern, count in found.items():
        if not count:
            raise UserError(
                f"locked {pattern!r} is found in no parameter; their paths begin with {', '.join(sorted(params))}"
            )
    if all(jax.tree.leaves(tree)):
        raise UserError(f"locked {tuple(patterns)} leaves no parameter to train")
    return tree


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"locked {pattern!r} is not a regular expression: {error}") from error


def locked_loss(loss_fn: LossFn, patterns: Sequence[str]) -> LossFn:
    """`loss_fn` whose gradient is 0 for the parameters that the patterns name."""
    if not patterns:
        return loss_fn

    def loss(params: Params, ctx: Context, batch: Batch, key: Array) -> tuple[Array, dict[str, Array], PyTree]:
        locked = locked_tree(params, patterns)
        stopped = jax.tree.map(lambda leaf, lock: jax.lax.stop_gradient(leaf) if lock else leaf, params, locked)
        return loss_fn(stopped, ctx, batch, key)

    return loss


def locked_optimizer(tx: optax.GradientTransformation, patterns: Sequence[str]) -> optax.GradientTransformation:
    """`tx` for the parameters that no pattern names; the others get updates of 0."""
    if not patterns:
        return tx

    def which(locked: bool) -> Callable[[Params], PyTree]:
        return lambda params: jax.tree.map(lambda lock: lock == locked, locked_tree(params, patterns))

    return optax.chain(optax.masked(tx, which(False)), optax.masked(optax.set_to_zero(), which(True)))
