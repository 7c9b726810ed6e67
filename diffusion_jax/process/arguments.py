"""What a user may have given instead of what is wanted, said in one line before anything is traced.

Every check looks at types and shapes, and at values only where they are numbers already: under a caller's own `jax.jit` the
placeholders pass, and nothing of a check is compiled.
"""

from __future__ import annotations

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion_jax.typing import PyTree, UserError

__all__ = [
    "above_zero",
    "check_cond",
    "check_condition",
    "check_denoise",
    "check_function",
    "check_schedule",
    "data",
    "described",
    "floats",
    "known",
    "number",
    "one_key",
    "typed_key",
    "whole",
]

MEMBERS = ("t_min", "t_max", "alpha", "sigma", "logsnr", "t_from_logsnr")
FAR = 30.0
"""Beyond this, pictures were never scaled: even latents of unit variance stay far below it."""
PICTURES = (1, 3, 4)


def known(*trees: Any) -> bool:
    """Whether these are numbers already, rather than placeholders under `jax.jit`."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def described(value: Any) -> str:
    """What a value is, in a few words for a message."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str | numbers.Number):
        return f"the {type(value).__name__} {value!r:.60}"
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and shape is not None:
        what = "keys" if jnp.issubdtype(dtype, jax.dtypes.prng_key) else str(dtype)
        return f"an array of {what} of shape {tuple(shape)}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    return f"a {type(value).__name__}"


def typed_key(key: Any, name: str = "key") -> Array:
    """A JAX key, or several; an old-style one of numbers is wrapped. UserError for anything else, as for a whole number."""
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    if dtype == np.uint32 and key.ndim >= 1:
        try:
            return jax.random.wrap_key_data(key)
        except (TypeError, ValueError):
            pass
    seed = int(key) if isinstance(key, numbers.Integral) else 0
    raise UserError(f"{name} is {described(key)}, not a JAX key: write jax.random.key({seed})")


def one_key(key: Any) -> Array:
    """A single JAX key. UserError for several."""
    key = typed_key(key)
    if key.ndim:
        raise UserError(f"key is {described(key)}: give one key, jax.random.key(0) or one of these")
    return key


def check_schedule(schedule: Any, order: str = "") -> None:
    """UserError unless `schedule` has the members of the protocol; `order` is that of the arguments, for the message."""
    if isinstance(schedule, type):
        raise UserError(f"schedule is the class {schedule.__name__}, not one of it: write {schedule.__name__}()")
    missing = [name for name in MEMBERS if not hasattr(schedule, name)]
    if len(missing) == len(MEMBERS):
        raise UserError(f"schedule is {described(schedule)}, not a schedule such as VPLinear(){order}")
    if missing:
        raise UserError(
            f"schedule {type(schedule).__name__} has no {', '.join(missing)}: a schedule has {', '.join(MEMBERS)}"
        )
    for name in MEMBERS:
        value = getattr(schedule, name)
        if name.startswith("t_m"):
            if callable(value):
                raise UserError(
                    f"{name} of schedule {type(schedule).__name__} is a method: it is a number, or a property"
                )
            if known(value) and not (np.ndim(value) == 0 and isinstance(np.asarray(value).item(), int | float)):
                raise UserError(f"{name} of schedule {type(schedule).__name__} is {described(value)}, not a number")
        elif not callable(value):
            raise UserError(f"{name} of schedule {type(schedule).__name__} is {described(value)}, not a method")


def check_function(fn: Any, name: str, order: str = "") -> None:
    """UserError unless `fn` can be called and is no class."""
    if isinstance(fn, type):
        raise UserError(f"{name} is the class {fn.__name__}, not one of it: make one first")
    if not callable(fn):
        own = getattr(fn, "denoise", None)
        hint = f": give its .denoise (of the {type(fn).__name__})" if callable(own) and name == "denoise" else ""
        raise UserError(f"{name} is {described(fn)}, not a function{hint}{'' if hint else order}")


def check_denoise(denoise: Any, order: str = "") -> None:
    """UserError unless `denoise` can be called; what it gives is looked at when it is, by `asking.predict`."""
    check_function(denoise, "denoise", order)


