"""The labels of examples: of all of a source, what their classes are called, and the class that somebody asks for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion_jax.data.examples import raw
from diffusion_jax.typing import Source, UserError

__all__ = ["label_names", "label_of", "labels_of"]

MOST_TOLD = 20


def labels_of(data: Source) -> np.ndarray:
    """The label of every example, int32 [n]. UserError for one without, and for what is no whole number of at least 0."""
    source = raw(data)
    found = getattr(source, "labels", None)
    if found is None and hasattr(source, "columns"):
        found = source.columns().get("label")
    if found is None:
        found = [source[i].get("label") for i in range(len(source))]
    labels = np.asarray(found)
    if labels.dtype.kind not in "iu" or labels.shape != (len(source),) or (labels.size and labels.min() < 0):
        wrong = next((i for i, label in enumerate(found) if label is None), None)
        what = (
            "the examples have labels that are no whole numbers" if wrong is None else f"example {wrong} has no label"
        )
        raise UserError(f"{what}: a label is the number of a class, from 0")
    return labels.astype(np.int32)


def label_names(data: Source) -> tuple[str, ...]:
    """The names of the classes in the order of their labels: the source's own, or else the numbers."""
    own = tuple(str(name) for name in getattr(raw(data), "class_names", None) or ())
    labels = labels_of(data)
    most = int(labels.max()) + 1 if labels.size else 0
    if own and most > len(own):
        raise UserError(f"label {most - 1} of the data has no name: they name {len(own)} classes")
    return own or tuple(str(label) for label in range(most))


def label_of(class_names: Sequence[str], asked: Any) -> int:
    """The number of a class: of its name, of any case, or of its number, also as text; a name that is a number is the name.

    A class may have several names with commas between, as ImageNet's have ("tench, Tinca tinca"): each is its name. UserError,
    which names the nearest class, for one that there is not, and for a name that several classes have.
    """
    names = list(class_names)
    if isinstance(asked, bool) or not isinstance(asked, int | np.integer | str):
        raise UserError(f"label {asked!r} is no number and no name of a class")
    if isinstance(asked, str):
        word = asked.strip()
        single = [(part.strip(), row) for row, name in enumerate(names) for part in name.split(",")]
        for fold in (str, str.casefold):
            for known in ([(name, row) for row, name in enumerate(names)], single):
                rows = sorted({row for name, row in known if fold(name) == fold(word)})
                if len(rows) > 1:
                    raise UserError(
                        f"label {word!r} is the name of the classes {', '.join(map(str, rows))}: give the number of one"
                    )
                if rows:
                    return rows[0]
        if not word.lstrip("+-").isdecimal():
            folded = {name.casefold(): name for name, _ in reversed(single)}
            near = difflib.get_close_matches(word.casefold()[:300], folded, n=1, cutoff=0.5)
            hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
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
