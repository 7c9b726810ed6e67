"""scikit-learn's digits: 1,797 real handwritten scans of 8 x 8 pixels with 17 grey levels, and what is measured on each.

With m(x, y) the ink of a pixel in [0, 1], x to the right and y downwards from the centre of mass:

- **ink** is the mean of m; for one digit it grows with the weight of the stroke;
- **slant** is -mu_11 / mu_02 = -sum m x y / sum m y^2, the shear that would set the scan upright: positive leans to
  the right, as italics do;
- **width** is 2 sqrt(mu_20 / mu_00), in pixels.

Words such as "bold" are relative to the digit (a one has less ink than an eight): a scan is thin, regular or bold by
the terciles of ink among the training scans of its digit, and leans left, stands upright or is slanted by those of
slant.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffusion_jax.data.sources.digit_captions import SLANTS, WEIGHTS, captions
from diffusion_jax.typing import UserError, one_of

__all__ = ["SPLITS", "DigitsSource", "classify", "load_digits", "measure"]

SPLITS = {"train": 1257, "validation": 180, "test": 360}
CAPTIONS = 8  # phrasings of each scan

Images = Float[np.ndarray, "images 8 8 1"]


@dataclasses.dataclass(frozen=True, eq=False)
class DigitsSource:
    """The scans of one split: images [n, 8, 8, 1] in [-1, 1] (1 is ink), labels [n] and the classes of what is measured."""

    images: np.ndarray
    labels: np.ndarray
    attributes: Mapping[str, np.ndarray]
    levels: int = 17  # of grey, equally spaced from -1 to 1

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"scan {index} of {len(self)}")
        index %= len(self)
        weight, slant = (int(self.attributes[name][index]) for name in ("weight", "slant"))
        label = int(self.labels[index])
        return {
            "image": self.images[index],
            "label": label,
            "captions": captions(label, WEIGHTS[weight], SLANTS[slant], index, CAPTIONS),
            "attributes": {"weight": WEIGHTS[weight], "slant": SLANTS[slant]},
            "index": index,
        }

    def columns(self) -> dict[str, np.ndarray]:
        """All rows at once: `image`, `label`, `index`."""
        return {"image": self.images, "label": self.labels, "index": np.arange(len(self))}


def load_digits(split: str) -> DigitsSource:
    """The scans of "train" (1,257), "validation" (180) or "test" (360): fixed, stratified by digit, disjoint."""
    images, labels = _scans()
    rows = _split()[one_of("split", split, SPLITS)]
    found = classify(images[rows], labels[rows])
    return DigitsSource(images[rows], labels[rows], found)


@functools.cache
def _scans() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits as load

    raw = load()
    images = (raw.images / 8.0 - 1.0).astype(np.float32)[..., None]
    return images, raw.target.astype(np.int32)


@functools.cache
def _split() -> dict[str, np.ndarray]:
    from sklearn.model_selection import train_test_split

    labels = _scans()[1]
    rest, test = train_test_split(np.arange(len(labels)), test_size=SPLITS["test"], stratify=labels, random_state=0)
    train, validation = train_test_split(rest, test_size=SPLITS["validation"], stratify=labels[rest], random_state=0)
    return {"train": np.sort(train), "validation": np.sort(validation), "test": np.sort(test)}


def measure(images: Images) -> dict[str, Float[np.ndarray, " images"]]:
    """`ink` in [0, 1], `slant` (dimensionless, positive leans right) and `width` in pixels of each image.

    Values outside [-1, 1], as samples may have, are clipped first. An image without ink has slant and width 0.
    """
    ink = (np.clip(images[..., 0].astype(np.float64), -1, 1) + 1) / 2
    total = np.maximum(ink.sum(axis=(1, 2)), 1e-12)
    y, x = np.meshgrid(np.arange(ink.shape[1]), np.arange(ink.shape[2]), indexing="ij")
    centre_x, centre_y = ((ink * axis).sum(axis=(1, 2)) / total for axis in (x, y))
    dx, dy = x[None] - centre_x[:, None, None], y[None] - centre_y[:, None, None]
    mu_11, mu_02, mu_20 = ((ink * product).sum(axis=(1, 2)) for product in (dx * dy, dy * dy, dx * dx))
    return {
        "ink": ink.mean(axis=(1, 2)),
        "slant": -mu_11 / np.maximum(mu_02, 1e-12),
        "width": 2 * np.sqrt(mu_20 / total),
    }


@functools.cache
def _thresholds() -> dict[str, np.ndarray]:
    """[digits, 2] terciles of ink and slant among the training scans of each digit."""
    images, labels = _scans()
    rows = _split()["train"]
    found, digits = measure(images[rows]), labels[rows]
    return {
        name: np.stack([np.quantile(found[name][digits == digit], [1 / 3, 2 / 3]) for digit in range(10)])
        for name in ("ink", "slant")
    }


def classify(images: Images, labels: Int[np.ndarray, " labels"]) -> dict[str, Int[np.ndarray, " images"]]:
    """`weight` (index into WEIGHTS) and `slant` (into SLANTS) of each image as a drawing of the digit `labels` says.

    Raises UserError when there is not one label an image, and for a label that is not in 0 .. 9.
    """
    if len(images) != len(labels):
        raise UserError(f"{len(images)} images have {len(labels)} labels: each needs one")
    for label in labels[(labels < 0) | (labels > 9)]:
        raise UserError(f"label {label} is not in 0 .. 9; nearest: {min(max(label, 0), 9)}")
    found, limits = measure(images), _thresholds()
    classes = {}
    for name, measured in (("weight", "ink"), ("slant", "slant")):
        low, high = limits[measured][labels].T
        classes[name] = (found[measured] > low).astype(np.int32) + (found[measured] > high)
    return classes
