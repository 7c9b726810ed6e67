"""The kernel distance between two sets of features, KID: the Frechet distance's companion without its bias.

The squared maximum mean discrepancy (arXiv 1801.01401, section 4) with the cubic kernel k(x, y) = (x . y / d + 1)^3, which sees
the first three moments of the features, estimated without bias:

    sum_{i != j} k(x_i, x_j) / (m (m - 1)) + sum_{i != j} k(y_i, y_j) / (n (n - 1)) - 2 sum_{ij} k(x_i, y_j) / (m n)

Its expectation is that of the distributions at any number of rows, where the Frechet distance's falls with more; it is 0 for
equal distributions, and an estimate may fall below 0. As in the paper it is the mean over random subsets, whose deviation
says how far the number is to be trusted at that size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffusion_jax.typing import UserError

__all__ = ["KernelDistance", "kernel_distance"]


class KernelDistance(NamedTuple):
    """The mean over the subsets, and the standard deviation from one subset to the next."""

    distance: float
    deviation: float


def kernel_distance(
    first: Float[np.ndarray, "m features"],
    second: Float[np.ndarray, "n others"],
    *,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    """KID, in float64. Each subset draws `size` rows of either set, but at most half of the smaller one, without replacement.

    Many give KID x 1000. Raises UserError for sets of fewer than four rows, rows of different length, and settings
    below 1 (`size` below 2).
    """
    if first.shape[1] != second.shape[1]:
        raise UserError(f"kernel distance of {first.shape[1]} features against {second.shape[1]}: they must be equal")
    if min(len(first), len(second)) < 4:
        raise UserError(f"kernel distance needs four rows in each set; given {len(first)} and {len(second)}")
    if subsets < 1 or size < 2:
        raise UserError(f"{subsets} subsets of {size} rows: one of two rows at least, usual are 100 of 1000")
    size = min(size, min(len(first), len(second)) // 2)
    rng = np.random.default_rng(seed)
    found = [
        _unbiased(*(rows[rng.choice(len(rows), size, replace=False)].astype(np.float64) for rows in (first, second)))
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(found)), float(np.std(found)))


def _unbiased(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate of two sets of equal size."""
    count = len(x)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        found = a @ b.T
        found /= a.shape[1]
        found += 1.0
        return found * found * found

    own = sum(float(k.sum() - np.trace(k)) for k in (kernel(x, x), kernel(y, y)))
    return own / (count * (count - 1)) - 2.0 * float(kernel(x, y).mean())