def data(name: str, x: Any, *, clean: bool = False, order: str = "") -> Array:
    """x as an array of floats [batch, ...] with an example at least, finite.

    `clean` data of the shape of pictures [batch, height, width, 1, 3 or 4] are not far outside [-1, 1] besides. Raises
    UserError that says what was given and what to write.
    """
    if hasattr(x, "getbands"):
        raise UserError(
            f"{name} is a PIL image: pictures are floats [batch, height, width, channels] in [-1, 1], as "
            "np.asarray(image, np.float32)[None] / 127.5 - 1"
        )
    if x is None or isinstance(x, str | bytes | dict | type) or (callable(x) and not hasattr(x, "dtype")):
        raise UserError(f"{name} is {described(x)}, not an array of floats [batch, ...]{order}")
    if not hasattr(x, "dtype"):
        try:
            x = np.asarray(x)
        except (TypeError, ValueError):
            raise UserError(f"{name} is {described(x)}, not an array of floats [batch, ...]{order}") from None
    if x.dtype == np.uint8:
        raise UserError(
            f"{name} holds grey levels (uint8), where pictures are floats in [-1, 1]: {name}.astype('float32') / 127.5 - 1"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        whole_numbers = jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool
        hint = f": write {name}.astype('float32')" if whole_numbers else order
        raise UserError(f"{name} is {described(x)}, not an array of floats [batch, ...]{hint}")
    if x.ndim < 1 or 0 in x.shape:
        raise UserError(f"{name} has shape {x.shape}: give [batch, ...] with at least one example")
    if known(x):
        values = np.asarray(x)
        # bfloat16 and its like are no kind of float to NumPy.
        values = values if values.dtype.kind == "f" else values.astype(np.float32)
        if not np.isfinite(values).all():
            place = np.argwhere(~np.isfinite(values))[0]
            raise UserError(
                f"{name} holds a value that is not finite: {name}{place.tolist()} is {values[tuple(place)]}"
            )
        pictures = clean and x.ndim == 4 and x.shape[-1] in PICTURES
        if pictures and np.abs(values).max() > FAR:
            raise UserError(
                f"{name} goes from {values.min():g} to {values.max():g}, where pictures are in [-1, 1]: write "
                f"{name} / 127.5 - 1 for levels from 0 to 255"
            )
    return jnp.asarray(x)


def check_cond(cond: PyTree, batch: int) -> None:
    """UserError unless each leaf of `cond` is an array with leading axis `batch`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(cond):
        name = f"cond{jax.tree_util.keystr(path)}"
        if isinstance(leaf, str):
            raise UserError(f"{name} is the text {leaf!r:.60}: encode it first, as run.encode_text([...])")
        if not hasattr(leaf, "shape") and not isinstance(leaf, numbers.Number):
            raise UserError(f"{name} is {described(leaf)}, not an array with leading axis batch")
        shape = tuple(getattr(leaf, "shape", ()))
        if shape[:1] != (batch,):
            raise UserError(f"{name} has shape {shape} for a batch of {batch}: its first axis is the batch")


def check_condition(name: str, tree: PyTree) -> None:
    """UserError unless `tree` is a condition for a guidance to hold: arrays, or a dict that has none yet."""
    leaves = jax.tree.leaves(tree)
    for leaf in leaves:
        if isinstance(leaf, str) or getattr(getattr(leaf, "dtype", None), "kind", "f") in "USO":
            raise UserError(f"{name} is text: encode it first, as run.encode_text([...])")
    if not (leaves or isinstance(tree, dict)) or not all(hasattr(leaf, "shape") for leaf in leaves):
        raise UserError(f"{name} is {described(tree)}, not arrays with leading axis 1 or batch")


def floats(name: str, value: Any, wanted: str) -> Any:
    """Numbers in float32, on the host where they are known there. UserError that it is not what is `wanted`."""
    try:
        if not known(value):
            return jnp.asarray(value, jnp.float32)
        array = np.asarray(value)
        real = any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, bool))
    except (TypeError, ValueError):
        real = False
    if not real:
        raise UserError(f"{name} is {described(value)}, not {wanted}")
    return array.astype(np.float32)


def whole(name: str, value: Any, low: int = 1) -> None:
    """UserError unless `value` is a whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        shown = repr(value) if isinstance(value, numbers.Number) else f"({described(value)})"
        raise UserError(f"{name} {shown} is not a whole number of at least {low}; nearest: {low}")


def number(**values: Any) -> None:
    """UserError unless each value is a number, by its type alone: an array without axes is one, and so is a placeholder."""
    for name, value in values.items():
        dtype = getattr(value, "dtype", None)
        real = isinstance(value, int | float) or any(
            dtype is not None and jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer)
        )
        if not real or isinstance(value, bool) or np.ndim(value):
            raise UserError(f"{name} is {described(value)}, not a number")


def above_zero(name: str, value: Any) -> None:
    """UserError unless `value` is a number above 0 and finite."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not (number and 0 < value < float("inf")):
        shown = repr(value) if isinstance(value, numbers.Number) else f"({described(value)})"
        raise UserError(f"{name} {shown} is not a number above 0")
