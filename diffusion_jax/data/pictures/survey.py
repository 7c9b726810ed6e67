"""What a source of pictures holds, told from a sample of them: their channels and their sizes, from the headers alone."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from diffusion_jax.data.pictures.decoding import open_picture
from diffusion_jax.typing import Source, UserError

__all__ = ["SAMPLE", "Survey", "channels_of", "size_of", "survey"]

SAMPLE = 128
"""How many pictures are looked at, evenly spaced over the source."""
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")


@dataclasses.dataclass(frozen=True)
class Survey:
    """What `looked` pictures are: {1 or 3: the first with so many channels}, {(height, width): the first of that size}."""

    looked: int
    channels: Mapping[int, str]
    sizes: Mapping[tuple[int, int], str]


def survey(source: Source, most: int = SAMPLE) -> Survey:
    """Of `most` pictures at most. One that cannot be read is passed over; UserError, with its line, where none can.

    A palette counts as colour, whatever its colours are; an EXIF orientation is not looked at.
    """
    if len(source) == 0:
        raise UserError("the source is empty: there is no picture in it")
    places = np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).round().astype(int))
    channels: dict[int, str] = {}
    sizes: dict[tuple[int, int], str] = {}
    looked, wrong = 0, None
    for place in places.tolist():
        try:
            item = source[place]
            mode, size = _head(item["image"])
        except UserError as error:
            wrong = wrong or error
            continue
        looked += 1
        name = str(item.get("where") or item.get("name") or f"example {place}")
        channels.setdefault(1 if mode in GREY else 3, name)
        sizes.setdefault(size, name)
    if wrong is not None and not looked:
        raise UserError(f"none of {len(places)} pictures that were looked at can be read; one of them: {wrong}")
    return Survey(looked, channels, sizes)


def channels_of(found: Survey, key: str = "channels") -> int:
    """1 or 3, whichever all have. UserError where some are grey and some coloured: `key` then has to say it."""
    if len(found.channels) > 1:
        raise UserError(
            f"some pictures are grey ({found.channels[1]!r}) and some are in colour ({found.channels[3]!r}): say "
            f"{key}=3 to make all coloured, or {key}=1 to make all grey"
        )
    return next(iter(found.channels))


def size_of(found: Survey, key: str = "size") -> int:
    """The edge of the pictures, where all are squares of one size. UserError where they are not: `key` then has to say it."""
    (height, width), name = next(iter(found.sizes.items()))
    if len(found.sizes) == 1 and height == width:
        return height
    more = list(found.sizes.items())[1:2]
    also = "".join(f", {other!r} of {high} x {wide}" for (high, wide), other in more)
    raise UserError(
        f"{key} is not said, and the pictures are not squares of one size ({name!r} is of {height} x {width}{also}): say "
        f"{key}={min(min(size) for size in found.sizes)}, or whatever the model is to have"
    )


def _head(image: Any) -> tuple[str, tuple[int, int]]:
    """(mode, (height, width)) without decoding, where that can be had."""
    if isinstance(image, np.ndarray):
        grey = image.ndim == 2 or image.shape[-1] == 1
        return "L" if grey else "RGB", (image.shape[0], image.shape[1])
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes | bytearray) else image) as picture:
            return picture.mode, (picture.height, picture.width)
    except Exception:  # whatever Pillow comes to: the reader has a line for it
        whole = open_picture(image)
        return whole.mode, (whole.height, whole.width)
