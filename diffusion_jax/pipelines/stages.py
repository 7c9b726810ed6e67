"""What the stages of unCLIP do, whatever they are made of: `unclip_runs` has them of runs.

`draw` takes a seed and the number of the first picture, and options of its own; embeddings are float32 [n, d], pictures
[n, h, w, c] in [-1, 1]. `Decoder.texts` are embeddings of texts in the space of `embed`,
`notices` what of texts is not read; `pictures` any pictures as its own;
`invert` the noise of unit variance that DDIM turns into pictures under their embeddings, each of `shape`.
"""
# ruff: noqa: D102 - the module explains them

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["Decoder", "Prior", "Upsampler"]


Call = Callable[..., np.ndarray]


@runtime_checkable
class Prior(Protocol):
    """Draws embeddings of pictures from texts: draw(prompts, *, seed, start, ...)."""

    @property
    def draw(self) -> Call: ...


@runtime_checkable
class Decoder(Protocol):
    """Draws pictures from embeddings, draw(embeddings, prompts or None, *, seed, start, ...), and takes them back to noise,
    invert(images, embeddings, ...)."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def embed(self, images: Any) -> np.ndarray: ...
    def texts(self, prompts: Sequence[str]) -> np.ndarray: ...
    def notices(self, prompts: Sequence[str]) -> list[str]: ...
    def pictures(self, images: Any) -> np.ndarray: ...
    @property
    def draw(self) -> Call: ...
    @property
    def invert(self) -> Call: ...


@runtime_checkable
class Upsampler(Protocol):
    """Enlarges pictures: draw(images, *, seed, start, ...)."""

    @property
    def draw(self) -> Call: ...
