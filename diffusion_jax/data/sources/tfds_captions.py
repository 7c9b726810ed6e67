"""A prepared TensorFlow dataset of pictures as a random-access source, without TensorFlow.

`tfds.data_source` reads datasets that were prepared as ArrayRecord. Whether one is prepared is looked up before anything
else: a dataset that is not would be asked for over the network for minutes.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from diffusion_jax.data.sources.captioned import own_split, split_named, split_of, texts_of
from diffusion_jax.data.sources.classes import captions_of, class_names_of, templates_of
from diffusion_jax.data.text.text_files import decode
from diffusion_jax.typing import UserError, one_of

__all__ = ["TfdsCaptions", "TfdsPictures"]


@dataclasses.dataclass(frozen=True)
class TfdsCaptions:
    """Item i is {"image": the picture, "captions": [str, ...], "label": int, "name": its number} of a dataset in `data_dir`.

    path: the name of the dataset, as "coco_captions" or "coco_captions/2014:1.1.0"; without a version the newest one.
    split: "train", "validation" or "test", as the dataset calls them; of what it does not part itself, a share
    (`validation`, `test`) of "train" by a hash of an example's number. image_key, caption_key, label_key: features; a nested
    one is written with "/", as COCO's "captions/text". A dataset with a label needs no captions; templates (a name of
    `data.text.prompts`, or templates) make them of the name of a class. class_names: by default the feature's own.

    Raises UserError for a dataset or version that is not prepared, an unknown split, and a feature that does not exist.
    """

    pictures: ClassVar[bool] = True  # to be prepared, rather than arrays in [-1, 1]
    levels: ClassVar[int] = 256
    needs_captions: ClassVar[bool] = True
    path: str
    data_dir: str | None = None
    split: str | None = "train"
    image_key: str = "image"
    caption_key: str = "caption"
    label_key: str | None = None
    class_names: str | Sequence[str] | None = None
    templates: str | Sequence[str] | None = None
    validation: float = 0.05
    test: float = 0.0
    source: Any = dataclasses.field(init=False, repr=False, compare=False)
    rows: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)
    captioned: bool = dataclasses.field(init=False, repr=False)
    captions: tuple[tuple[str, ...], ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        import tensorflow_datasets as tfds

        root = Path(self.data_dir or tfds.core.constants.DATA_DIR).expanduser()
        name, _, version = self.path.partition(":")
        folders = [path.parent for path in (root / name).rglob("dataset_info.json")]
        if not folders:
            there = [p.name for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
            near = difflib.get_close_matches(name, there, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"dataset {self.path!r} is not prepared in {root}{hint}; prepare it once by "
                f"tfds.builder({self.path!r}, data_dir=..., file_format='array_record').download_and_prepare()"
            )
        configs = sorted({str(folder.parent.relative_to(root)) for folder in folders})
        if len(configs) > 1:
            raise UserError(f"dataset {self.path!r} is prepared as {', '.join(configs)}; say which")
        versions = {folder.name: folder for folder in folders}
        newest = max(versions, key=lambda name: tuple(int(part) for part in re.findall(r"\d+", name)))
        folder = versions[one_of(f"version of {name!r}", version or newest, versions)]
        builder = tfds.builder_from_directory(folder)
        asked = self.split or "train"
        named = {str(split_named(name) or name): name for name in builder.info.splits}
        if asked in named or "train" not in named or not (self.validation if asked == "validation" else self.test):
            one_of(f"split of {self.path!r}", asked, named)
        (place,), shares = own_split(asked, named, self.validation, self.test, f"dataset {self.path!r}")
        try:
            # Pictures as they are stored: what a decoder of TFDS's makes of a palette or an orientation is another thing.
            decoders = _nested(self.image_key, tfds.decode.SkipDecoding())
            source = builder.as_data_source(split=named[place], decoders=decoders)
        except (NotImplementedError, ValueError) as error:
            raise UserError(
                f"dataset {self.path!r} is not in ArrayRecord: {' '.join(str(error).split())[:150]}"
            ) from error
        rows = np.arange(len(source))
        if shares is not None:
            rows = np.array([row for row in rows.tolist() if split_of(str(row), shares) == asked], int)
        if not len(rows):
            raise UserError(f"no picture in split {asked!r} of dataset {self.path!r}")
        first = source[int(rows[0])]
        label = self.label_key or ("label" if "label" in first else None)
        usual = self.caption_key == "caption" and (label is not None or not self.needs_captions)
        captioned = not usual or self.caption_key in first
        for key in (self.image_key, *([self.caption_key] if captioned else []), *([label] if label else [])):
            _feature(first, key, self.path)
        names = _class_names(builder.info.features, label) if label else ()
        names = names if self.class_names is None else class_names_of(self.class_names)
        templates = templates_of(self.templates)
        if templates and not names:
            raise UserError(f"dataset {self.path!r} has no classes, which templates are of")
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "captioned", captioned and not templates)
        object.__setattr__(self, "label_key", label)
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "captions", tuple(tuple(captions_of(name, templates)) for name in names))

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """The label of every example, read once, with progress; None of a dataset without."""
        if self.label_key is None:
            return None
        rows = tqdm(self.rows.tolist(), "reading labels", delay=2, leave=False)
        return np.array([self._label(self.source[row], self._where(row)) for row in rows], np.int64)

    def _label(self, item: Any, where: str) -> int:
        label = int(_feature(item, str(self.label_key), self.path))
        if not 0 <= label < len(self.captions):
            raise UserError(f"{where} has label {label}, of {len(self.captions)} classes")
        return label

    def _where(self, row: int) -> str:
        return f"dataset {self.path!r}, example {row}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows[index])
        item, where = self.source[row], self._where(row)
        made = {"image": _feature(item, self.image_key, self.path), "name": str(row), "where": where}
        if self.label_key is not None:
            made["label"] = self._label(item, where)
            texts = self.captions[made["label"]]
            made |= {"captions": list(texts)} if texts else {}
        if self.captioned:
            found = np.atleast_1d(np.asarray(_feature(item, self.caption_key, self.path), object))
            captions = [decode(text, f"{where}: the caption") if isinstance(text, bytes) else text for text in found]
            made["captions"] = texts_of(captions, where)
        return made


@dataclasses.dataclass(frozen=True)
class TfdsPictures(TfdsCaptions):
    """The same, where captions may be missing though there is no label."""

    needs_captions: ClassVar[bool] = False

    @property
    def uncaptioned(self) -> str:
        """What is to be said where captions are asked for and the dataset has none."""
        templates = ", or data.templates=photo to make captions of the names of classes" if self.class_names else ""
        return f"dataset {self.path!r} has no feature {self.caption_key!r}: say data.caption_key=NAME{templates}"


def _nested(key: str, value: Any) -> Any:
    """{"a": {"b": value}} of "a/b"."""
    for part in reversed(key.split("/")):
        value = {part: value}
    return value


def _class_names(features: Any, label: str) -> tuple[str, ...]:
    """The names of a feature's classes, as the dataset has them; their numbers where it has none."""
    for part in label.split("/"):
        features = features[part]
    names = getattr(features, "names", None)
    if names:
        return tuple(str(name) for name in names)
    count = getattr(features, "num_classes", None)
    if not count:
        raise UserError(f"the feature {label!r} does not say what its classes are: say class_names")
    return tuple(str(number) for number in range(count))


def _feature(item: Any, key: str, name: str) -> Any:
    for part in key.split("/"):
        if not isinstance(item, dict) or part not in item:
            known = ", ".join(item) if isinstance(item, dict) else "none"
            raise UserError(f"dataset {name!r} has no feature {key!r}: at {part!r} there are {known}")
        item = item[part]
    return item
