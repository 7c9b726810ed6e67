"""Pictures as requests: a path, the bytes of a file, a PIL image or an array, made what the examples of a run are.

Of data that are arrays of one channel +1 is ink, which `sample` and `unclip` write dark on white paper into one PNG: such a
file says so (`report.pictures.INK`) and is turned round again. Any other picture is as the data are, white for +1.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from diffusion_jax import build, runs
from diffusion_jax.data.examples import to_unit
from diffusion_jax.data.pictures.decoding import open_picture
from diffusion_jax.data.pictures.preprocess import check_unit_range
from diffusion_jax.data.reading import first_readable
from diffusion_jax.report.pictures import INK
from diffusion_jax.systems.diffusion import data as reading
from diffusion_jax.typing import Source, UserError

__all__ = ["Pictures", "pictures_of"]


def pictures_of(what: str, given: Any) -> list[Any]:
    """One picture or several as a list. An array [height, width, 1, 3 or 4] is one, and so is uint8 [height, width].

    UserError for none.
    """
    if isinstance(given, str | os.PathLike | bytes | bytearray | Image.Image):
        return [given]
    if isinstance(given, jax.Array | np.ndarray):
        array = np.asarray(given)
        one = (array.ndim == 3 and array.shape[-1] in (1, 3, 4)) or (array.ndim == 2 and array.dtype == np.uint8)
        found = [array] if one else list(array) if array.ndim == 4 else []
    else:
        found = list(given) if isinstance(given, list | tuple) else []
    if not found:
        raise UserError(f"{what}: {type(given).__name__} is no picture: give a path, an image or an array, or several")
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """`pictures(requests)`: float32 [n, *shape] in [-1, 1]; `prepare` makes any picture an array of the `shape`, uint8."""

    shape: tuple[int, ...]
    prepare: Callable[[Any], np.ndarray]

    @staticmethod
    def of(config: ConfigDict, run: Path | None, data: Source | None) -> Pictures:
        """As the examples `data` of a run that begins are prepared, or those of the run in `run`. UserError for no pictures."""
        pictures = build.gives_pictures(config.data)
        if run is not None and (run / runs.EXAMPLE).is_file():
            shape = tuple(runs.read_json(run / runs.EXAMPLE)["image"])
        else:
            rule = build.reading(config.data) if pictures else {}
            careful = {key: rule[key] for key in ("on_error", "error_share") if key in rule}
            examples = reading.examples(config, "train") if data is None else data
            shape = np.shape(first_readable(examples, **careful)["image"])
        if len(shape) != 3 or shape[-1] not in (1, 3):
            raise UserError(
                f"condition {config.condition.name!r} is made of pictures [h, w, 1 or 3]; the data are {shape}"
            )
        if pictures:
            crop = build.reading(config.data)["crop"]
            return Pictures(shape, build.pictures(config.get("preprocess"), shape=shape, crop=crop).pixels)
        return Pictures(shape, functools.partial(_squeezed, shape))

    def __call__(self, requests: Sequence[Any]) -> np.ndarray:
        """UserError for a picture that cannot be read, and for floats of another shape or range."""
        return np.stack([np.asarray(to_unit(self._one(request))) for request in requests])

    def _one(self, request: Any) -> np.ndarray:
        if isinstance(request, np.ndarray | jax.Array):
            array = np.asarray(request)
            if np.issubdtype(array.dtype, np.floating):
                if array.shape != self.shape:
                    raise UserError(
                        f"an image of floats of shape {array.shape}: the run's are {self.shape}, in [-1, 1]"
                    )
                check_unit_range(array)
                return array.astype(np.float32)
            if array.dtype == np.uint8 and array.shape == self.shape:
                return array
            request = array
        return self.prepare(request)


def _squeezed(shape: tuple[int, ...], picture: Any) -> np.ndarray:
    """Of data that are arrays: any picture, the middle of it resized to their shape, uint8."""
    height, width, channels = shape
    opened = open_picture(picture, exif=True)
    turned = channels == 1 and INK in opened.info
    image = opened.convert("RGB").convert("L" if channels == 1 else "RGB")
    share = min(image.width / width, image.height / height)
    wide, high = width * share, height * share
    left, top = (image.width - wide) / 2, (image.height - high) / 2
    box = (left, top, left + wide, top + high)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box), np.uint8).reshape(shape)
    return 255 - resized if turned else resized
