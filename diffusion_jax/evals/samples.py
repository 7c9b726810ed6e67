"""How good and how various a set of samples is, by distances between arrays of features or pixels.

**Frechet distance** between two sets, each seen as a Gaussian (arXiv 1706.08500, eq. 6):
d = |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)). The trace of the root is the sum of the square roots of the
eigenvalues of C_1^(1/2) C_2 C_1^(1/2), which is symmetric, so that no complex root appears.

**Diversity** is the mean distance between two different samples. **Nearest** is each sample's distance to the closest
row of a reference set: small distances to the training set are copies.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from diffusion_jax.typing import UserError

__all__ = ["frechet_distance", "mean_pairwise_distance", "nearest_distance"]

Rows = Float[np.ndarray, "rows features"]


def frechet_distance(first: Float[np.ndarray, "m features"], second: Float[np.ndarray, "n others"]) -> float:
    """The Frechet distance between the Gaussians fitted to two sets of rows (unbiased covariances), in float64.

    Raises UserError when a set has fewer than two rows or the feature sizes differ.
    """
    if first.shape[1] != second.shape[1]:
        raise UserError(f"Frechet distance of {first.shape[1]} features against {second.shape[1]}: they must be equal")
    if min(len(first), len(second)) < 2:
        raise UserError(f"Frechet distance needs two rows in each set; given {len(first)} and {len(second)}")
    a, b = first.astype(np.float64), second.astype(np.float64)
    gap = a.mean(axis=0) - b.mean(axis=0)
    cov_a, cov_b = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ cov_b @ root)
    trace = np.trace(cov_a) + np.trace(cov_b) - 2.0 * np.sqrt(np.maximum(cross, 0.0)).sum()
    return float(gap @ gap + trace)


def _distances(first: Float[np.ndarray, "m features"], second: Float[np.ndarray, "n features"]) -> np.ndarray:
    a, b = first.astype(np.float64), second.astype(np.float64)
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2.0 * a @ b.T
    return np.sqrt(np.maximum(squared, 0.0))


def mean_pairwise_distance(rows: Rows) -> float:
    """The mean Euclidean distance between two different rows; UserError when there are fewer than two."""
    count = len(rows)
    if count < 2:
        raise UserError(f"a pairwise distance needs two rows; given {count}")
    distances = _distances(rows, rows)
    np.fill_diagonal(distances, 0.0)
    return float(distances.sum() / (count * (count - 1)))


def nearest_distance(rows: Rows, reference: Float[np.ndarray, "others features"]) -> Float[np.ndarray, " rows"]:
    """The Euclidean distance of each row to the closest row of `reference`."""
    return _distances(rows, reference).min(axis=1)
