"""The condition of captions, whatever reads them: `text.Text` is that of a CLIP's text tower, pipelines have one of their own.

The features of all captions of a source are made once, before training, and held in memory, or with `cache` on disk, where they
are read as they are used: of 77 tokens of 512 numbers they are 158 kB a caption.
"""

from __future__ import annotations

import abc
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from diffusion_jax.data.examples import raw
from diffusion_jax.data.pipeline import caption_table
from diffusion_jax.systems.diffusion.cached import cached
from diffusion_jax.systems.diffusion.conditions.condition import SHOWN, Pick, Plain
from diffusion_jax.typing import PyTree, Source, UserError, texts_of

__all__ = ["Captioned"]


class Captioned(Plain, abc.ABC):
    """Captions as entries of `cond`; each example gets one of its captions at random.

    One of these says `tell(texts)`, the entries of texts, leading axis n; `tokens_of(texts)`, their ids [n, context];
    `reader`, what decides the entries beside the texts, as JSON; and `cut(texts)`, a line for each that is not read whole.
    `part` captions are told at a time.
    """

    cache: str | None
    part: ClassVar[int] = 1024
    asks: ClassVar[str] = "prompt"

    @property
    @abc.abstractmethod
    def reader(self) -> Mapping[str, Any]:
        """What decides what is told of a text."""

    @abc.abstractmethod
    def tell(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The entries of texts."""

    @abc.abstractmethod
    def tokens_of(self, texts: Sequence[str]) -> np.ndarray:
        """The ids of texts."""

    @abc.abstractmethod
    def cut(self, texts: Sequence[str]) -> list[str]:
        """What of texts is not read."""

    @property
    def entries(self) -> Mapping[str, tuple[int, ...]]:
        """Of the null's shapes."""
        return {name: tuple(leaf.shape[1:]) for name, leaf in self.null.items()}

    @functools.cached_property
    def null(self) -> dict[str, np.ndarray]:  # type: ignore[override]
        """The empty prompt's: what training puts in place of dropped captions."""
        return self.tell([""])

    def _parts(self, texts: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """What is told of texts, some at a time, with progress."""
        with tqdm(total=len(texts), desc="reading captions", unit="caption", delay=2, leave=False) as bar:
            for start in range(0, len(texts), self.part):
                part = texts[start : start + self.part]
                yield self.tell(part)
                bar.update(len(part))

    def training(self, data: Source) -> Pick:
        """A random caption of each row."""
        captions = caption_table(raw(data))
        texts, count = captions.unique, len(captions.unique)
        table: Mapping[str, np.ndarray]
        if self.cache is None:
            table = _joined(self._parts(texts), count)
        else:
            ids = np.ascontiguousarray(self.tokens_of(texts))
            key = {
                **self.reader,
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
        return self.tell([_captions(raw(data), i)[0] for i in range(len(data))])

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
        return self.tell(texts_of("prompts", requests))

    def notices(self, requests: Sequence[str]) -> list[str]:
        """What of the prompts does not reach the model."""
        return self.cut(requests)


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
