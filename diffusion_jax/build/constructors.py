"""What every table of constructors shares: a group of a config, the keywords a constructor takes, the call."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from diffusion_jax.build.own import is_own, pick
from diffusion_jax.typing import UserError

__all__ = ["Spec", "accepts", "as_declared", "complete", "construct", "parameters", "signature_of", "wanted"]

Spec: TypeAlias = Mapping[str, Any] | ConfigDict
"""A config group; ml_collections does not call its own a Mapping."""


def signature_of(make: Any) -> inspect.Signature:
    """The signature of a constructor. UserError for what cannot be called."""
    if not callable(make):
        raise UserError(f"{make!r} is no class or function: it cannot be made from a config's keys")
    # The signature of an nnx class itself is that of its metaclass's call.
    return inspect.signature(make.__init__ if inspect.isclass(make) else make)


def parameters(make: Any, given: Iterable[str] = ()) -> dict[str, Any]:
    """The keywords of a constructor with their defaults (`inspect.Parameter.empty` where there is none), less those `given`."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name: p.default
        for name, p in signature_of(make).parameters.items()
        if name not in {"self", "rngs", *given} and p.kind not in kinds
    }


def accepts(what: str, make: Any, keys: Iterable[str], given: Iterable[str] = ()) -> None:
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


def as_declared(make: Any, options: Spec) -> dict[str, Any]:
    """The options with a whole number as a float where the constructor declares a float: 1 may stand for 1.0."""
    plain = ("float", "float | None", "<class 'float'>")
    floats = {name for name, p in signature_of(make).parameters.items() if str(p.annotation) in plain}
    return {key: float(value) if key in floats and type(value) is int else value for key, value in options.items()}


def construct(what: str, table: Mapping[str, Any], spec: Spec, **given: Any) -> Any:
    """table[spec["name"]](**rest of spec, **given). A constructor of one's own is given what it has a keyword for."""
    rest = dict(spec)
    name = rest.pop("name")
    make = pick(what, name, table)
    if is_own(name):
        given = wanted(make, given)
    accepts(f"{what} {name!r}", make, rest, given)
    return make(**as_declared(make, rest), **given)


def wanted(make: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `given` for which a constructor has a keyword."""
    known = signature_of(make).parameters
    return {name: value for name, value in given.items() if name in known}


def complete(what: str, name: Any, made: Any, protocol: type) -> None:
    """UserError where a part of one's own lacks what the protocol of such parts has."""
    if is_own(name):
        has = [key for key in (*vars(protocol), *protocol.__annotations__) if not key.startswith("_")]
        lacks = [key for key in has if not hasattr(made, key)]
        if lacks:
            raise UserError(f"{what} {name!r} lacks {', '.join(lacks)}")
