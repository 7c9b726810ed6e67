"""The principal components of embeddings: which directions of a CLIP's space say the most (unCLIP, arXiv 2204.06125, figure 7).

Of embeddings z [m, d] with mean z0 and covariance V diag(s) V^T, s falling, k components of another z are
z0 + V_k V_k^T (z - z0): none is the mean, d are all of z.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from diffusion_jax.typing import UserError, whole_number

__all__ = ["Components", "components_of"]


@dataclasses.dataclass(frozen=True, eq=False)
class Components:
    """`mean` [d], `directions` [d, d] in columns by falling variance, and those `variances` [d]."""

    mean: np.ndarray
    directions: np.ndarray
    variances: np.ndarray

    def project(self, embeddings: np.ndarray, count: int) -> np.ndarray:
        """What `count` components, 0 to d, tell of embeddings [n, d]. UserError for another count or size."""
        size = len(self.mean)
        if embeddings.ndim != 2 or embeddings.shape[1] != size:
            raise UserError(f"embeddings of shape {embeddings.shape}: the components are of vectors [{size}]")
        if not 0 <= whole_number("count", count, 0) <= size:
            raise UserError(f"count {count}: there are {size} components; nearest: {size}")
        kept = self.directions[:, :count]
        found = self.mean[None] + (embeddings - self.mean[None]) @ kept @ kept.T
        return found.astype(embeddings.dtype)

    def share(self, count: int) -> float:
        """The share of the variance that `count` components have, 0 to 1."""
        return float(self.variances[:count].sum() / max(self.variances.sum(), 1e-30))


def components_of(embeddings: np.ndarray) -> Components:
    """Of embeddings [m, d], m >= 2, in float64. UserError for fewer, and for what is not finite."""
    found = np.asarray(embeddings, np.float64)
    if found.ndim != 2 or len(found) < 2 or not np.isfinite(found).all():
        raise UserError(f"embeddings of shape {found.shape}: components are of two finite vectors at least, [m, d]")
    mean = found.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(found - mean, rowvar=False, bias=True).reshape(len(mean), len(mean)))
    return Components(mean, directions[:, ::-1], np.maximum(variances[::-1], 0.0))
