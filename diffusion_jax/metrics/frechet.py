"""The Frechet distance between two sets of features or pixels: the measure behind FID.

It is the distance between two sets, each seen as a Gaussian (arXiv 1706.08500, eq. 6):
d = |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)). With C_i = R_i^T R_i, R_i the triangular factor of the centred
rows over sqrt(n_i - 1), the eigenvalues of C_1 C_2 are the squares of the singular values of R_1 R_2^T, so that the trace
of the root is the sum of these. No root is taken of a rounding error, which matters where covariances are singular.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from diffusion_jax.typing import UserError

__all__ = ["frechet_distance"]


def frechet_distance(first: Float[np.ndarray, "m features"], second: Float[np.ndarray, "n others"]) -> float:
    """The Frechet distance between the Gaussians fitted to two sets of rows (unbiased covariances), in float64.

    Raises UserError when a set has fewer than two rows or the feature sizes differ.
    """
    if first.shape[1] != second.shape[1]:
        raise UserError(f"Frechet distance of {first.shape[1]} features against {second.shape[1]}: they must be equal")
    if min(len(first), len(second)) < 2:
        raise UserError(f"Frechet distance needs two rows in each set; given {len(first)} and {len(second)}")
    (mean_a, root_a), (mean_b, root_b) = _gaussian(first), _gaussian(second)
    gap = mean_a - mean_b
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    trace = (root_a**2).sum() + (root_b**2).sum() - 2.0 * cross
    return float(gap @ gap + max(trace, 0.0))  # the trace is never negative but by rounding


def _gaussian(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of rows, and R with R^T R their unbiased covariance, in float64."""
    rows = rows.astype(np.float64)
    mean = rows.mean(axis=0)
    return mean, np.linalg.qr(rows - mean, mode="r") / np.sqrt(len(rows) - 1)
