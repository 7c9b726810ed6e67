"""What every table of constructors shares: a group of a config, the keywords a constructor takes, the call."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from diffusion_jax.typing import UserError, one_of

__all__ = ["Spec", "accepts", "as_declared", "construct", "parameters"]

Spec: TypeAlias = Mapping[str, Any] | ConfigDict
"""A config group; ml_collections does not call its own a Mapping."""


def parameters(make: Callable[..., Any], given: Iterable[str] = ()) -> dict[str, Any]:
    """The keywords of a constructor with their defaults (`inspect.Parameter.empty` where there is none), less those `given`."""
    # The signature of an nnx class itself is that of its metaclass's call.
    signature = inspect.signature(make.__init__ if inspect.isclass(make) else make)
    return {name: p.default for name, p in signature.parameters.items() if name not in {"self", "rngs", *given}}


def accepts(what: str, make: Callable[..., Any], keys: Iterable[str], given: Iterable[str] = ()) -> None:
    """UserError when `make` takes no keyword of one of these names, or cannot do without one that is not among them.

    Those in `given` are not the user's to set.
    """
    keys, known = list(keys), parameters(make, given)
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{what} takes no {key!r}{hint} (it takes {', '.join(known) or 'nothing'})")
    for name, default in known.items():
        if default is inspect.Parameter.empty and name not in keys:
            raise UserError(f"{what} is without {name!r}, which it needs")


def as_declared(make: Callable[..., Any], options: Spec) -> dict[str, Any]:
    """The options with a whole number as a float where the constructor declares a float: 1 may stand for 1.0."""
    signature = inspect.signature(make.__init__ if inspect.isclass(make) else make)
    floats = {name for name, p in signature.parameters.items() if str(p.annotation) in ("float", "float | None")}
    return {key: float(value) if key in floats and type(value) is int else value for key, value in options.items()}


def construct(what: str, table: Mapping[str, Callable[..., Any]], spec: Spec, **given: Any) -> Any:
    """table[spec["name"]](**rest of spec, **given)."""
    rest = dict(spec)
    name = one_of(what, rest.pop("name"), table)
    accepts(f"{what} {name!r}", table[name], rest, given)
    return table[name](**as_declared(table[name], rest), **given)
