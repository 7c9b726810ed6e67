"""What Stable Diffusion's U-Nets are told of a prompt: the entries of their condition, and of what is kept away from.

Stable Diffusion 1 and 2 attend to the features of every token of one encoder. XL (arXiv 2307.01952) joins those of two, each
from its penultimate block without the last norm, and is told the second's pooled embedding and six sizes: the picture's
original height and width, the top and left of its crop, and the height and width aimed at. Its refiner has the second encoder
alone, and an aesthetic score in place of the last two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion_jax.pipelines.text_encoder import TextEncoder
from diffusion_jax.typing import Array, UserError, texts_of

__all__ = ["Sizes", "listed", "told"]

Cond = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What XL is told of sizes, in pixels: (height, width) of the original and of the target, (top, left) of the crop.

    None for the picture's own. `aesthetic_score` and `negative_aesthetic_score` are the refiner's.
    """

    original_size: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)
    target_size: tuple[int, int] | None = None
    aesthetic_score: float = 6.0
    negative_aesthetic_score: float = 2.5

    def __post_init__(self) -> None:
        for name in ("original_size", "crop", "target_size"):
            pair, least = getattr(self, name), int(name != "crop")
            if pair is None and least:
                continue
            edges = tuple(pair) if isinstance(pair, list | tuple) else ()
            if len(edges) != 2 or not all(isinstance(edge, int | np.integer) and edge >= least for edge in edges):
                meant = "(height, width)" if least else "(top, left)"
                raise UserError(f"{name} of Sizes is {pair!r:.60}, not two whole numbers {meant} of at least {least}")
        for name in ("aesthetic_score", "negative_aesthetic_score"):
            if not isinstance(getattr(self, name), int | float | np.number):
                raise UserError(f"{name} of Sizes is {getattr(self, name)!r:.60}, not a number, such as 6.0")

    def check(self, heard: int | None) -> None:
        """UserError for what was given and a network is not told that hears 5 numbers, 6, or none."""
        scores = ("aesthetic_score", "negative_aesthetic_score")
        told = {0: (), 5: ("original_size", "crop", *scores)}.get(heard or 0, ("original_size", "crop", "target_size"))
        for field in dataclasses.fields(self):
            if field.name not in told and getattr(self, field.name) != field.default:
                raise UserError(
                    f"{field.name} of Sizes: this U-Net is told none; XL's hears sizes, its refiner scores in place of the last"
                )

    def ids(self, count: int, size: tuple[int, int]) -> tuple[list[float], list[float]]:
        """(the ids, those of what is kept away from), 5 or 6 numbers as the network hears."""
        original, target = self.original_size or size, self.target_size or size
        start = [float(edge) for edge in (*original, *self.crop)]
        if count == 5:
            return [*start, self.aesthetic_score], [*start, self.negative_aesthetic_score]
        ids = [*start, *(float(edge) for edge in target)]
        return ids, ids


def listed(what: str, given: str | Sequence[str] | None, count: int, default: Sequence[str]) -> list[str]:
    """`count` texts: as given, one for all, or the default. UserError for another number."""
    if given is None:
        return list(default)
    texts = texts_of(what, given)
    if len(texts) == 1:
        return texts * count
    if len(texts) != count:
        raise UserError(f"{what} has {len(texts)} texts for {count} prompts: give one, or one a prompt")
    return texts


def told(
    encoders: Sequence[TextEncoder],
    texts: Sequence[Sequence[str]],
    *,
    penultimate: bool,
    clip_skip: int | None = None,
) -> Cond:
    """{"tokens" [n, context, width]} of texts, a list of n of them an encoder; of XL ("penultimate") "pooled" [n, d] as well.

    `clip_skip` reads the features so many blocks earlier than is usual. Raises UserError where there are not so many.
    """
    if clip_skip is not None and (not isinstance(clip_skip, int | np.integer) or clip_skip < 0):
        raise UserError(f"clip_skip {clip_skip!r} is not a whole number of at least 0; nearest: 0")
    skip = int(clip_skip or 0) + int(penultimate)
    found, pooled = [], None
    for encoder, words in zip(encoders, texts, strict=True):
        unique = list(dict.fromkeys(words))
        rows = np.array([unique.index(word) for word in words])
        states, embedding = encoder.encode(unique, skip=skip, normed=not penultimate)
        found.append(states[rows])
        pooled = embedding[rows]
    cond: Cond = {"tokens": jnp.concatenate(found, axis=-1)}
    if penultimate:
        assert pooled is not None
        cond["pooled"] = pooled
    return cond


def nothing(cond: Any) -> Cond:
    """All zeros in the place of every entry: what XL was trained on where it was told nothing."""
    return {name: jnp.zeros_like(value) for name, value in cond.items()}
