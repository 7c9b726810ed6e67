"""The condition of a picture, by the image tower of a CLIP: its unit-norm embedding (unCLIP, arXiv 2204.06125, section 2.1).

A request is a picture, or an embedding itself, such as a prior draws. The tower is frozen and runs within the compiled step,
on the pictures as they are trained on; with `cache` it sees each training picture once, prepared without chance, and training
reads the outputs from disk. Nothing told is the zero vector, which no picture has: what a network makes of it (the bias of the
map that reads it) is the learned null.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import runs
from diffusion_jax.systems.diffusion.cached import cached, data_key, embedded
from diffusion_jax.systems.diffusion.conditions.condition import SHOWN, Pick, Plain
from diffusion_jax.systems.diffusion.conditions.pictures import Pictures, pictures_of
from diffusion_jax.systems.diffusion.encoder import Encoder, embedder, encoder_of
from diffusion_jax.typing import Array, PyTree, Source, UserError

__all__ = ["IMAGE_ENCODER", "Embedding", "embedding"]

IMAGE_ENCODER = "image_encoder.json"
"""Where a run's image encoder lies, relative to it, and a fingerprint of the weights that it was trained on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding(Plain):
    """`embedding` [d] of a picture; `pictures` are the run's, `config` says which data a `cache` is of."""

    encoder: Encoder
    pictures: Pictures
    config: ConfigDict
    drop: float = 0.1
    cache: str | None = None
    asks: ClassVar[tuple[str, ...]] = ("image",)

    @functools.cached_property
    def entries(self) -> Mapping[str, tuple[int, ...]]:
        """A vector of the encoder's size."""
        return {"embedding": (embedder(self.encoder.clip, self.pictures.shape)[1],)}

    @property
    def null(self) -> PyTree:  # type: ignore[override]
        """Zeros."""
        return {"embedding": np.zeros((1, *self.entries["embedding"]), np.float32)}

    @property
    def params(self) -> PyTree:  # type: ignore[override]
        """The encoder's weights."""
        return self.encoder.clip.params

    @property
    def frozen(self) -> PyTree:  # type: ignore[override]
        """The encoder's weights, unless its outputs are read from disk."""
        return None if self.cache else self.encoder.clip.params

    def _embed(self, params: PyTree, images: Any) -> Array:
        return embedder(self.encoder.clip, self.pictures.shape)[0](params, images)

    def training(self, data: Source) -> Pick:
        """What was cached of the rows, or nothing, where it is made in the step."""
        if not self.cache:
            return lambda rows, rng: {}
        clip = self.encoder.clip
        key = {"encoder": self.encoder.fingerprint, "prepared": clip.preprocess, **data_key(self.config, data)}
        skip = self.config.data.get("on_error") == "skip"  # training puts another in the place of a broken one
        made = cached(
            self.cache,
            "embeddings",
            key,
            len(data),
            lambda: [{"embedding": embedded(self._embed, clip.params, data, skip=skip)}],
        )
        return lambda rows, rng: {"embedding": made["embedding"][rows]}

    def made(self, frozen: PyTree, images: Array, key: Array) -> PyTree:
        """The embeddings of the batch, where they are not cached."""
        return {} if self.cache else {"embedding": jax.lax.stop_gradient(self._embed(frozen, images))}

    def held_out(self, data: Source) -> PyTree:
        """As `training`: the embeddings where they are not made in the step."""
        return {"embedding": embedded(self._embed, self.encoder.clip.params, data)} if self.cache else {}

    def shown(self, data: Source, held_out: Source) -> list[Any]:
        """The first pictures that are held out."""
        return [held_out[i]["image"] for i in range(min(SHOWN, len(held_out)))]

    def listed(self, what: str, given: Any) -> list[Any]:
        """Pictures, or embeddings: arrays of floats [d], several also [n, d]."""
        array = np.asarray(given) if isinstance(given, np.ndarray | jax.Array) else None
        if array is not None and array.dtype.kind == "f" and array.ndim in (1, 2) and array.size:
            return list(np.atleast_2d(array))
        return pictures_of(what, given)

    def request(self, requests: Sequence[Any]) -> PyTree:
        """Of pictures, and of embeddings [d] in their place, of which the direction counts. UserError for ones of another
        size, and for zeros."""
        size = self.entries["embedding"][0]
        arrays = {row: one for row, one in enumerate(requests) if isinstance(one, np.ndarray | jax.Array)}
        vectors = {row: _unit(one, size) for row, one in arrays.items() if one.ndim == 1}
        pictures = [request for row, request in enumerate(requests) if row not in vectors]
        seen = iter(self._embed(self.encoder.clip.params, self.pictures(pictures)) if pictures else ())
        rows = [vectors[row] if row in vectors else np.asarray(next(seen)) for row in range(len(requests))]
        return {"embedding": np.stack(rows)}

    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """Of the encoder, and whether it saw the pictures as they were trained on or, to be cached, without chance."""
        (file, note), *_ = self.encoder.notes(folder).items()
        return {file: {**note, "cached": self.cache is not None}}

    def agrees(self, folder: Path, anew: bool) -> None:
        """The encoder's; and UserError for a run there that began with a cache where there is none now, or without."""
        self.encoder.agrees(folder, anew)
        if not anew and (folder / IMAGE_ENCODER).is_file():
            before = runs.read_json(folder / IMAGE_ENCODER).get("cached")
            if before != (self.cache is not None):
                began = "with" if before else "without"
                raise UserError(
                    f"{folder} began {began} a cache, and config key 'condition.cache' is {self.cache!r}: pictures that are "
                    "altered have other embeddings; choose another --config.workdir, or --overwrite to begin anew"
                )


def _unit(given: Any, size: int) -> np.ndarray:
    """An embedding of unit norm. UserError for none of this `size`."""
    found = np.asarray(given)
    if found.shape != (size,) or found.dtype.kind != "f":
        raise UserError(
            f"an embedding of shape {found.shape} {found.dtype}: the run's image encoder gives {size} floats"
        )
    norm = np.linalg.norm(found)
    if not np.isfinite(norm) or norm == 0:
        raise UserError(f"an embedding of norm {norm}: it has a direction, and finite numbers")
    return (found / norm).astype(np.float32)


def embedding(
    encoder: str,
    config: ConfigDict,
    drop: float = 0.1,
    cache: str | None = None,
    run: Path | None = None,
    data: Source | None = None,
) -> Embedding:
    """The embedding condition of a config, or of the run in `run`. UserError for pictures that the encoder cannot take."""
    found = encoder_of(encoder, run, IMAGE_ENCODER, "image encoder", texts=False)
    pictures = Pictures.of(config, run, data)
    embedder(found.clip, pictures.shape)
    return Embedding(found, pictures, config, drop, cache)
