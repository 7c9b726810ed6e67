"""The options of `sample` that are written KEY=VALUE: of the guidance and of the solver."""

from __future__ import annotations

import argparse
import ast
import math
from collections.abc import Sequence
from typing import Any

from diffusion_jax.build.constructors import accepts, as_declared, signature_of
from diffusion_jax.build.guidance import check, spec_of
from diffusion_jax.build.own import pick
from diffusion_jax.build.ranges import declared
from diffusion_jax.build.samplers import SOLVERS
from diffusion_jax.typing import UserError

__all__ = ["guidance_of", "solver_options_of"]


def guidance_of(arguments: argparse.Namespace, default: Any) -> dict[str, Any] | None:
    """The guidance group of `--guidance` and `--guidance-option`, over the config's; None where neither says anything."""
    said = default.get("guidance") if arguments.guidance is None else arguments.guidance
    group = {} if said is None else spec_of(said)
    for key, text in _pairs("--guidance-option", arguments.guidance_option):
        value = _literal(text)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(n, bool) or not isinstance(n, int | float) or not math.isfinite(n) for n in numbers):
            raise UserError(
                f"--guidance-option {f'{key}={text}'!r} is not KEY=NUMBER, finite, such as eta=0.2 or interval=0.3,5"
            )
        group[key] = list(value) if isinstance(value, tuple) else value
    return check(group) if group else None


def solver_options_of(arguments: argparse.Namespace, default: Any) -> dict[str, Any]:
    """What `--solver-option` and `--eta` say of the solver, which is the config's unless it is given.

    UserError for a keyword that the solver does not have, and for a value of another type than the keyword's.
    """
    found: dict[str, Any] = {} if arguments.eta is None else {"eta": arguments.eta}
    if not arguments.solver_option:
        return found
    name = arguments.solver or default.get("solver")
    if name is None:
        raise UserError(
            f"--solver-option {arguments.solver_option[0]} needs --solver: the folder's scheduler has its own"
        )
    make = pick("solver", name, SOLVERS)
    for key, text in _pairs("--solver-option", arguments.solver_option):
        if key in found:
            raise UserError(f"--solver-option {key} is --eta {arguments.eta} too: give one of them")
        accepts(f"solver {name!r}", make, [key])
        found[key] = _value(name, key, text, signature_of(make).parameters[key].annotation)
    found = dict(as_declared(make, found))
    try:
        make(**found)
    except TypeError as error:  # of what no annotation says, such as the numbers within a list
        raise UserError(f"--solver-option of solver {name!r}: {' '.join(str(error).split())[:200]}") from error
    return found


def _value(solver: str, key: str, text: str, annotation: Any) -> Any:
    """The value of a keyword, by its annotation. UserError for another, and for what cannot be written as a word."""
    known = declared(annotation)
    value = text if known.kind is str and text.lower() != "none" else _literal(text)
    listed = str(annotation).startswith("tuple")
    if known.kind is None and not (listed and isinstance(value, tuple)):
        words = "a list, such as ((0.1, 0.3, 3, 2),)" if listed else "an object, which Python alone can give"
        raise UserError(f"--solver-option {key}={text} of solver {solver!r}: {key} is {words}")
    if not known.holds(value):
        raise UserError(f"--solver-option {key}={text} of solver {solver!r}: {key} is {known.words}")
    return value


def _pairs(option: str, given: Sequence[str]) -> list[tuple[str, str]]:
    """(key, text) of each KEY=VALUE. UserError for what is none, and for a key that is given twice."""
    found: dict[str, str] = {}
    for word in given:
        key, equals, text = word.partition("=")
        if not equals or not key:
            example = "KEY=NUMBER, finite, such as eta=0.2 or interval=0.3,5"
            raise UserError(
                f"{option} {word!r} is not {example if 'guidance' in option else 'KEY=VALUE, such as order=3'}"
            )
        if key in found:
            raise UserError(f"{option} {key} is given twice")
        found[key] = text
    return list(found.items())


def _literal(text: str) -> Any:
    """The number, truth, None or tuple that a text says; the text itself where it says none of these."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)
    return value
