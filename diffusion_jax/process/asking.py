"""How a function of (xt, t, ...) is asked: the one place at which a denoiser of whoever's making is called.

A function of one's own is written for one time or for one time an example:

    alpha = schedule.alpha(t)              t a scalar: `alpha * xt`
    alpha = schedule.alpha(t)[:, None]     t [batch]: `alpha * xt`, and most networks

Given the other shape both may go wrong without a word, where an axis happens to have the length of another: with t [batch],
`alpha * xt` multiplies columns where the batch is as large as an example; with a scalar, an embedding of the time may be
spread along a wrong axis. So it is found out which of the two a function is written for, and it is given that one everywhere:

- It takes **[batch]** if, asked by shapes alone (`jax.eval_shape`, nothing is computed), it gives the right shapes for a batch
  of CALLED with as many times, and fails with OTHER times. The two sizes are like no axis of anything else.
- Else it takes **a scalar**. Where all examples share the time it is called once, on the whole batch. Where each has its own
  (adaptive solvers, likelihoods, losses) it is asked about one example at a time, by `jax.vmap`: xt [1, ...], t a scalar, and
  the example's own rows [1, ...] of the condition.

What is found is remembered with the function. A denoiser that takes both shapes says so as an `AnyTime`, as all of this
package do, and is called as it is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.typing import Prediction, PyTree, UserError

__all__ = ["AnyTime", "an_array", "ask", "checked", "predict"]

CALLED, OTHER = 1016, 1048  # multiples of 8, for functions that split the batch over devices


class AnyTime:
    """A function of (xt [batch, ...], t, ...) for which t may be a scalar or [batch], each right: asked without a trial."""


_FOUND: weakref.WeakKeyDictionary[Any, dict[Any, bool]] = weakref.WeakKeyDictionary()


def ask(fn: Callable[..., Any], xt: Array, t: ArrayLike, *trees: PyTree) -> Any:
    """fn(xt [batch, ...], t, *trees), t a scalar or [batch]; `trees` are pytrees, and their leaves [batch, ...] go by example.

    fn is given t as it is written for, see the module. It leaves the examples apart, and each leaf of what it gives has
    leading axis batch. Raises UserError where it takes neither.
    """
    t = jnp.asarray(t)
    if isinstance(fn, AnyTime) or isinstance(getattr(fn, "__self__", None), AnyTime):
        return _said(fn, xt, t, trees)
    size = xt.shape[0]
    if t.ndim and t.shape not in ((1,), (size,)):
        raise UserError(f"a time t of shape {t.shape} does not fit a batch of {size}: it is one, or one an example")
    if _takes_batch(fn, xt, t, trees):
        return fn(xt, jnp.broadcast_to(t, (size,)), *trees)
    if t.size == 1:
        return _either(fn, xt, t.reshape(()), trees)
    return _one_by_one(fn, xt, t, trees)


def _one_by_one(fn: Callable[..., Any], xt: Array, t: Array, trees: tuple[PyTree, ...]) -> Any:
    size = xt.shape[0]
    own, structure = jax.tree.flatten(trees)
    moves = [jnp.shape(leaf)[:1] == (size,) for leaf in own]

    def alone(x: Array, time: Array, rows: list[Any]) -> Any:
        taken = iter(rows)
        leaves = [next(taken)[None] if moved else leaf for leaf, moved in zip(own, moves, strict=True)]
        made = _either(fn, x[None], time, jax.tree.unflatten(structure, leaves), ALONE)
        if any(jnp.shape(leaf)[:1] != (1,) for leaf in jax.tree.leaves(made)):
            shapes = ", ".join(str(jnp.shape(leaf)) for leaf in jax.tree.leaves(made))
            raise UserError(f"{_name(fn)} gives {shapes} for one example of shape {x.shape}{ALONE}")
        return jax.tree.map(lambda leaf: leaf[0], made)

    return jax.vmap(alone)(xt, t, [leaf for leaf, moved in zip(own, moves, strict=True) if moved])


ALONE = (
    ", asked about one example at a time as each has a time of its own here: "
    "what belongs to an example goes through cond, or let it take t [batch]"
)


def _said(fn: Callable[..., Any], xt: Array, t: Array, trees: tuple[PyTree, ...]) -> Any:
    try:
        return fn(xt, t, *trees)
    except UserError:
        raise
    except FAILURES as error:
        # The example's shape, not the batch's: guidance asks about more examples than its user has.
        raise UserError(f"{_name(fn)} fails: {_cause(error)}; an example of xt has shape {xt.shape[1:]}") from error


def _either(fn: Callable[..., Any], xt: Array, t: Array, trees: tuple[PyTree, ...], how: str = "") -> Any:
    """fn with a scalar t. Where that fails, what it says of t [batch] comes first: one of the two is its author's mistake."""
    try:
        return fn(xt, t, *trees)
    except UserError:
        raise
    except FAILURES as error:
        said = _cause(error)
        try:
            jax.eval_shape(lambda x, times: fn(x, times, *trees), xt, jnp.broadcast_to(t, xt.shape[:1]))
        except Exception as other:
            first = _cause(other)
            said = said if first == said else f"{first} (with a scalar t: {said})"
        raise UserError(
            f"{_name(fn)} fails: {said}; it was asked with t of shape [batch] and with a scalar, for examples of shape "
            f"{xt.shape[1:]}{how}"
        ) from error


