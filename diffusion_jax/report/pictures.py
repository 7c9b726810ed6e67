"""Images as bytes: from float arrays in [-1, 1] to grids and PNG files that carry their settings.

A network's image is float, NHWC, in [-1, 1]; a screen's is uint8. `to_uint8` is the one place where the two meet:
u = round(127.5 (x + 1)), clipped, so that -1 is 0 and +1 is 255.

One-channel images are shown as ink: +1 is full ink, -1 bare paper. On screen that is dark ink on white paper, so a
grid inverts them unless told otherwise (`ink=False`, for grey photographs). Inside a page that has a light and a dark
face the paper must belong to the page: `sprite` keeps the ink alone, black with the image as its opacity, and the
page chooses paper and ink.

Enlarging is by Lanczos: the pixels of a small image are averages over their squares, so samples of something smooth, and
a band-limited kernel gives that back, where repeating pixels would show staircases that were never there.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, PngImagePlugin

from diffusion_jax.files import write_atomic
from diffusion_jax.typing import UserError

__all__ = ["encode_png", "grid", "refuse_sheet", "save_grid", "save_png", "sprite", "to_uint8"]

PAPER = 255
INK = "ink"
"""The name in a PNG's metadata that says that +1 is dark in it."""
SHEET = "pictures"
"""The name in a PNG's metadata of how many pictures it is of."""
VEIL = 14  # opacity of bare paper in a sprite, of 255: enough to see where one image ends and the next begins
EDGE, EDGE_OPACITY = 128, 90  # the line round a colour picture: grey, to be seen on light paper and on dark


