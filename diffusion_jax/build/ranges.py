"""What a key of a config may be: ranges with words, so that what is refused is told with the nearest valid value.

A range knows three things: its `words`, whether it `holds` a value, and the `near` value to one that it does not hold.
The table of them is `build.key_ranges.RANGES`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.build.own import fits
from diffusion_jax.typing import UserError, one_of

__all__ = [
    "Range", "choice", "declared", "either", "flag", "members", "named", "number", "numbers", "one_number", "optional",
    "patterns", "share", "short", "text", "texts", "whole",
]  # fmt: skip

LARGEST = float(np.finfo(np.float32).max)
BELOW_ONE = 0.999999
"""The largest share below 1 that float32 can tell from 1 with some digits left: 1 - 1e-6."""


@dataclasses.dataclass(frozen=True)
class Range:
    """`kind` is the type that a text of the command line is read as: int, float, bool, str, tuple or None (any of them)."""

    words: str
    holds: Callable[[Any], bool]
    near: Callable[[Any], Any] = lambda value: None
    kind: type | None = None
    path: bool = False
    options: tuple[str, ...] = ()
    what: str = ""
    own: bool = False  # whether "module:attribute" may stand there
    open: bool = False  # whether it is a group whose keys are called as one likes

    def check(self, key: str, value: Any) -> None:
        """UserError that names the key, the value, the words and the nearest valid value."""
        if self.holds(value):
            return
        if self.options and isinstance(value, str):
            one_of(self.what or f"config key {key!r}:", value, self.options)
        near = self.near(value)
        hint = "" if near is None else f"; nearest: {near!r}"
        raise UserError(f"config key {key!r} is {short(value)}; it is {self.words}{hint}")


def short(value: Any) -> str:
    """A value in one line of at most 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_number(value: Any) -> bool:
    """A plain number: what JSON and the command line can say. A bool is none, and nor is a NumPy scalar."""
    return type(value) in (int, float)


def _as_number(value: Any) -> float | int | None:
    """The number that something wrong may have meant: of the text "64", of [64], of a NumPy scalar."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    try:
        found = value if _is_number(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if isinstance(found, float) and math.isnan(found) else found


def whole(low: int, high: int = 2**31 - 1, *, of: str = "a whole number", say_high: bool = False) -> Range:
    """A whole number from low to high; the upper end is said where it means something (`say_high`)."""

    def near(value: Any) -> Any:
        found = _as_number(value)
        return None if found is None else round(min(max(found, low), high))

    words = f"{of} from {low} to {high}" if say_high else f"{of} of at least {low}"
    return Range(words, lambda value: type(value) is int and low <= value <= high, near, int)


def number(
    low: float = -LARGEST,
    high: float = LARGEST,
    *,
    of: str = "a number",
    above: bool = False,
    usual: float | None = None,
) -> Range:
    """A finite number in [low, high], or in (low, high] with `above`; `usual` stands near what is none."""

    def holds(value: Any) -> bool:
        return _is_number(value) and (low < value if above else low <= value) and value <= high

    def near(value: Any) -> Any:
        found = _as_number(value)
        far = found is not None and abs(found) == math.inf
        if found is None or (usual is not None and (found < low or far)) or (above and found <= low):
            return usual
        return float(min(max(found, low), high))

    if high == LARGEST:
        words = f"{of}, finite" if low == -LARGEST else f"{of} {'above' if above else 'of at least'} {low:g}"
    else:
        words = f"{of} {'above' if above else 'from'} {low:g} {'and at most' if above else 'to'} {high:g}"
    return Range(words, holds, near, float)


def share(*, of: str = "a share", usual: float | None = None) -> Range:
    """A number in [0, 1) that float32 can tell from 1."""
    inside = number(0.0, BELOW_ONE, usual=usual)
    return dataclasses.replace(inside, words=f"{of} in [0, 1)")


def choice(what: str, options: Iterable[str]) -> Range:
    """One of some names; `what` begins the message."""
    names = tuple(sorted(options))
    words = f"one of {', '.join(name for name in names if name)}"
    return Range(words, lambda value: isinstance(value, str) and value in names, kind=str, options=names, what=what)


def named(what: str, table: Iterable[str]) -> Range:
    """One of the names of a table, or a part of one's own as "module:attribute"."""
    found = choice(what, table)
    words = f"{found.words}, or a part of yours as 'module:attribute'"
    return dataclasses.replace(found, words=words, holds=lambda value: fits(value, found.options), own=True)


