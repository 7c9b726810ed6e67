"""An independent reader of small images: a support vector machine fitted on real ones, to judge generated ones.

It shares nothing with the models that it judges: neither their features nor their training. Its own accuracy on
held-out real images is the ceiling of what it can say, and stands beside every number it gives.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Reader", "fit_reader"]

Images = Float[np.ndarray, "images height width channels"]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A fitted classifier of images in [-1, 1]."""

    model: Any

    def read(self, images: Images) -> Int[np.ndarray, " images"]:
        """The class of each image."""
        return np.asarray(self.model.predict(_rows(images)))

    def accuracy(self, images: Images, labels: Int[np.ndarray, " images"]) -> float:
        """The share of images read as their label, in [0, 1]."""
        return float((self.read(images) == labels).mean())


def fit_reader(images: Images, labels: Int[np.ndarray, " images"], *, c: float = 10.0) -> Reader:
    """An RBF support vector machine on raw pixels, gamma = 1 / (pixels x variance). Deterministic."""
    from sklearn.svm import SVC

    return Reader(SVC(C=c, gamma="scale").fit(_rows(images), labels))


def _rows(images: Images) -> np.ndarray:
    return np.asarray(images, np.float64).reshape(len(images), -1)
