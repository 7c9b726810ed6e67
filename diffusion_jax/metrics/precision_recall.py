"""Precision and recall of samples: how many look real, and how much of what is real they reach.

Each set is taken for the union of balls round its rows of features, each as large as the distance to the row's k-th nearest
other row (arXiv 1904.06991, equation 1). **Precision** is the share of the samples within the balls of the real rows,
**recall** the share of the real rows within the balls of the samples. Copies of a few real rows are precise and recall
little; noise over everything recalls and is not precise.

One sample far off makes a large ball, which recalls much that is not there. Two numbers with the balls of the real rows alone
do not have that (arXiv 2002.09797, equations 4 and 6): **density**, in how many balls a sample lies over k, which is 1 in the
mean where the two distributions are one (and may be above), and **coverage**, the share of the real balls that hold a sample.

All depend on the features and on both numbers of rows: compare at equal ones, beside real rows against real rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffusion_jax.metrics.distances import blocks, nearest
from diffusion_jax.typing import UserError

__all__ = ["PrecisionRecall", "precision_recall"]

SLACK = 1e-7  # of the largest distance, the root of what float64 rounds off its square: a row is within its own ball


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1], and `density`, 0 or above."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(
    real: Float[np.ndarray, "m features"], made: Float[np.ndarray, "n others"], *, k: int = 3, k_coverage: int = 5
) -> PrecisionRecall:
    """Precision and recall with balls of `k` neighbours, density and coverage with those of `k_coverage`.

    The defaults are the papers'. Time grows with (m + n)^2, memory with m + n. Raises UserError for sets without so
    many other rows, and rows of different length.
    """
    if real.shape[1] != made.shape[1]:
        raise UserError(f"precision of {made.shape[1]} features against {real.shape[1]}: they must be equal")
    most = max(k, k_coverage)
    for what, rows, needed in (("real rows", real, most), ("samples", made, k)):
        if min(k, k_coverage) < 1 or len(rows) <= needed:
            raise UserError(f"balls of {needed} neighbours need {needed + 1} {what} at least; given {len(rows)}")
    near = nearest(real, real, most, itself=False).distance
    wide, narrow = near[:, k_coverage - 1], near[:, k - 1]
    reach = nearest(made, made, k, itself=False).distance[:, -1]
    precise, recalled = np.zeros(len(made), bool), np.zeros(len(real), bool)
    covered, within = np.zeros(len(real), bool), 0
    for part, apart in blocks(real, made):
        apart -= SLACK * apart.max()
        precise |= (apart <= narrow[part, None]).any(axis=0)
        recalled[part] = (apart <= reach).any(axis=1)
        inside = apart <= wide[part, None]
        covered[part] = inside.any(axis=1)
        within += int(inside.sum())
    density = within / (k_coverage * len(made))
    return PrecisionRecall(float(precise.mean()), float(recalled.mean()), density, float(covered.mean()))
