"""Classes by number and by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion_jax.typing import UserError

__all__ = ["label_of"]

MOST_TOLD = 20


def label_of(class_names: Sequence[str], asked: Any) -> int:
    """The number of a class: of its name, of any case, or of its number, also as text; a name that is a number is the name.

    UserError, which names the nearest class, for one that there is not.
    """
    names = list(class_names)
    if isinstance(asked, bool) or not isinstance(asked, int | np.integer | str):
        raise UserError(f"label {asked!r} is no number and no name of a class")
    if isinstance(asked, str):
        word = asked.strip()
        if word in names:
            return names.index(word)
        folded = [name.casefold() for name in names]
        if folded.count(word.casefold()) == 1:
            return folded.index(word.casefold())
        if not word.lstrip("+-").isdecimal():
            near = difflib.get_close_matches(word.casefold()[:300], folded, n=1, cutoff=0.5)
            hint = f"; did you mean {names[folded.index(near[0])]!r}?" if near else ""
            more = ", ..." if len(names) > MOST_TOLD else ""
            raise UserError(
                f"label {word!r} is none of the classes{hint} (known: {', '.join(names[:MOST_TOLD])}{more})"
            )
        asked = int(word)
    if not 0 <= asked < len(names):
        raise UserError(
            f"label {asked} is not in 0 .. {len(names) - 1}; nearest: {min(max(int(asked), 0), len(names) - 1)}"
        )
    return int(asked)
