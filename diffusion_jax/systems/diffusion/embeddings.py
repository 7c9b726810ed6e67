"""The space of a CLIP's image embeddings: diffusion over vectors, as unCLIP's prior (arXiv 2204.06125, section 2.2).

x0 are unit-norm embeddings times sqrt(d), or whitened (`scaling`, see `embedding_scale`). What is drawn is brought back to the
unit sphere, where embeddings lie. The tower runs within the compiled step, or once with its outputs on disk (`cache`, see
`cached`), of pictures prepared without chance, and then training decodes no picture.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.systems.diffusion import embedding_scale
from diffusion_jax.systems.diffusion.cached import cached, data_key, embedded
from diffusion_jax.systems.diffusion.data import examples
from diffusion_jax.systems.diffusion.embedding_scale import SCALINGS, EmbeddingScale
from diffusion_jax.systems.diffusion.encoder import Encoder, embedder, encoder_of
from diffusion_jax.typing import Array, Batch, PyTree, Source, one_of

__all__ = ["SPACE_ENCODER", "Embeddings", "embeddings"]

SPACE_ENCODER = "space_encoder.json"
"""Where the CLIP of a run's space lies, relative to it, and a fingerprint of the weights that it was trained on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """x0 [d] of an image of shape `image`: its unit-norm embedding u as (u - mean) scale.

    `run` is the folder of the run that is loaded, None where one begins.
    """

    image: tuple[int, ...]
    encoder: Encoder
    config: ConfigDict
    cache: str | None = None
    scaling: str = "unit"
    run: Path | None = None

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """(d,)."""
        return (embedder(self.encoder.clip, self.image)[1],)

    @functools.cached_property
    def scale(self) -> EmbeddingScale:
        """Mean and scale: noted by the run, or fitted where one begins on its training pictures, with progress."""
        if self.scaling == "unit":
            return embedding_scale.unit_scale(*self.shape)
        if self.run is not None:
            return embedding_scale.noted(self.run, *self.shape)
        data = examples(self.config, "train", self.image)
        if self.cache:
            return embedding_scale.fitted(self._unit(data))
        some = embedding_scale.spread_over(data)
        return embedding_scale.fitted(
            embedded(self._embed, self.encoder.clip.params, some, skip=self._skips, name="whitening embeddings")
        )

    @property
    def _skips(self) -> bool:
        return self.config.data.get("on_error") == "skip"

    @property
    def frozen(self) -> PyTree:
        """The encoder's weights, and mean and scale."""
        return {"encoder": self.encoder.clip.params, "mean": self.scale.mean, "scale": self.scale.scale}

    def _embed(self, params: PyTree, images: Any) -> Array:
        return embedder(self.encoder.clip, self.image)[0](params, images)

    def scaled(self, embeddings: Any) -> Array:
        """Unit-norm embeddings [n, d] -> x0."""
        return (jnp.asarray(embeddings) - self.scale.mean[None]) * self.scale.scale[None]

    def encode(self, frozen: PyTree, batch: Batch) -> Array:
        """Of the batch's "image"."""
        found = jax.lax.stop_gradient(self._embed(frozen["encoder"], batch["image"]))
        return (found - frozen["mean"][None]) * frozen["scale"][None]

    def decode(self, frozen: PyTree, x0: Array) -> Array:
        """Of unit norm; of what has none zeros."""
        x0 = jnp.asarray(x0, jnp.float32)
        mean, scale = (jnp.broadcast_to(part, x0.shape) for part in (self.scale.mean, self.scale.scale))
        found = x0 / scale + mean
        return found / jnp.maximum(jnp.linalg.norm(found, axis=-1, keepdims=True), 1e-12)

    @property
    def table(self) -> Callable[[Source], np.ndarray] | None:
        """x0 of every example of a source, where their embeddings are cached, NaN of one that cannot be read; else None."""
        return self._table if self.cache else None

    def _table(self, data: Source) -> np.ndarray:
        return (self._unit(data) - self.scale.mean) * self.scale.scale

    def _unit(self, data: Source) -> np.ndarray:
        """The embedding of every example from the cache, NaN of a picture that cannot be read."""
        clip = self.encoder.clip
        key = {"encoder": self.encoder.fingerprint, "prepared": clip.preprocess, **data_key(self.config, data)}

        def make() -> list[dict[str, np.ndarray]]:
            found = embedded(self._embed, clip.params, data, skip=self._skips)
            found[~found.any(axis=1)] = np.nan
            return [{"embedding": found}]

        return cached(str(self.cache), "unit", key, len(data), make)["embedding"]

    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """Where the CLIP lies from the run's folder and its fingerprint, and what is fitted."""
        found = dict(self.encoder.notes(folder))
        return found if self.scaling == "unit" else {**found, embedding_scale.NOTE: self.scale.note()}

    def agrees(self, folder: Path, anew: bool) -> None:
        """The encoder's; and UserError for a run there that was whitened otherwise."""
        self.encoder.agrees(folder, anew)
        if not anew and self.scaling == "whitened" and (folder / embedding_scale.NOTE).is_file():
            self.scale.agrees(folder)


def embeddings(
    encoder: str,
    image: tuple[int, ...],
    config: ConfigDict,
    cache: str | None = None,
    scaling: str = "unit",
    run: Path | None = None,
) -> Embeddings:
    """The space of a config, or of the run in `run`. UserError for pictures that the encoder cannot take."""
    one_of("space.scaling", scaling, SCALINGS)
    found = encoder_of(encoder, run, SPACE_ENCODER, "encoder of the space", texts=False)
    made = Embeddings(tuple(image), found, config, cache, scaling, run)
    embedder(found.clip, made.image)
    return made
