"""The fields of another library's config files: each is read, possible at some values alone, or known to change nothing.

A table has a row for every field that the library knows. What has no row is refused by name: it may be a typing error, or a
newer library's way to compute something else. A field that is null is one that was left out, as the libraries take it
themselves. Names that begin with "_" are their notes to themselves (`_name_or_path`, `_commit_hash`).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from diffusion_jax.typing import UserError, one_of

__all__ = [
    "UNUSED",
    "Field",
    "Table",
    "choice",
    "flag",
    "natural",
    "number",
    "only",
    "read",
    "reads",
    "square",
    "whole",
]


@dataclasses.dataclass(frozen=True)
class Field:
    """`use` is "read", "only" (possible at some values) or "unused" (changes no embedding, at whatever value).

    `check(what, value)` gives the value as it is used here, or raises UserError. `default` stands for a field left out, and for
    null unless `null`: then it is checked too.
    """

    use: str
    check: Callable[[str, Any], Any] | None = None
    default: Any = None
    null: bool = False


Table = Mapping[str, Field]
UNUSED = Field("unused")


def reads(check: Callable[[str, Any], Any], default: Any = None, *, null: bool = False) -> Field:
    """A field that is read."""
    return Field("read", check, default, null)


def only(*values: Any, why: str) -> Field:
    """A field that is possible at these values alone, the first of which is the default; `why` ends the refusal."""
    allowed = [(type(value), value) for value in values]

    def check(what: str, value: Any) -> Any:
        # 0 == False and 1 == True in Python, not in a config.
        if (type(value), value) not in allowed:
            raise UserError(f"{what} {value!r} is not possible here, only {_any_of(values)}: {why}")
        return value

    return Field("only", check, values[0])


def choice(names: Iterable[str]) -> Callable[[str, Any], str]:
    """One of some names."""
    known = tuple(names)
    return lambda what, value: one_of(what, value if isinstance(value, str) else repr(value), known)


def whole(what: str, value: Any) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{what} {value!r} is not a whole number of at least 1")
    return value


def natural(what: str, value: Any) -> int:
    """A whole number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{what} {value!r} is not a whole number of at least 0")
    return value


def number(what: str, value: Any) -> float:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{what} {value!r} is not a finite number above 0")
    return float(value)


def flag(what: str, value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise UserError(f"{what} {value!r} is neither true nor false")
    return value


def square(what: str, value: Any) -> int:
    """A length, or two equal ones."""
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if isinstance(value, list | tuple):
        raise UserError(
            f"{what} {list(value)!r} is not square: pictures and patches are squares here, as in {value[:1] * 2!r}"
        )
    return whole(what, value)


def group(what: str, value: Any) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, Mapping):
        raise UserError(f"{what} {value!r} is no group of fields")
    return dict(value)


def read(table: Table, given: Any, where: str) -> dict[str, Any]:
    """Every field of the table that is read, with its default where `given` is silent. `where` names file and group.

    Raises UserError, naming file, field and value, for a field that the table lacks and for a value that is not possible.
    """
    made = {name: field.default for name, field in table.items() if field.use == "read"}
    for name, value in group(f"{where}:", given).items():
        if name.startswith("_") or (value is None and not (name in table and table[name].null)):
            continue
        if name not in table:
            near = difflib.get_close_matches(name, table, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"{where}: {name} {_short(value)} is not known{hint}; take it out if the model computes the same without it"
            )
        field = table[name]
        if field.check is None:
            continue
        checked = field.check(f"{where}: {name}", value)
        if field.use == "read":
            made[name] = checked
    return made


def _any_of(values: Iterable[Any]) -> str:
    return " or ".join(repr(value) for value in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
