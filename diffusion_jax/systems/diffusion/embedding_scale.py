"""How unit-norm embeddings become x0 of unit scale and back: x0 = (u - mean) scale.

**unit**: mean 0 and scale sqrt(d), since the entries of a unit vector have mean square 1 / d (unCLIP, arXiv 2204.06125, scales
its own so). Embeddings of a CLIP share a direction, so that their mean is far from 0 and their spread below 1.

**whitened**: the mean and the inverse of the deviation of each entry over the training pictures, as the public weights of Karlo
have them: each entry of x0 has mean 0 and variance 1. Fitted where a run begins, and kept with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.runs import read_json
from diffusion_jax.typing import Source, UserError

__all__ = ["FITTED", "NOTE", "SCALINGS", "EmbeddingScale", "fitted", "noted", "spread_over", "unit_scale"]

NOTE = "embedding_scale.json"
"""The mean and scale of a run's space of embeddings, where they are fitted."""
SCALINGS = ("unit", "whitened")
FITTED = 10_000
"""The most pictures that they are fitted on."""
LEAST = 1e-6
NEAR = 1e-3
"""Of a scale of 1: two fits of the same pictures on two machines differ by less."""


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddingScale:
    """`mean` and `scale` float32 [d]; `examples` is how many pictures they were fitted on, 0 where on none."""

    mean: np.ndarray
    scale: np.ndarray
    examples: int = 0

    def note(self) -> dict[str, Any]:
        """As a run keeps it."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist(), "examples": self.examples}

    def agrees(self, folder: Path) -> None:
        """UserError where the run in a folder was trained in another scale."""
        before = noted(folder, len(self.mean))
        apart = np.max(np.abs((before.mean - self.mean) * self.scale) + np.abs(before.scale / self.scale - 1.0))
        if apart > NEAR:
            raise UserError(
                f"{folder} began with embeddings whitened otherwise ({NOTE}: {before.examples} pictures, {apart:.2g} apart in "
                "units of the deviation): the training pictures are others; choose another --config.workdir, or --overwrite "
                "to begin anew"
            )


def unit_scale(size: int) -> EmbeddingScale:
    """Of embeddings [size] that nothing is fitted on."""
    return EmbeddingScale(np.zeros(size, np.float32), np.full(size, np.sqrt(size), np.float32))


def fitted(embeddings: np.ndarray) -> EmbeddingScale:
    """Of unit-norm embeddings [n, d]; rows of zeros or NaN, of pictures that cannot be read, do not count.

    A deviation is taken to be 1e-6 at least. UserError where fewer than two rows count.
    """
    found = np.asarray(embeddings, np.float64)
    found = found[np.isfinite(found).all(axis=1) & found.any(axis=1)]
    if len(found) < 2:
        raise UserError(f"embeddings are whitened by two pictures at least, and {len(found)} can be read")
    std = np.maximum(found.std(axis=0), LEAST)
    return EmbeddingScale(found.mean(axis=0).astype(np.float32), (1.0 / std).astype(np.float32), len(found))


def noted(folder: Path, size: int) -> EmbeddingScale:
    """What the run in a folder keeps of embeddings [size]. UserError where it keeps none, or of another size."""
    file = folder / NOTE
    if not file.is_file():
        raise UserError(f"{file} is missing: the run does not say how its embeddings were whitened")
    found: Mapping[str, Any] = read_json(file)
    try:
        mean, scale = (np.asarray(found[name], np.float32) for name in ("mean", "scale"))
        made = EmbeddingScale(mean, scale, int(found["examples"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} does not hold the mean and scale of embeddings: train the run anew") from error
    if made.mean.shape != (size,) or made.scale.shape != (size,) or not np.all(made.scale > 0):
        raise UserError(
            f"{file} has a mean of shape {made.mean.shape} and a scale of {made.scale.shape}; embeddings have {size} numbers"
        )
    return made


def spread_over(data: Source, most: int = FITTED) -> Source:
    """`most` examples of a source at most, spread over all its places."""
    places = np.unique(np.linspace(0, len(data) - 1, min(len(data), most)).astype(int))
    return data if len(places) == len(data) else _Some(data, places)


class _Some:
    """Some examples of a source."""

    def __init__(self, data: Source, places: np.ndarray) -> None:
        self.data, self.places = data, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        return self.data[int(self.places[index])]
