"""Pictures and masks that a pipeline begins with: files, PIL images or arrays, brought to the size that is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from diffusion_jax.data.pictures.decoding import Picture, open_picture
from diffusion_jax.typing import UserError

__all__ = ["check_size", "masks_of", "pictures_of", "size_of", "sizes_of"]

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
    found = list(given) if isinstance(given, list | tuple) or getattr(given, "ndim", 0) == 4 else [given]
    if not found:
        raise UserError("no picture: image and mask are one picture, or at least one in a list")
    return found


def size_of(given: Given) -> tuple[int, int]:
    """(height, width) of the first of the pictures, as it is seen: turned as its EXIF says."""
    one = _each(given)[0]
    if _floats(one):
        return int(one.shape[0]), int(one.shape[1])
    picture = open_picture(one, exif=True)
    return picture.height, picture.width


def sizes_of(given: Given) -> list[tuple[int, int]]:
    """`size_of` of each of the pictures."""
    return [size_of([one]) for one in _each(given)]


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


def masks_of(given: Given, size: tuple[int, int], owns: Sequence[tuple[int, int]]) -> np.ndarray:
    """float32 [n, height, width, 1], 1 where it is white (what is drawn anew), 0 where the picture stays.

    `owns` are the sizes of the pictures that they belong to, mask i to picture i; one of either stands for all. Raises
    UserError for a mask of another size than its picture, for floats outside [0, 1], for one that hides nothing, and for what
    is no picture of grey levels or booleans.
    """
    masks, found = _each(given), []
    if len(masks) != len(owns) and 1 not in (len(masks), len(owns)):
        raise UserError(f"mask has {len(masks)} pictures, image has {len(owns)}: give one mask, or one a picture")
    for i, one in enumerate(masks):
        if getattr(getattr(one, "dtype", None), "kind", "") in "bf" and hasattr(one, "shape"):
            array = np.asarray(one, np.float32)
            array = array[..., 0] if array.ndim == 3 else array
            if not ((array >= 0) & (array <= 1)).all():
                worst = float(array.max() if not array.max() <= 1 else array.min())
                raise UserError(f"mask of floats reaches {worst:.4g}: they are in [0, 1]; levels 0 .. 255 are uint8")
            shape = array.shape
            picture = Image.fromarray((array * 255).astype(np.uint8)) if array.ndim == 2 else None
        else:
            picture = open_picture(one, exif=True).convert("L")
            shape = (picture.height, picture.width)
        theirs = owns if len(masks) == 1 else [owns[0 if len(owns) == 1 else i]]
        other = [own for own in theirs if picture is None or shape not in (own, size)]
        if picture is None or other:
            raise UserError(
                f"mask is {' x '.join(map(str, shape))}, the picture {other[0][0]} x {other[0][1]}: they are of one size"
            )
        picture = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)
        mask = (np.asarray(picture, np.float32) / 255.0 >= 0.5).astype(np.float32)
        if not mask.any():
            levels = getattr(one, "dtype", None) == np.uint8 and np.max(one) == 1
            raise UserError(
                "mask has no white: white is what is drawn anew, so nothing would be"
                + ("; uint8 are levels 0 .. 255, of which 1 is black: give booleans, or 255" if levels else "")
            )
        found.append(mask[..., None])
    return np.stack(found)
