"""Pictures and masks that a pipeline begins with: files, PIL images or arrays, brought to the size that is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from diffusion_jax.data.pictures.decoding import Picture, open_picture
from diffusion_jax.typing import UserError

__all__ = ["check_size", "masks_of", "pictures_of", "size_of"]

Given = Picture | Sequence[Picture]


def check_size(size: Any, factor: int, *, what: str = "size") -> tuple[int, int]:
    """(height, width) of one number or two. UserError unless both are multiples of `factor`, which names the nearest."""
    pair = (size, size) if isinstance(size, int | np.integer) else tuple(size) if isinstance(size, list | tuple) else ()
    if len(pair) != 2 or not all(isinstance(edge, int | np.integer) and edge > 0 for edge in pair):
        raise UserError(f"{what} {size!r} is not a whole number of pixels, or (height, width)")
    if any(edge % factor for edge in pair):
        near = tuple(max(factor, round(edge / factor) * factor) for edge in pair)
        raise UserError(f"{what} {pair[0]} x {pair[1]} is not divided by {factor}; nearest: {near[0]} x {near[1]}")
    return int(pair[0]), int(pair[1])


def _each(given: Given) -> list[Any]:
    """The pictures of what may be one or several: a list, or an array [n, h, w, c]."""
    if isinstance(given, list | tuple):
        return list(given)
    return list(given) if getattr(given, "ndim", 0) == 4 else [given]


def size_of(given: Given) -> tuple[int, int]:
    """(height, width) of the first of the pictures."""
    first = _each(given)[0]
    if _floats(first):
        return int(first.shape[0]), int(first.shape[1])
    picture = open_picture(first)
    return picture.height, picture.width


def _floats(picture: Any) -> bool:
    return getattr(getattr(picture, "dtype", None), "kind", "") == "f"


def pictures_of(given: Given, size: tuple[int, int]) -> np.ndarray:
    """float32 [n, height, width, 3] in [-1, 1]: arrays of floats as they are, all else resized by Lanczos' filter.

    Raises UserError for floats of another size or outside [-1, 1], and for what is no picture.
    """
    found = []
    for one in _each(given):
        if _floats(one):
            array = np.asarray(one, np.float32)
            if array.shape != (*size, 3):
                raise UserError(
                    f"image has shape {array.shape}, what is drawn {(*size, 3)} (height, width, 3): give floats in that size"
                )
            if not (np.abs(array) <= 1).all():
                worst = float(np.abs(array).max())
                raise UserError(f"image of floats reaches {worst:.4g}: they are in [-1, 1]; levels 0 .. 255 are uint8")
            found.append(array)
            continue
        picture = open_picture(one, exif=True, background="white").convert("RGB")
        picture = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)
        found.append(np.asarray(picture, np.float32) / 127.5 - 1.0)
    return np.stack(found)


def masks_of(given: Given, size: tuple[int, int], own: tuple[int, int]) -> np.ndarray:
    """float32 [n, height, width, 1], 1 where it is white (what is drawn anew), 0 where the picture stays.

    `own` is the size of the pictures that they belong to. Raises UserError for a mask of another size, and for one that
    hides nothing or is no picture of grey levels or booleans.
    """
    found = []
    for one in _each(given):
        if getattr(getattr(one, "dtype", None), "kind", "") in "bf" and hasattr(one, "shape"):
            array = np.asarray(one, np.float32)
            array = array[..., 0] if array.ndim == 3 else array
            shape = array.shape
            picture = Image.fromarray((np.clip(array, 0, 1) * 255).astype(np.uint8)) if array.ndim == 2 else None
        else:
            picture = open_picture(one, exif=True).convert("L")
            shape = (picture.height, picture.width)
        if picture is None or shape not in (own, size):
            raise UserError(
                f"mask is {' x '.join(map(str, shape))}, the picture {own[0]} x {own[1]}: they are of one size"
            )
        picture = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)
        mask = (np.asarray(picture, np.float32) / 255.0 >= 0.5).astype(np.float32)
        if not mask.any():
            raise UserError("mask has no white: white is what is drawn anew, so nothing would be")
        found.append(mask[..., None])
    return np.stack(found)
