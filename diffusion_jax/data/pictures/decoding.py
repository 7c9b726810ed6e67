"""Pictures from files, bytes and arrays, as PIL images of 8 bits, with one clear line for what cannot be read.

PIL decodes when it must, and takes a 16-bit grey image to 8 bits by saturation, which makes it white; here a picture
is decoded where it is opened, so that a broken file is named there, and keeps the high byte of 16 (as PIL itself does where
the 16 bits are of red, green and blue). Nothing here depends on where a picture comes from: a file, its bytes in an archive
and an array are one picture.
"""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps, UnidentifiedImageError

from diffusion_jax.data.sources.folders import names_in
from diffusion_jax.typing import UserError, nearest_path

__all__ = ["Picture", "colour", "in_channels", "open_picture"]

ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
Picture = Any
"""A path, the bytes of an image file, a PIL image, or an array of uint8: [h, w], [h, w, 1], [h, w, 3] or [h, w, 4]."""


def colour(background: str | Sequence[int] | None) -> tuple[int, int, int] | None:
    """(red, green, blue) of a name, "#rrggbb" or three levels; None of None. UserError for what is no colour."""
    if background is None:
        return None
    if isinstance(background, str):
        try:
            return ImageColor.getrgb(background)[:3]
        except ValueError:
            near = difflib.get_close_matches(background.lower(), ImageColor.colormap, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"background {background!r} is no colour{hint} (a name, '#rrggbb' or three levels in 0 .. 255)"
            ) from None
    levels = tuple(background)
    if len(levels) != 3 or not all(isinstance(level, int) and 0 <= level <= 255 for level in levels):
        raise UserError(f"background {levels} is no colour: give three levels in 0 .. 255, such as (255, 255, 255)")
    return levels[0], levels[1], levels[2]


def open_picture(image: Picture, exif: bool = False, background: str | Sequence[int] | None = None) -> Image.Image:
    """The picture, decoded, of 8 bits a channel, its mode kept but for 16-bit grey; of several frames the first.

    `exif` turns it by its EXIF orientation; one that cannot be read is none. With a `background` what has alpha, or a
    transparent colour, is composited over that colour and is RGB. The image given is left as it is. Raises UserError, with
    the file's name, for a file that is missing, not an image, cut short or too large, for an array of another shape or
    dtype, and for an image of floats or of 32-bit integers.
    """
    picture = _decoded(image, exif)
    over = colour(background)
    deep = picture.mode.startswith("I;16") or picture.mode == "I"
    if over is None or not (picture.mode in ALPHA or "transparency" in picture.info):
        return _high_byte(picture) if deep else picture
    if deep:
        # One grey level of 16 bits is transparent: to be told before its low byte goes.
        seen = (np.asarray(picture) != picture.info["transparency"]).astype(np.uint8) * np.uint8(255)
        picture = Image.merge("LA", (_high_byte(picture), Image.fromarray(seen)))
    elif picture.mode in ("La", "RGBa"):  # multiplied by alpha already
        picture = picture.convert(picture.mode.upper())
    below = Image.new("RGBA", picture.size, (*over, 255))
    below.alpha_composite(picture.convert("RGBA"))
    return below.convert("RGB")


def in_channels(picture: Image.Image, channels: int) -> Image.Image:
    """The picture as RGB (3) or, by PIL's weights of red, green and blue, L (1). UserError for a mode that has no colours."""
    if picture.mode == ("RGB" if channels == 3 else "L"):
        return picture  # PIL would copy it
    if channels == 1 and picture.mode in ("1", "LA"):
        return picture.convert("L")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.copy()
        del picture.info["transparency"]  # colours are the palette's either way; with it, PIL warns at every image
    try:
        rgb = picture.convert("RGB")
    except ValueError as error:
        raise UserError(f"an image of mode {picture.mode!r} cannot be made RGB: {error}") from None
    return rgb if channels == 3 else rgb.convert("L")


def _high_byte(picture: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))


def _decoded(image: Picture, exif: bool) -> Image.Image:
    """The picture as PIL has it, turned where that is asked for; of floats and of unknown ranges none."""
    if isinstance(image, Image.Image):
        name, picture = "the image", image
    elif isinstance(image, str | os.PathLike):
        name, picture = str(image), _opened(_read(Path(image)), str(image))
    elif isinstance(image, bytes | bytearray):
        name = f"an image of {len(image)} bytes"
        picture = _opened(image, name)
    else:
        return _from_array(image)
    kind = picture.format
    try:
        picture.load()
        if exif and _turned(picture):
            picture = ImageOps.exif_transpose(picture)
    except MemoryError:
        raise
    except Exception as error:  # on damaged files decoders raise whatever they come to: struct.error, IndexError, ...
        raise UserError(f"{name} cannot be read: {_line(error)}") from None
    if picture.mode == "F" or (picture.mode == "I" and kind != "PNG"):
        raise UserError(f"{name} has mode {picture.mode!r}, whose range is not known; give 8 or 16 bits a channel")
    return picture


def _turned(picture: Image.Image) -> bool:
    """Whether the EXIF orientation is other than upright."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # as above: the block may be damaged where the picture is whole
        return False


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except ValueError as error:
        raise UserError(f"{str(path)!r} is no name of a file: {_line(error)}") from None
    except FileNotFoundError:
        near = _nearest(path)
        raise UserError(f"no image at {path}{f'; nearest: {near}' if near else ''}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {_line(error)}") from None


def _opened(data: bytes | bytearray, name: str) -> Image.Image:
    if not data:
        raise UserError(f"{name} is not an image that Pillow reads: it is empty")
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise UserError(f"{name} is not an image that Pillow reads") from None
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(f"{name} cannot be read: {_line(error)}") from None


def _nearest(path: Path) -> str:
    return nearest_path(path.name, names_in(path.parent)) or ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _from_array(image: Any) -> Image.Image:
    shape, dtype = np.shape(image), getattr(image, "dtype", None)
    if dtype is None:
        raise UserError(f"{type(image).__name__} is not an image: give a path, bytes, a PIL image or an array of uint8")
    if dtype != np.uint8:
        raise UserError(f"an image of {dtype}: give uint8 in 0 .. 255; from [-1, 1] by report.pictures.to_uint8")
    if len(shape) == 4:
        raise UserError(
            f"an image of shape {shape} is a batch: give one [height, width, 3], or call batch or on_device"
        )
    if len(shape) == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        raise UserError(f"an image of shape {shape} has the channels first; give image.transpose(1, 2, 0)")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        raise UserError(f"an image of shape {shape}: give [height, width] or [height, width, 1, 3 or 4]")
    array = np.ascontiguousarray(image)
    return Image.fromarray(array[..., 0] if shape[2:] == (1,) else array)