FAILURES = (TypeError, ValueError, IndexError)


def _cause(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {line}"


def _takes_batch(fn: Callable[..., Any], xt: Array, t: Array, trees: tuple[PyTree, ...]) -> bool:
    leaves, structure = jax.tree.flatten(trees)
    shapes = [(jnp.shape(leaf), getattr(leaf, "dtype", None)) for leaf in leaves]
    # A function bound to no arrays is one function, however often JAX takes it apart and puts it together.
    plain = isinstance(fn, jax.tree_util.Partial) and not fn.args and not fn.keywords
    asked, signature = getattr(fn, "func", fn) if plain else fn, (xt.shape, xt.dtype, t.dtype, structure, tuple(shapes))
    try:
        found = _FOUND.setdefault(asked, {})
    except TypeError:  # it can be no key: nothing is remembered
        found = {}
    if signature not in found:
        found[signature] = _passes(fn, xt, t, trees, CALLED) and not _passes(fn, xt, t, trees, OTHER)
    return found[signature]


def _passes(fn: Callable[..., Any], xt: Array, t: Array, trees: tuple[PyTree, ...], times: int) -> bool:
    """Whether fn gives leaves with a leading axis of CALLED for as many examples and `times` times."""
    size = xt.shape[0]

    def like(leaf: Any) -> Any:
        if jnp.shape(leaf)[:1] != (size,) or not hasattr(leaf, "dtype"):
            return leaf
        return jax.ShapeDtypeStruct((CALLED, *leaf.shape[1:]), leaf.dtype)

    leaves, structure = jax.tree.flatten(jax.tree.map(like, trees))
    abstract = [isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves]

    def called(x: Array, t: Array, given: list[Any]) -> Any:
        taken = iter(given)
        filled = [next(taken) if is_ else leaf for leaf, is_ in zip(leaves, abstract, strict=True)]
        return fn(x, t, *jax.tree.unflatten(structure, filled))

    x, s = jax.ShapeDtypeStruct((CALLED, *xt.shape[1:]), xt.dtype), jax.ShapeDtypeStruct((times,), t.dtype)
    given = [leaf for leaf, is_ in zip(leaves, abstract, strict=True) if is_]
    try:
        made = jax.eval_shape(called, x, s, given)
    except Exception:  # whatever it says of these shapes: it does not take them
        return False
    if isinstance(made, Prediction):
        return all(getattr(part, "shape", None) == x.shape for part in (made.x0, made.eps))
    return all(leaf.shape[:1] == (CALLED,) for leaf in jax.tree.leaves(made))


def predict(denoise: Any, xt: Array, t: ArrayLike, cond: PyTree = None) -> Prediction:
    """denoise(xt [batch, ...], t, cond) of any DenoiseFn, t a scalar or [batch].

    Raises UserError for what is no Prediction of xt's shape in floats.
    """
    return checked(denoise, ask(denoise, xt, t, cond), xt)


def an_array(fn: Any, made: Any) -> Array:
    """`made`, or a UserError that says what `fn` gave instead of an array."""
    if made is None:
        raise UserError(f"{_name(fn)} gives None, not an array: is there a return?")
    if not (hasattr(made, "shape") and hasattr(made, "dtype")):
        raise UserError(f"{_name(fn)} gives a {type(made).__name__}, not an array")
    return made


def checked(denoise: Any, pair: Any, xt: Array) -> Prediction:
    """`pair`, or a UserError that says what `denoise` gave instead of a Prediction of xt's shape."""
    name = _name(denoise)
    if not (hasattr(pair, "x0") and hasattr(pair, "eps")):
        if pair is None:
            raise UserError(f"{name} gives None, not a Prediction(x0, eps): is there a return?")
        what = f"an array of shape {pair.shape}" if hasattr(pair, "shape") else f"a {type(pair).__name__}"
        raise UserError(
            f"{name} gives {what}, not a Prediction(x0, eps): from_x0({name}, schedule) makes one of a function of x0, "
            "to_prediction(kind, output, xt, t, schedule) of a network's output"
        )
    for part in ("x0", "eps"):
        value = getattr(pair, part)
        shape, dtype = getattr(value, "shape", ()), getattr(value, "dtype", None)
        if shape != xt.shape or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise UserError(
                f"{name} gives {part} of shape {shape} and type {dtype or type(value).__name__} for xt of shape {xt.shape}: "
                "the shapes are equal and the numbers floats"
            )
    if isinstance(pair, Prediction):
        return pair
    return Prediction(pair.x0, pair.eps, getattr(pair, "variance", None))


def _name(fn: Any) -> str:
    if isinstance(fn, jax.tree_util.Partial):
        fn = fn.func
    return str(getattr(fn, "__name__", type(fn).__name__))
