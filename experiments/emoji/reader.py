"""A reader of style: whose hand an emoji is of, from what is measured on its pixels, to judge drawn ones.

A style shows in few things, which are measured, each as a share or a mean, so that no pixel's place matters much:

- **palette**: a histogram of colours in 8 x 8 x 8 bins, a colour shared among the eight nearest by its distances (trilinear);
- **surfaces**: histograms of the differences of neighbouring pixels and of the differences of these: flat areas, gradients,
  outlines. The bins are fine near 0, and shared likewise;
- **outline**: how much ink each row and each column has, in the mean and at most: margins and bulk.

A network of one hidden layer (scikit-learn's) classifies these. It learns from the training pictures and from copies with
noise and blur, so that it does not live by the exact flatness of a vector drawing, which no diffusion model gives. It shares
nothing with the models that it judges. Its hidden layer gives the features of a Frechet distance.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from diffusion_jax.files import write_atomic

__all__ = ["StyleReader", "fit_reader", "load_reader", "measured", "save_reader"]

BINS = 8
EDGES = np.array([0, 2, 4, 8, 12, 18, 28, 42, 64, 100, 160, 255], np.float32)  # grey levels
HIDDEN, EPOCHS, BATCH = 128, 12, 256
NOISE = (2.0, 5.0)  # grey levels
BLUR = 0.3  # the share of the mean of the neighbours in a blurred copy
BLOCK = 1024

Pictures = np.ndarray
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, eq=False)
class StyleReader:
    """A fitted classifier of pictures [n, size, size, 3], uint8 or in [-1, 1]: relu(z W + b), z the standardised measures."""

    mean: np.ndarray
    scale: np.ndarray
    into: np.ndarray
    into_bias: np.ndarray
    out: np.ndarray
    out_bias: np.ndarray

    def features(self, pictures: Pictures) -> Float[np.ndarray, "n hidden"]:
        """The hidden layer of each picture."""
        z = (measured(pictures) - self.mean) / self.scale
        return np.maximum(z @ self.into + self.into_bias, 0)

    def read(self, pictures: Pictures) -> Int[np.ndarray, " n"]:
        """The style of each picture."""
        scores = self.features(pictures) @ self.out + self.out_bias
        # scikit-learn has one number for two classes
        return (scores[:, 0] > 0).astype(int) if scores.shape[1] == 1 else scores.argmax(axis=1)

    def accuracy(self, pictures: Pictures, styles: Int[np.ndarray, " n"]) -> float:
        """The share of pictures read as their style, in [0, 1]."""
        return float((self.read(pictures) == styles).mean())


def levels(pictures: Pictures) -> Float[np.ndarray, "n h w c"]:
    """Grey levels 0 .. 255 of uint8, or of floats in [-1, 1], clipped."""
    if pictures.dtype == np.uint8:
        return pictures.astype(np.float32)
    return (np.clip(pictures, -1, 1).astype(np.float32) + 1) * 127.5


def measured(pictures: Pictures) -> Float[np.ndarray, "n measures"]:
    """What is measured on each picture; roots of the histograms, whose noise is then the same in rare and common bins."""
    blocks = [pictures[start : start + BLOCK] for start in range(0, len(pictures), BLOCK)]
    return np.concatenate([_measured(levels(block)) for block in blocks])


def _measured(x: np.ndarray) -> np.ndarray:
    surfaces = []
    for axis in (1, 2):
        first = np.diff(x, axis=axis)
        surfaces += [_shares(np.abs(change).max(axis=-1)) for change in (first, np.diff(first, axis=axis))]
    ink = (255 - x.min(axis=-1)) / 255
    outline = [ink.mean(1), ink.mean(2), ink.max(1), ink.max(2)]
    return np.concatenate([np.sqrt(_palette(x)), *map(np.sqrt, surfaces), *outline], axis=1)


def _palette(x: np.ndarray) -> np.ndarray:
    """[n, 512]: the share of each colour bin, a pixel shared among the eight around it."""
    count = len(x)
    at = x.reshape(count, -1, 3) * ((BINS - 1) / 255)
    low = np.clip(np.floor(at).astype(np.int64), 0, BINS - 2)
    part = at - low
    total = np.zeros(count * BINS**3)
    offset = np.arange(count)[:, None] * BINS**3
    for corner in itertools.product((0, 1), repeat=3):
        share = np.prod([part[..., c] if up else 1 - part[..., c] for c, up in enumerate(corner)], axis=0)
        place = ((low[..., 0] + corner[0]) * BINS + low[..., 1] + corner[1]) * BINS + low[..., 2] + corner[2]
        total += np.bincount((offset + place).ravel(), share.ravel(), minlength=len(total))
    return (total.reshape(count, -1) / at.shape[1]).astype(np.float32)


def _shares(values: np.ndarray) -> np.ndarray:
    """[n, bins]: the share of the values at each of `EDGES`, a value shared between the two around it."""
    count = len(values)
    flat = values.reshape(count, -1)
    low = np.clip(np.searchsorted(EDGES, flat, side="right") - 1, 0, len(EDGES) - 2)
    part = np.clip((flat - EDGES[low]) / (EDGES[low + 1] - EDGES[low]), 0, 1)
    offset, total = np.arange(count)[:, None] * len(EDGES), np.zeros(count * len(EDGES))
    for up, share in ((0, 1 - part), (1, part)):
        total += np.bincount((offset + low + up).ravel(), share.ravel(), minlength=len(total))
    return (total.reshape(count, -1) / flat.shape[1]).astype(np.float32)


def _copies(pictures: Pictures, rng: np.random.Generator) -> list[Pictures]:
    """The pictures, noisy ones and blurred ones, uint8."""
    x = levels(pictures)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    around = (padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]) / 4
    altered = [*(x + rng.normal(0, noise, x.shape) for noise in NOISE), (1 - BLUR) * x + BLUR * around]
    return [pictures, *(np.clip(np.round(copy), 0, 255).astype(np.uint8) for copy in altered)]


def fit_reader(pictures: Pictures, styles: Int[np.ndarray, " n"], *, seed: int = 0, say: Say = print) -> StyleReader:
    """The reader of these uint8 pictures of at least two styles. Deterministic."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    say(f"  measuring {len(pictures)} pictures, and copies with noise and blur")
    found = [measured(copy) for copy in _copies(pictures, np.random.default_rng(seed))]
    rows, labels = np.concatenate(found), np.tile(styles, len(found))
    mean, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-3
    say(f"  {EPOCHS} epochs of the reader of style")
    model = MLPClassifier((HIDDEN,), alpha=1e-2, batch_size=min(BATCH, len(rows)), max_iter=EPOCHS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as many epochs as were asked for
        model.fit((rows - mean) / scale, labels)
    (into, out), (into_bias, out_bias) = model.coefs_, model.intercepts_
    return StyleReader(mean, scale, into, into_bias, out, out_bias)


def save_reader(file: Path, reader: StyleReader) -> Path:
    """One file, whole or not at all."""
    whole = io.BytesIO()
    np.savez(whole, allow_pickle=False, **dataclasses.asdict(reader))
    return write_atomic(file, whole.getvalue())


def load_reader(file: Path) -> StyleReader | None:
    """What `save_reader` kept; None where there is none, or a damaged one."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            return StyleReader(**{name: stored[name] for name in stored.files})
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        return None