def text(of: str = "a text", *, empty: bool = False, path: bool = False) -> Range:
    """A text, not empty unless that is said; `path` marks one that names a file or folder to read."""

    def holds(value: Any) -> bool:
        return isinstance(value, str) and (empty or bool(value.strip())) and "\0" not in value

    return Range(of, holds, kind=str, path=path)


def texts(of: str) -> Range:
    """A list of texts, none of them empty; one at least."""

    def holds(value: Any) -> bool:
        return isinstance(value, list | tuple) and len(value) > 0 and all(map(text().holds, value))

    return Range(of, holds, lambda value: (value,) if text().holds(value) else None, tuple)


def members(of: str) -> Range:
    """A group whose keys are called as one likes, each a group of its own."""
    return Range(of, lambda value: isinstance(value, Mapping | ConfigDict), open=True)


def one_number(of: str, *known: int) -> Range:
    """One of a few whole numbers."""

    def near(value: Any) -> Any:
        found = _as_number(value)
        return None if found is None else min(known, key=lambda each: abs(each - found))

    return Range(of, lambda value: type(value) is int and value in known, near, int)


def flag() -> Range:
    """True or False."""
    near = {0: False, 1: True, "true": True, "false": False, "True": True, "False": False}
    words = "True or False"
    return Range(
        words, lambda v: isinstance(v, bool), lambda v: near.get(v) if isinstance(v, str | int) else None, bool
    )


def numbers(each: Range, count: int | None = None, *, of: str, rising: bool = False) -> Range:
    """A list of numbers, each within a range; `count` of them; none below the one before where they are `rising`."""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, list | tuple)
            and (len(value) == count if count is not None else len(value) > 0)
            and all(each.holds(item) for item in value)
            and (not rising or all(a <= b for a, b in itertools.pairwise(value)))
        )

    return Range(of, holds, kind=tuple)


def patterns(of: str) -> Range:
    """A list of regular expressions, perhaps empty."""

    def holds(value: Any) -> bool:
        return isinstance(value, list | tuple) and all(isinstance(item, str) and _compiles(item) for item in value)

    return Range(of, holds, lambda value: (value,) if isinstance(value, str) and _compiles(value) else None, tuple)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def optional(inner: Range, none: str = "none") -> Range:
    """`inner`, or None, which means what `none` says."""
    return dataclasses.replace(
        inner, words=f"{inner.words}, or None ({none})", holds=lambda value: value is None or inner.holds(value)
    )


def declared(annotation: Any) -> Range:
    """What a keyword of a constructor of one's own may be, by its annotation; anything where that says nothing."""
    said = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    kinds = {kind.strip() for kind in said.split("|")}
    known: dict[str, Range] = {
        "int": dataclasses.replace(whole(-(2**31)), words="a whole number"),
        "float": number(),
        "bool": flag(),
        "str": text(empty=True),
    }
    inner = known.get(next(iter(kinds - {"None"}), ""))
    if inner is None or len(kinds - {"None"}) != 1:
        return Range("anything", lambda value: True)
    return optional(inner) if "None" in kinds else inner


def either(first: Range, second: Range) -> Range:
    """One of two ranges; a text is read as whatever it says."""
    return Range(
        f"{first.words}, or {second.words}",
        lambda value: first.holds(value) or second.holds(value),
        lambda value: None if isinstance(value, str) else second.near(value),
        options=first.options,
        what=first.what,
        own=first.own,
    )
