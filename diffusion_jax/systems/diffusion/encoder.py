"""The frozen CLIP that a condition or a space is made with: a run trained here, or a folder or file of published weights.

A run that is conditioned keeps a note of it (`noted`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax import runs
from diffusion_jax.data.pictures.preprocess import Preprocess
from diffusion_jax.nets import Network
from diffusion_jax.systems.clip.loss import unit
from diffusion_jax.systems.clip.pretrained import load_pretrained
from diffusion_jax.systems.clip.run import ClipRun, load_clip
from diffusion_jax.systems.diffusion.noted import Noted, place_noted
from diffusion_jax.typing import Array, Params, UserError

__all__ = ["Encoder", "as_seen", "embedder", "encoder_of", "load_encoder"]

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.npz", "open_clip_config.json")
"""By which files a folder is one of published weights."""


class _Silent:
    """In place of the tokenizer of weights that are to see pictures alone: they may have no vocabulary beside them."""

    vocabulary_size, context_length = 0, 0

    def encode(self, texts: Sequence[str]) -> Any:
        """UserError."""
        raise UserError("the CLIP was loaded for pictures alone: it reads no texts")

    def explain(self, texts: Sequence[str]) -> list[str]:
        """Nothing."""
        return []


def _published(path: Path) -> bool:
    """Whether published weights lie there: a file, or a folder of them that is no run."""
    if path.is_file():
        return True
    if not path.is_dir() or any(runs.is_run(place) and _has_system(place) for place in (path, path / "clip")):
        return False
    return (path / runs.CONFIG).is_file() or any(next(path.glob(kind), None) is not None for kind in WEIGHTS)


def _has_system(folder: Path) -> bool:
    return "system" in runs.read_json(folder / runs.CONFIG)


def load_encoder(path: str | Path, *, texts: bool = True) -> ClipRun:
    """The CLIP at a path: a run, or published weights; of these without a tokenizer where no `texts` are to be read.

    UserError where there is neither, as `load_clip` and `load_pretrained`.
    """
    if _published(Path(path)):
        return load_pretrained(path, tokenizer=None if texts else _Silent())
    return load_clip(path)


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """A CLIP and the note that a run keeps of it in `file`; `what` is what messages call it, "text encoder"."""

    clip: ClipRun
    file: str
    what: str

    @functools.cached_property
    def noted(self) -> Noted:
        """What a run notes of it."""
        return Noted(self.clip.path, self.clip.params, self.file, self.what)

    @property
    def fingerprint(self) -> str:
        """A digest of its weights."""
        return self.noted.fingerprint

    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """Where it lies from the run's folder, and its fingerprint."""
        return self.noted.notes(folder)

    def agrees(self, folder: Path, anew: bool) -> None:
        """UserError for a folder that holds the encoder, and for a run there of other weights."""
        self.noted.agrees(folder, anew)


def encoder_of(path: str, run: Path | None, file: str, what: str, *, texts: bool = True) -> Encoder:
    """The encoder that a config names, or that the run in `run` notes in `file`. UserError where it is gone, or another."""
    if run is None:
        return Encoder(load_encoder(path, texts=texts), file, what)
    place, fingerprint, gone = place_noted(run, file, what)
    trained = runs.is_run(place) or (place.is_dir() and any(runs.is_run(inner) for inner in place.glob("*")))
    if not (trained or _published(place)):
        raise gone
    found = Encoder(load_encoder(place, texts=texts), file, what)
    if found.fingerprint != fingerprint:
        if _published(place):
            raise UserError(
                f"the {what} in {place} has other weights than those that {run} was trained on: put them back, or train the "
                "diffusion run anew"
            )
        raise UserError(f"the {what} in {found.clip.path} was trained again after {run}: train the diffusion run anew")
    return found


def embedder(clip: ClipRun, image: tuple[int, ...]) -> tuple[Callable[[Params, Array], Array], int]:
    """(params, images [n, *image] in [-1, 1]) -> unit-norm embeddings [n, d], for the compiled step; and d.

    Pictures are brought to the tower's size as its preparation does it (bicubic, antialiased) but for the rounding to
    levels; a CLIP of arrays takes them as they are. UserError for images that the tower cannot take.
    """
    embed = _embedder(clip.network, clip.preprocess)
    made = jax.eval_shape(embed, clip.params, jax.ShapeDtypeStruct((1, *image), jnp.float32))
    return embed, made.shape[-1]


@functools.cache
def _embedder(network: Network, preprocess: Preprocess | None) -> Callable[[Params, Array], Array]:
    encode = network.method("encode_image")

    @jax.jit
    def embed(params: Params, images: Array) -> Array:
        return unit(encode(params, as_seen(preprocess, images)).embedding)

    return embed


def as_seen(preprocess: Preprocess | None, images: Array) -> Array:
    """Images [n, h, w, c] in [-1, 1] as a tower takes them, of its size; as they are for a CLIP of arrays."""
    if preprocess is None:
        return images
    edge = preprocess.edge
    if images.shape[1:3] != (edge, edge):
        images = jax.image.resize(images, (len(images), edge, edge, images.shape[3]), "cubic", antialias=True)
    return jnp.asarray(preprocess.from_unit_range(jnp.clip(images, -1.0, 1.0)))
