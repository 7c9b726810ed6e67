"""How various a set of samples is, and how much of it is copied, by distances between rows of features or pixels.

**Diversity** is the mean distance between two different samples. **Nearest** is each sample's distance to the closest
row of a reference set, and which row that is: small distances to the training set are copies.

Distances are made some rows at a time, 2^23 at most (64 MB), so that 10,000 rows against 60,000 need no more than a few
hundred rows do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffusion_jax.typing import UserError

__all__ = ["Nearest", "blocks", "distances", "mean_pairwise_distance", "nearest", "nearest_distance"]

Rows = Float[np.ndarray, "rows features"]
Say = Callable[[str], None]
ENTRIES = 1 << 23  # distances held at once


class Nearest(NamedTuple):
    """The k nearest rows of a reference set, the nearest first: which, and how far. Both [rows, k]."""

    row: Int[np.ndarray, "rows k"]
    distance: Float[np.ndarray, "rows k"]


def distances(
    first: Float[np.ndarray, "m features"], second: Float[np.ndarray, "n features"]
) -> Float[np.ndarray, "m n"]:
    """The Euclidean distance of each row of one set to each of the other, in float64."""
    b = second.astype(np.float64)
    return _distances(first.astype(np.float64), b, (b * b).sum(1))


def _distances(a: np.ndarray, b: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """`squares` are those of the rows of b, summed. In place: of thousands of rows each array is hundreds of megabytes."""
    found = (2.0 * a) @ b.T
    np.subtract(squares, found, out=found)
    found += (a * a).sum(1)[:, None]
    np.maximum(found, 0.0, out=found)
    return np.sqrt(found, out=found)


def blocks(
    first: Float[np.ndarray, "m features"], second: Float[np.ndarray, "n features"]
) -> Iterator[tuple[slice, Float[np.ndarray, "some n"]]]:
    """(rows of the first set, their distances to all of the second), in float64, until all rows were had.

    Both sets are moved by the mean of the second, which changes no distance and keeps what rounding costs small.
    """
    second = np.array(second, np.float64)
    centre = second.mean(axis=0) if len(second) else 0.0
    second -= centre
    squares = (second * second).sum(1)
    size = max(1, ENTRIES // max(1, *second.shape))
    for start in range(0, len(first), size):
        rows = slice(start, min(start + size, len(first)))
        yield rows, _distances(first[rows] - centre, second, squares)


def mean_pairwise_distance(rows: Rows) -> float:
    """The mean Euclidean distance between two different rows; UserError when there are fewer than two."""
    count = len(rows)
    if count < 2:
        raise UserError(f"a pairwise distance needs two rows; given {count}")
    total = 0.0
    for part, found in blocks(rows, rows):
        found[np.arange(len(found)), np.arange(part.start, part.stop)] = 0.0
        total += float(found.sum())
    return total / (count * (count - 1))


def nearest(
    rows: Rows,
    reference: Float[np.ndarray, "others _"],
    k: int = 1,
    *,
    itself: bool = True,
    say: Say = lambda text: None,
) -> Nearest:
    """The k nearest rows of `reference` of each row, by Euclidean distance; of equally near ones any.

    The distances are of the differences themselves, so that a copy is at 0. With `itself` False the two sets are one, and a
    row is no neighbour of its own. Raises UserError for fewer than k rows to be found among, and rows of another length.
    """
    among = len(reference) - (not itself)
    if not 1 <= k <= among:
        raise UserError(f"{k} nearest rows among {among}: from 1 to {among} can be found")
    if rows.shape[1:] != reference.shape[1:]:
        raise UserError(
            f"rows of {rows.shape[1:]} and a reference of {reference.shape[1:]} numbers: they must be equal"
        )
    which, exact = np.empty((len(rows), k), np.int64), np.empty((len(rows), k))
    told = 0
    for part, found in blocks(rows, reference):
        if not itself:
            found[np.arange(len(found)), np.arange(part.start, part.stop)] = np.inf
        some = np.argpartition(found, k - 1, axis=1)[:, :k]
        gaps = reference[some].astype(np.float64) - rows[part].astype(np.float64)[:, None]
        far = np.sqrt((gaps * gaps).sum(axis=2))
        order = np.argsort(far, axis=1, kind="stable")
        which[part], exact[part] = np.take_along_axis(some, order, 1), np.take_along_axis(far, order, 1)
        if part.stop * 4 // len(rows) > told and part.stop < len(rows):
            told = part.stop * 4 // len(rows)
            say(f"  nearest rows: {part.stop} of {len(rows)}")
    return Nearest(which, exact)


def nearest_distance(rows: Rows, reference: Float[np.ndarray, "others features"]) -> Float[np.ndarray, " rows"]:
    """The Euclidean distance of each row to the closest row of `reference`."""
    return nearest(rows, reference).distance[:, 0]