def to_uint8(images: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Float images in [-1, 1] (clipped) as bytes: -1 is 0, +1 is 255. `UserError` when a value is not finite."""
    bad = np.size(images) - int(np.isfinite(images).sum())
    if bad:
        raise UserError(f"{bad} of {np.size(images)} pixel values are not finite: there is no picture to write")
    return np.round((np.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def _channels(images: np.ndarray) -> int:
    if images.shape[-1] not in (1, 3):
        raise UserError(f"{images.shape[-1]} channels cannot be shown: 1 or 3 can")
    return images.shape[-1]


def _enlarge(images: UInt8[np.ndarray, "n h w c"], scale: int) -> UInt8[np.ndarray, "n y x c"]:
    """Each image by itself, so that neighbours in a grid never bleed into one another."""
    if scale < 1:
        raise UserError(f"scale {scale} is not a whole number of at least 1")
    if scale == 1:
        return images
    _, height, width, channels = images.shape
    size = (width * scale, height * scale)

    def one(image: np.ndarray) -> np.ndarray:
        layers = [
            Image.fromarray(np.ascontiguousarray(image[..., c])).resize(size, Image.Resampling.LANCZOS)
            for c in range(channels)
        ]
        return np.stack([np.asarray(layer) for layer in layers], axis=-1)

    return np.stack([one(image) for image in images])


def _lay_out(
    tiles: UInt8[np.ndarray, "n h w c"], columns: int, gap: int, margin: int, fill: int
) -> UInt8[np.ndarray, "y x c"]:
    """Tiles row by row on a canvas of `fill`."""
    count, height, width, channels = tiles.shape
    if count == 0:
        raise UserError("a grid of 0 images has no size: give at least 1")
    if columns < 1:
        raise UserError(f"columns {columns} is not a whole number of at least 1")
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    shape = (
        rows * height + (rows - 1) * gap + 2 * margin,
        columns * width + (columns - 1) * gap + 2 * margin,
        channels,
    )
    canvas = np.full(shape, fill, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = margin + (i // columns) * (height + gap), margin + (i % columns) * (width + gap)
        canvas[y : y + height, x : x + width] = tile
    return canvas


def grid(
    images: Float[np.ndarray, "n h w c"], columns: int, scale: int = 1, gap: int = 2, *, ink: bool = True
) -> UInt8[np.ndarray, "y x c"]:
    """Images in [-1, 1], row by row, `gap` output pixels of white between and around them.

    The result is rows (h scale + gap) + gap high and columns (w scale + gap) + gap wide; `columns` is at most n. One
    channel is shown as dark ink on white unless `ink` is false; colour is shown as it is. `UserError` for no images,
    values that are not finite, and channels other than 1 or 3.
    """
    channels = _channels(images)
    tiles = _enlarge(to_uint8(images), scale)
    if ink and channels == 1:
        tiles = PAPER - tiles
    return _lay_out(tiles, columns, gap, gap, PAPER)


def sprite(
    images: Float[np.ndarray, "n h w c"], columns: int, scale: int = 1, gap: int = 2, edge: int = 0
) -> UInt8[np.ndarray, "y x o"]:
    """The layout of `grid` without its margin and with transparent gaps, for pages of more than one paper.

    One channel gives (luminance, opacity): black ink whose opacity is the image, over a faint veil that shows where
    each image ends. Three give RGB and opacity, with a faint line of `edge` output pixels round each image, so that white
    ones end where they end. Errors as in `grid`.
    """
    channels = _channels(images)
    tiles = _enlarge(to_uint8(images), scale)
    if channels == 3:
        opaque = np.concatenate([tiles, np.full_like(tiles[..., :1], 255)], axis=-1)
        _, height, width, _ = tiles.shape
        framed = np.full((len(tiles), height + 2 * edge, width + 2 * edge, 4), EDGE, np.uint8)
        framed[..., 3] = EDGE_OPACITY
        framed[:, edge : edge + height, edge : edge + width] = opaque
        return _lay_out(framed, columns, gap, 0, 0)
    alpha = np.round(VEIL + tiles.astype(np.float32) * ((255 - VEIL) / 255)).astype(np.uint8)
    opacity = _lay_out(alpha, columns, gap, 0, 0)
    return np.concatenate([np.zeros_like(opacity), opacity], axis=-1)


def encode_png(picture: UInt8[np.ndarray, "h w c"], metadata: Mapping[str, str] | None = None) -> bytes:
    """A uint8 picture (1: grey, 2: grey with opacity, 3: RGB, 4: RGB with opacity) as a PNG with text chunks."""
    info = PngImagePlugin.PngInfo()
    for name, value in (metadata or {}).items():
        info.add_text(name, value)
    out = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(
        out, format="PNG", pnginfo=info, optimize=True
    )
    return out.getvalue()


def save_png(
    path: Path | str,
    picture: UInt8[np.ndarray, "h w c"] | Float[np.ndarray, "n h w c"],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a PNG whose `metadata` stands in its text chunks (`PIL.Image.open(path).info` reads them back).

    `picture` is uint8 [h, w, c], or float images in [-1, 1], which are laid out as a near-square grid.
    """
    if picture.ndim == 4:
        picture = grid(picture, columns=math.ceil(math.sqrt(len(picture))))
    return write_atomic(Path(path), encode_png(picture, metadata))


def save_grid(
    path: Path | str,
    images: Float[np.ndarray, "n h w c"],
    columns: int,
    scale: int = 1,
    metadata: Mapping[str, str] | None = None,
    *,
    gap: int | None = None,
    ink: bool = True,
) -> Path:
    """Write images in [-1, 1] as one PNG grid with its settings in the metadata; the gap grows with the scale.

    One image stands alone, without a margin, so that it may be given where a picture is asked for; a sheet of several says in
    its metadata how many it holds (`refuse_sheet`).
    """
    gap = 0 if len(images) == 1 else max(2, scale // 2) if gap is None else gap
    told = {SHEET: str(len(images))} if len(images) > 1 else {}
    told |= {INK: "dark"} if ink and images.shape[-1] == 1 else {}
    return save_png(path, grid(images, columns, scale, gap, ink=ink), {**(metadata or {}), **told})


def refuse_sheet(path: Path | str) -> None:
    """UserError where a file is a sheet of several pictures that `save_grid` wrote. What is no file, or no PNG, passes."""
    try:
        with Image.open(path) as picture:
            count = picture.info.get(SHEET)
    except (OSError, ValueError):
        return
    if count is not None:
        raise UserError(
            f"{str(path)!r} is a sheet of {count} pictures: give one picture, such as --num-images 1 writes"
        )
