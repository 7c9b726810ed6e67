"""The condition of captions, by the text tower of a CLIP: a run trained here, or published weights with their vocabulary.

The features of all captions of a source are made once, before training, and held in memory, or with `cache` on disk, where they
are read as they are used: of 77 tokens of 512 numbers they are 158 kB a caption.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from diffusion_jax.build.sources import captioned
from diffusion_jax.data.examples import raw
from diffusion_jax.data.pipeline import caption_table
from diffusion_jax.systems.clip.run import ClipRun
from diffusion_jax.systems.diffusion.cached import cached
from diffusion_jax.systems.diffusion.conditions.condition import SHOWN, Pick, Plain
from diffusion_jax.systems.diffusion.encoder import Encoder, encoder_of
from diffusion_jax.systems.diffusion.noted import read_note
from diffusion_jax.typing import PyTree, Source, UserError, texts_of

__all__ = ["TEXT_ENCODER", "Text", "read_text_encoder", "text"]

PART = 1024
"""Captions at a time."""
TEXT_ENCODER, WHAT = "text_encoder.json", "text encoder"
"""Where a run's text encoder lies, relative to it, and a fingerprint of the weights that it was trained on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Text(Plain):
    """Captions, by the frozen text tower of a CLIP: `pooled`, its embedding, and `tokens` with `length`, its features.

    Each example gets one of its captions at random. Without `tokens` there is `pooled` alone, for a network that reads vectors.
    """

    encoder: Encoder
    drop: float = 0.1
    cache: str | None = None
    tokens: bool = True
    asks: ClassVar[str] = "prompt"

    @property
    def clip(self) -> ClipRun:
        """The CLIP."""
        return self.encoder.clip

    @property
    def entries(self) -> Mapping[str, tuple[int, ...]]:
        """Of the text tower's sizes."""
        return {name: tuple(leaf.shape[1:]) for name, leaf in self.null.items()}

    @functools.cached_property
    def null(self) -> dict[str, np.ndarray]:
        """The empty prompt's: what training puts in place of dropped captions."""
        return self._told([""])

    def _told(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        found = self.clip.condition(texts)
        return found if self.tokens else {"pooled": found["pooled"]}

    def _parts(self, texts: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """What is told of texts, some at a time, with progress."""
        with tqdm(total=len(texts), desc="reading captions", unit="caption", delay=2, leave=False) as bar:
            for start in range(0, len(texts), PART):
                part = texts[start : start + PART]
                yield self._told(part)
                bar.update(len(part))

    @property
    def params(self) -> PyTree:  # type: ignore[override]
        """The CLIP's weights."""
        return self.clip.params

    def training(self, data: Source) -> Pick:
        """A random caption of each row."""
        captions = caption_table(raw(data))
        texts, count = captions.unique, len(captions.unique)
        table: Mapping[str, np.ndarray]
        if self.cache is None:
            table = _joined(self._parts(texts), count)
        else:
            ids = np.ascontiguousarray(self.clip.tokenizer.encode(texts)["tokens"])
            key = {
                "tokens": self.tokens,
                "encoder": self.encoder.fingerprint,
                "captions": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
                "ids": [*ids.shape, hashlib.sha256(ids.tobytes()).hexdigest()],
            }
            table = cached(self.cache, "captions", key, count, lambda: self._parts(texts))

        def chosen_captions(chosen: np.ndarray, rng: np.random.Generator) -> PyTree:
            picked = captions.pick(chosen, rng)
            return {name: np.asarray(leaf[picked]) for name, leaf in table.items()}

        return chosen_captions

    def held_out(self, data: Source) -> PyTree:
        """The first caption of each."""
        return self._told([_captions(raw(data), i)[0] for i in range(len(data))])

    def shown(self, data: Source, held_out: Source) -> list[str]:
        """The source's own `prompts`, or the first different captions that are held out."""
        own = getattr(data, "prompts", None)
        captions = (_captions(raw(held_out), i)[0] for i in range(len(held_out)))
        return list(own) if own is not None else list(dict.fromkeys(captions))[:SHOWN]

    def listed(self, what: str, given: Any) -> list[str]:
        """Texts."""
        return texts_of(what, given)

    def request(self, requests: Sequence[Any]) -> dict[str, np.ndarray]:
        """Of prompts."""
        return self._told(texts_of("prompts", requests))

    def notices(self, requests: Sequence[str]) -> list[str]:
        """What of the prompts does not reach the model."""
        return self.clip.tokenizer.explain(requests)

    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """Where the CLIP lies from the run's folder, and its fingerprint."""
        return self.encoder.notes(folder)

    def agrees(self, folder: Path, anew: bool) -> None:
        """UserError for a folder that holds the CLIP, and for a run there of other weights."""
        self.encoder.agrees(folder, anew)


def _joined(parts: Iterable[Mapping[str, np.ndarray]], rows: int) -> dict[str, np.ndarray]:
    """Parts of consecutive rows as whole arrays, which are never held twice."""
    found: dict[str, np.ndarray] = {}
    start = 0
    for part in parts:
        stop = start + len(next(iter(part.values())))
        for name, array in part.items():
            if name not in found:
                found[name] = np.empty((rows, *array.shape[1:]), array.dtype)
            found[name][start:stop] = array
        start = stop
    return found


def _captions(data: Source, index: int) -> list[str]:
    """The captions of an example. UserError for one without."""
    found = data[index].get("captions")
    if not found:
        raise UserError(f"example {index} that is held out has no captions")
    return list(found)


def text(
    encoder: str,
    drop: float = 0.1,
    cache: str | None = None,
    tokens: bool = True,
    run: Path | None = None,
    data: Source | None = None,
    config: ConfigDict | None = None,
) -> Text:
    """The text condition of a config, or of the run in `run`, whose note says where its CLIP lies from there.

    UserError where the `data` that a run begins with have no captions.
    """
    found = encoder_of(encoder, run, TEXT_ENCODER, WHAT)
    if data is not None and config is not None:
        captioned(config.data, raw(data))
    return Text(found, drop, cache, tokens)


def read_text_encoder(path: Path) -> dict[str, str]:
    """{"run", "fingerprint"} of the text encoder that the diffusion run in `path` was trained on."""
    return read_note(path, TEXT_ENCODER, WHAT)
