"""How various a set of samples is, and how much of it is copied, by distances between rows of features or pixels.

**Diversity** is the mean distance between two different samples. **Nearest** is each sample's distance to the closest
row of a reference set: small distances to the training set are copies.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from diffusion_jax.typing import UserError

__all__ = ["distances", "mean_pairwise_distance", "nearest_distance"]

Rows = Float[np.ndarray, "rows features"]


def distances(
    first: Float[np.ndarray, "m features"], second: Float[np.ndarray, "n features"]
) -> Float[np.ndarray, "m n"]:
    """The Euclidean distance of each row of one set to each of the other, in float64."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    found = (a * a).sum(1)[:, None] + (b * b).sum(1)[None]
    found -= 2.0 * a @ b.T  # in place: of thousands of rows each array is hundreds of megabytes
    np.maximum(found, 0.0, out=found)
    return np.sqrt(found, out=found)


def mean_pairwise_distance(rows: Rows) -> float:
    """The mean Euclidean distance between two different rows; UserError when there are fewer than two."""
    count = len(rows)
    if count < 2:
        raise UserError(f"a pairwise distance needs two rows; given {count}")
    found = distances(rows, rows)
    np.fill_diagonal(found, 0.0)
    return float(found.sum() / (count * (count - 1)))


def nearest_distance(rows: Rows, reference: Float[np.ndarray, "others features"]) -> Float[np.ndarray, " rows"]:
    """The Euclidean distance of each row to the closest row of `reference`."""
    return distances(rows, reference).min(axis=1)
