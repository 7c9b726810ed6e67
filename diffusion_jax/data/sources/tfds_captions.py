"""A prepared TensorFlow dataset with captions as a random-access source, without TensorFlow.

`tfds.data_source` reads datasets that were prepared as ArrayRecord. Whether one is prepared is looked up before anything
else: a dataset that is not would be asked for over the network for minutes.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from diffusion_jax.data.sources.captioned import texts_of
from diffusion_jax.data.text.text_files import decode
from diffusion_jax.typing import UserError, one_of

__all__ = ["TfdsCaptions"]


@dataclasses.dataclass(frozen=True)
class TfdsCaptions:
    """Item i is {"image": the picture, "captions": [str, ...], "name": its number} of a dataset in `data_dir`.

    path: the name of the dataset, as "coco_captions" or "coco_captions/2014:1.1.0"; without a version the newest one.
    split: "train", "validation" or "test", as the dataset calls them. image_key, caption_key: features; a nested one is
    written with "/", as COCO's "captions/text".

    Raises UserError for a dataset or version that is not prepared, an unknown split, and a feature that does not exist.
    """

    pictures: ClassVar[bool] = True  # to be prepared, rather than arrays in [-1, 1]
    path: str
    data_dir: str | None = None
    split: str | None = "train"
    image_key: str = "image"
    caption_key: str = "caption"
    source: Any = dataclasses.field(init=False, repr=False, compare=False)

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
        split = one_of(f"split of {self.path!r}", self.split or "train", builder.info.splits)
        try:
            source = builder.as_data_source(split=split)
        except (NotImplementedError, ValueError) as error:
            raise UserError(
                f"dataset {self.path!r} is not in ArrayRecord: {' '.join(str(error).split())[:150]}"
            ) from error
        object.__setattr__(self, "source", source)
        if len(source):
            for key in (self.image_key, self.caption_key):
                _feature(source[0], key, self.path)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.source[index]
        image = _feature(item, self.image_key, self.path)
        found = np.atleast_1d(np.asarray(_feature(item, self.caption_key, self.path), object))
        where = f"dataset {self.path!r}, example {index}"
        captions = [decode(text, f"{where}: the caption") if isinstance(text, bytes) else text for text in found]
        return {"image": image, "captions": texts_of(captions, where), "name": str(index), "where": where}


def _feature(item: Any, key: str, name: str) -> Any:
    for part in key.split("/"):
        if not isinstance(item, dict) or part not in item:
            known = ", ".join(item) if isinstance(item, dict) else "none"
            raise UserError(f"dataset {name!r} has no feature {key!r}: at {part!r} there are {known}")
        item = item[part]
    return item
