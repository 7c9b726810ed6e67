"""Do two samples come from one distribution? The energy distance and its permutation test.

For independent X, X' ~ P and Y, Y' ~ Q (Szekely and Rizzo, "Energy statistics", J. Stat. Plan. Inference 143, 2013,
eq. 1.1)

    E(P, Q) = 2 E|X - Y| - E|X - X'| - E|Y - Y'|

is not negative, and 0 only where P = Q. With D the distances between all rows of both samples and w = (1/m, ..., -1/n, ...)
its estimate is -w^T D w. Under P = Q every relabelling of the rows is as likely as the one that was drawn, so the share of
random relabellings whose estimate is at least as large is a p-value, and the test needs no distribution theory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffusion_jax.metrics.distances import distances
from diffusion_jax.typing import UserError

__all__ = ["EnergyTest", "energy_distance", "energy_test"]

First = Float[np.ndarray, "m features"]
Second = Float[np.ndarray, "n others"]


class EnergyTest(NamedTuple):
    """`distance` is the energy distance of two samples; `p_value` in (0, 1] is small where they differ."""

    distance: float
    p_value: float


def energy_distance(first: First, second: Second) -> float:
    """The energy distance of two samples, 0 or above, in the units of the rows; their V-statistic, 0 for equal rows.

    Raises UserError for an empty sample and for rows of different length.
    """
    between, weights = _joint(first, second)
    return float(max(-weights @ between @ weights, 0.0))


def energy_test(first: First, second: Second, permutations: int = 499, seed: int = 0) -> EnergyTest:
    """The energy distance with its p-value, (1 + relabellings as far apart) / (1 + permutations).

    Memory and time grow with (m + n)^2: a thousand rows each take 32 MB and a fraction of a second. Raises UserError as
    `energy_distance` does, and unless permutations is at least 1.
    """
    if permutations < 1:
        raise UserError(f"permutations {permutations} is not at least 1; usual are 199 to 999")
    between, weights = _joint(first, second)
    rng = np.random.default_rng(seed)
    relabelled = np.stack([weights, *(rng.permutation(weights) for _ in range(permutations))], axis=1)
    found = -np.einsum("ij,ij->j", relabelled, between @ relabelled)
    # Rounding must not tell a relabelling that changes nothing from the one that was drawn.
    as_far = found[1:] >= found[0] - 1e-12 * between.max()
    return EnergyTest(float(max(found[0], 0.0)), float((1 + as_far.sum()) / (1 + permutations)))


def _joint(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if min(len(first), len(second)) < 1 or first.shape[1:] != second.shape[1:]:
        raise UserError(
            f"samples of shape {first.shape} and {second.shape} cannot be compared: [m, d] and [n, d], m, n > 0"
        )
    rows = np.concatenate([first, second])
    between = distances(rows, rows)
    np.fill_diagonal(between, 0.0)
    return between, np.concatenate([np.full(len(first), 1 / len(first)), np.full(len(second), -1 / len(second))])
