"""Pictures that are one array: .npz, .npy and the IDX files of the MNIST family, as a random-access source."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from diffusion_jax.data.sources.array_files import parts_at
from diffusion_jax.data.sources.captioned import own_split, setting, split_of
from diffusion_jax.data.sources.classes import captions_of, class_names_of, numbered, templates_of
from diffusion_jax.typing import UserError

__all__ = ["PictureArrays"]


@dataclasses.dataclass(frozen=True, eq=False)
class PictureArrays:
    """Item i is {"image": uint8 [height, width, channels], "label": int, "name": str, "where": str} of the arrays at `path`.

    path: an .npz, an .npy, an IDX file, or a folder of IDX files (`array_files`).
    image_key, label_key: which arrays of an .npz; of the other files `label_key` is the file of the labels.
    class_names: the names of the classes in the order of their numbers, or a file of them (`classes.class_names_of`).
    templates: a name of `data.text.prompts`, or templates, that make "captions" of the name of a class.
    split: "train", "validation", "test" or None (all): the data's own, or, of what they do not part themselves, a share
    (`validation`, `test`) by a hash of an example's number.

    Images are [n, height, width], with channels last (1, 3 or 4, the last alpha) or second (1 or 3); uint8, other whole
    numbers in 0 .. 255, or floats that hold such numbers, or lie in [0, 1], or in [-1, 1], made the nearest of 256 levels.
    Raises UserError, one line, for what is not there, cut short, of another shape or range, and for labels without images.
    """

    pictures: ClassVar[bool] = True  # to be prepared, rather than arrays in [-1, 1]
    levels: ClassVar[int] = 256
    path: str | Path
    image_key: str | None = None
    label_key: str | None = None
    class_names: str | Sequence[str] | None = None
    templates: str | Sequence[str] | None = None
    split: str | None = None
    validation: float = 0.05
    test: float = 0.0
    images: np.ndarray = dataclasses.field(init=False, repr=False)
    labels: np.ndarray | None = dataclasses.field(init=False, repr=False)
    numbers: np.ndarray = dataclasses.field(init=False, repr=False)
    captions: tuple[tuple[str, ...], ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        said = None if self.class_names is None else class_names_of(self.class_names)
        templates = templates_of(self.templates)
        found = parts_at(self.path, self.image_key, self.label_key)
        own = [name for name in found if name]
        where = repr(str(self.path))
        places, shares = own_split(self.split, own, self.validation, self.test, where)
        # What the numbers mean is told by one part, to which the others are held.
        scale = _scale_of(next(found[name].images for name in ("train", *own, "") if name in found), where)
        # What the classes are is told by all that there is: a split may lack the last of them.
        known = said
        for part in found.values() if said is None else ():
            if part.labels is not None:
                _, names = numbered(part.labels, None, part.where)
                known = names if known is None or len(names) > len(known) else known
        images, labels, numbers = [], [], []
        for name in places:
            part = found[name]
            shaped = _shaped(part.images, part.where)
            rows = np.arange(len(shaped))
            if shares is not None:
                wanted = self.split if self.split is not None else "train"
                rows = np.array([row for row in rows.tolist() if split_of(str(row), shares) == wanted], int)
            images.append(_levels(shaped if len(rows) == len(shaped) else shaped[rows], scale, part.where))
            numbers.append(rows)
            if part.labels is not None:
                here, _ = numbered(part.labels, known, part.where)
                if len(here) != len(shaped):
                    raise UserError(f"{part.where}: {len(shaped)} images and {len(here)} labels: each image has one")
                labels.append(here[rows])
        if labels and len(labels) != len(places):
            raise UserError(f"{where}: one of the splits {', '.join(places)} has labels and another has none")
        if not labels and (said is not None or templates):
            raise UserError(
                f"{where} has no labels, which class_names and templates are of; say {setting('label_key', 'NAME')}"
            )
        if not sum(map(len, numbers)):
            raise UserError(f"no picture in split {self.split!r} of {where}")
        object.__setattr__(self, "images", images[0] if len(images) == 1 else _joined(images, where))
        object.__setattr__(self, "labels", np.concatenate(labels) if labels else None)
        object.__setattr__(self, "numbers", np.concatenate(numbers))
        object.__setattr__(self, "class_names", tuple(known or ()))
        object.__setattr__(self, "captions", tuple(tuple(captions_of(name, templates)) for name in known or ()))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self.numbers[index])
        item: dict[str, Any] = {
            "image": self.images[index],
            "name": str(number),
            "where": f"{self.path}, image {number}",
        }
        if self.labels is not None:
            item["label"] = int(self.labels[index])
            texts = self.captions[item["label"]]
            item |= {"captions": list(texts)} if texts else {}
        return item

    def columns(self) -> dict[str, np.ndarray]:
        """All rows at once: `image`, `index`, and `label` where there are any."""
        labels = {} if self.labels is None else {"label": self.labels}
        return {"image": self.images, **labels, "index": np.arange(len(self))}


def _shaped(images: np.ndarray, where: str) -> np.ndarray:
    """[n, height, width, channels]. UserError for arrays of another shape."""
    shape = images.shape
    if images.ndim == 3 and 0 not in shape:
        return images[..., None]
    if images.ndim == 4 and 0 not in shape:
        if shape[-1] in (1, 3, 4):
            return images
        if shape[1] in (1, 3):
            return images.transpose(0, 2, 3, 1)
    raise UserError(f"{where}: images of shape {shape}; give [n, height, width], or with 1, 3 or 4 channels behind")


def _joined(images: Sequence[np.ndarray], where: str) -> np.ndarray:
    shapes = {part.shape[1:] for part in images}
    if len(shapes) > 1:
        raise UserError(f"{where}: the images of its splits differ in shape: {', '.join(map(str, sorted(shapes)))}")
    return np.concatenate(images)


Scale = tuple[float, float]
"""(s, o): a level in 0 .. 255 is s x + o."""


def _scale_of(first: np.ndarray, where: str) -> Scale | None:
    """How the numbers of an array become levels, None where they are levels."""
    if first.dtype == bool:
        return 255.0, 0.0
    if first.dtype.kind in "ui":
        return None
    if first.dtype.kind != "f":
        raise UserError(f"{where}: images of {first.dtype}; give uint8 in 0 .. 255")
    low, high = (float(first.min()), float(first.max())) if first.size else (0.0, 0.0)
    if low >= 0 and 1 < high <= 255 and (first == np.floor(first)).all():
        return None
    if low >= 0 and high <= 1:
        return 255.0, 0.0
    if low >= -1 and high <= 1:
        return 127.5, 127.5
    raise UserError(
        f"{where}: images of {first.dtype} from {low:g} to {high:g}: give uint8 in 0 .. 255, or floats in [0, 1] or in [-1, 1]"
    )


def _levels(images: np.ndarray, scale: Scale | None, where: str) -> np.ndarray:
    """uint8. UserError for numbers that leave 0 .. 255."""
    if images.dtype == np.uint8 and scale is None:
        return images
    found = images if scale is None else np.round(images.astype(np.float32) * scale[0] + scale[1])
    if images.size and not (found.min() >= 0 and found.max() <= 255):  # NaN too
        raise UserError(
            f"{where}: images of {images.dtype} from {images.min():g} to {images.max():g} leave the range of the others"
        )
    return found.astype(np.uint8)
