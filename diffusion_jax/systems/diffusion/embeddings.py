"""The space of a CLIP's image embeddings: diffusion over vectors, as unCLIP's prior (arXiv 2204.06125, section 2.2).

A unit-norm embedding of d numbers has entries of mean square 1 / d; x0 is it times sqrt(d), which are of unit scale. What is
drawn is brought back to the unit sphere, where embeddings lie. The tower runs within the compiled step, or once with its
outputs on disk (`cache`, see `cached`), of pictures prepared without chance, and then training decodes no picture.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.systems.diffusion.cached import cached, data_key, embedded
from diffusion_jax.systems.diffusion.encoder import Encoder, embedder, encoder_of
from diffusion_jax.typing import Array, Batch, PyTree, Source

__all__ = ["SPACE_ENCODER", "Embeddings", "embeddings"]

SPACE_ENCODER = "space_encoder.json"
"""Where the CLIP of a run's space lies, relative to it, and a fingerprint of the weights that it was trained on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """x0 [d]: sqrt(d) times the unit-norm embedding of an image of shape `image`."""

    image: tuple[int, ...]
    encoder: Encoder
    config: ConfigDict
    cache: str | None = None

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """(d,)."""
        return (embedder(self.encoder.clip, self.image)[1],)

    @property
    def frozen(self) -> PyTree:
        """The encoder's weights."""
        return self.encoder.clip.params

    def _embed(self, params: PyTree, images: Any) -> Array:
        return embedder(self.encoder.clip, self.image)[0](params, images)

    def encode(self, frozen: PyTree, batch: Batch) -> Array:
        """Of the batch's "image"."""
        return math.sqrt(self.shape[0]) * jax.lax.stop_gradient(self._embed(frozen, batch["image"]))

    def decode(self, frozen: PyTree, x0: Array) -> Array:
        """Of unit norm; of a zero vector zeros."""
        x0 = jnp.asarray(x0, jnp.float32)
        return x0 / jnp.maximum(jnp.linalg.norm(x0, axis=-1, keepdims=True), 1e-12)

    @property
    def table(self) -> Callable[[Source], np.ndarray] | None:
        """x0 of every example of a source, where they are cached, NaN of a picture that cannot be read; else None."""
        return self._table if self.cache else None

    def _table(self, data: Source) -> np.ndarray:
        clip, scale = self.encoder.clip, math.sqrt(self.shape[0])
        key = {"encoder": self.encoder.fingerprint, "prepared": clip.preprocess, **data_key(self.config, data)}

        def make() -> list[dict[str, np.ndarray]]:
            skip = self.config.data.get("on_error") == "skip"
            x0 = scale * embedded(self._embed, clip.params, data, skip=skip)
            x0[~x0.any(axis=1)] = np.nan
            return [{"x0": x0}]

        return cached(str(self.cache), "space", key, len(data), make)["x0"]

    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """Where the CLIP lies from the run's folder, and its fingerprint."""
        return self.encoder.notes(folder)

    def agrees(self, folder: Path, anew: bool) -> None:
        """The encoder's."""
        self.encoder.agrees(folder, anew)


def embeddings(
    encoder: str, image: tuple[int, ...], config: ConfigDict, cache: str | None = None, run: Path | None = None
) -> Embeddings:
    """The space of a config, or of the run in `run`. UserError for pictures that the encoder cannot take."""
    found = encoder_of(encoder, run, SPACE_ENCODER, "encoder of the space", texts=False)
    made = Embeddings(tuple(image), found, config, cache)
    embedder(found.clip, made.image)
    return made
