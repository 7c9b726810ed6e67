"""Batches as a function of the step: order and augmentation depend on (seed, step) and on nothing else.

The order is grain's: an infinite sequence of epochs, each a permutation of its own in which every example stands
once; batch n is the slice n B .. (n + 1) B of it, so that batches may straddle epochs. Nothing has to be stored to
resume, and the global batch does not depend on how many processes share it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion_jax.data.examples import raw
from diffusion_jax.data.reading import row_numbers, shuffled
from diffusion_jax.typing import Source, UserError

__all__ = ["CaptionTable", "batches", "caption_table", "columns", "rows_of", "words_of"]

Transform = Callable[[dict[str, np.ndarray], np.random.Generator], dict[str, Any]]


def batches(
    source: Source,
    batch_size: int,
    seed: int,
    transform: Transform | None = None,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> Callable[[int], dict[str, Any]]:
    """A function from the step (0, 1, ...) to this process's rows of its batch, as arrays by name.

    A source that has `columns()` is gathered at once; others are read item by item and what is not a number is left aside;
    `index` is an example's place in the source. `transform(batch, rng)` sees the whole global batch with a generator made
    from (seed, step), and the process's rows are cut from its result. Raises UserError for an empty source, for a batch
    size that the processes do not divide, and for a process that is not one of them.
    """
    numbers = row_numbers(source, batch_size, process_index, process_count)
    order = shuffled(len(source), seed)
    whole = source.columns() if hasattr(source, "columns") else None
    mine = slice(numbers.start, numbers.stop)

    def batch(step: int) -> dict[str, Any]:
        rows = np.array([order[step * batch_size + i] for i in range(batch_size)])
        if whole is not None:
            found = {name: column[rows] for name, column in whole.items()}
        else:
            found = _collate([source[int(row)] for row in rows])
        found["index"] = rows
        if transform is not None:
            found = transform(found, np.random.default_rng([seed, step]))
        return _rows(found, mine)

    return batch


def rows_of(source: Source, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The examples [batch_size] of a step's global batch, by their places in the source."""
    order = shuffled(len(source), seed)
    return np.array([order[step * batch_size + i] for i in range(batch_size)])


def words_of(source: Source, rows: np.ndarray) -> list[str]:
    """What people call some examples: the class of each, and its captions, which " / " parts; "" where it has neither."""
    names = getattr(source, "class_names", None) or ()
    told = []
    for row in rows:
        item = raw(source)[int(row)]
        label = item.get("label")
        words = [] if label is None else [names[label] if label < len(names) else str(label)]
        told.append(" / ".join([*words, *(item.get("captions") or ())]))
    return told


def columns(source: Source) -> dict[str, np.ndarray]:
    """All examples of a source at once, as arrays by name: its `columns()`, or its items, without what is not a number."""
    return source.columns() if hasattr(source, "columns") else _collate([source[i] for i in range(len(source))])


def _collate(items: list[Any]) -> dict[str, np.ndarray]:
    names = [name for name, value in items[0].items() if isinstance(value, int | float | np.ndarray | np.generic)]
    return {name: np.stack([np.asarray(item[name]) for item in items]) for name in names}


def _rows(tree: Any, mine: slice) -> Any:
    if isinstance(tree, dict):
        return {name: _rows(value, mine) for name, value in tree.items()}
    return tree[mine]


@dataclasses.dataclass(frozen=True, eq=False)
class CaptionTable:
    """Every distinct caption of a source once (`unique`), and the rows [n, most] of each example's, of which it has `counts`.

    A frozen text encoder embeds the first, and training gathers by `pick`.
    """

    unique: tuple[str, ...]
    rows: np.ndarray
    counts: np.ndarray

    def pick(self, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The row of a random caption of each of the `chosen` examples."""
        counts = self.counts[chosen]
        most = self.rows.shape[1]
        if (self.counts == most).all():
            return self.rows[chosen, rng.integers(most, size=len(chosen))]
        # One number a row, whatever its count: which example stands in a row changes nothing for the others.
        return self.rows[chosen, (rng.random(len(chosen)) * counts).astype(int)]


def caption_table(source: Source) -> CaptionTable:
    """The captions of a source. UserError for one whose examples have none."""
    items = (source[i] for i in range(len(source)))
    captions = [list(item.get("captions") or ()) for item in items]
    if not captions or not all(captions):
        raise UserError(f"example {next((i for i, texts in enumerate(captions) if not texts), 0)} has no captions")
    unique = {text: row for row, text in enumerate(dict.fromkeys(text for texts in captions for text in texts))}
    most = max(len(texts) for texts in captions)
    rows = np.array([[unique[text] for text in (*texts, *texts[:1] * (most - len(texts)))] for texts in captions])
    return CaptionTable(tuple(unique), rows, np.array([len(texts) for texts in captions]))
