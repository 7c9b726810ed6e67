"""Parquet files as Hugging Face lays image data sets out, as a random-access source: `image` {bytes, path}, `label`, `text`.

The names of the classes and what the columns are lie in the schema, as JSON under "huggingface". A row group is read as a
whole, and the last ones read are kept: random access is as fast as from shards while they hold what is trained on, and beyond
that costs a group a picture. Files of large groups are then better written anew with small ones (pyarrow: row_group_size=100).
"""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from diffusion_jax.data.sources.captioned import CAPTION_COLUMNS, own_split, setting, split_named, split_of, texts_of
from diffusion_jax.data.sources.classes import captions_of, class_names_of, numbered, templates_of
from diffusion_jax.data.sources.folders import hint
from diffusion_jax.data.sources.shards import expand
from diffusion_jax.data.text.text_files import shortened
from diffusion_jax.typing import UserError

__all__ = ["PictureParquet"]

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class")
KEPT = 512 << 20
"""Bytes of row groups that are kept, but always one group at least."""
Table = Any  # of pyarrow, which is imported where it is used


@dataclasses.dataclass(frozen=True, eq=False)
class PictureParquet:
    """Item i is {"image": bytes, or a path, "label": int, "captions": [str, ...], "name", "where"}, less what the files lack.

    path: a file, a pattern of shards such as "data/*.parquet", or the folder that has them in itself or below.
    image_key, label_key, caption_key: columns; by default the first known one, of labels one that is a ClassLabel. A caption is
        a text or a list of texts.
    class_names: the names of the classes in the order of their numbers, or a file of them; by default those in the schema.
    templates: a name of `data.text.prompts`, or templates, that make "captions" of the name of a class; in place of a column.
    split: "train", "validation", "test" or None (all): the files' own, where their names (train-00000-of-00001.parquet) or
        their folders (train/0000.parquet) say one, or, of what these do not part, a share (`validation`, `test`) by a hash of
        FILE/ROW.

    Needs the extra `parquet` (pyarrow). Raises UserError, one line, for files that are missing, cut short or no parquet, for a
    column that does not exist, and for labels that are none.
    """

    pictures: ClassVar[bool] = True  # to be prepared, rather than arrays in [-1, 1]
    levels: ClassVar[int] = 256
    path: str
    image_key: str | None = None
    label_key: str | None = None
    caption_key: str | None = None
    class_names: str | Sequence[str] | None = None
    templates: str | Sequence[str] | None = None
    split: str | None = None
    validation: float = 0.05
    test: float = 0.0
    files: tuple[Path, ...] = dataclasses.field(init=False, repr=False)
    places: np.ndarray = dataclasses.field(
        init=False, repr=False
    )  # [n, 4]: file, row group, row within it, row of the file
    labels: np.ndarray | None = dataclasses.field(init=False, repr=False)
    columns_read: tuple[str, str | None] = dataclasses.field(init=False, repr=False)  # of the image, of the captions

    def __post_init__(self) -> None:
        said = None if self.class_names is None else class_names_of(self.class_names)
        templates, where = templates_of(self.templates), repr(str(self.path))
        files = _files(str(self.path))
        called = [_split_of_file(file) for file in files]
        if "train" not in called:  # of one split alone, whatever it is called, nothing is parted
            called = [None] * len(files)
        if any(called) and not all(called):
            raise UserError(
                f"{str(files[called.index(None)])!r} is named for no split, as {str(files[_first(called)])!r} is: give one "
                "pattern of files that are alike"
            )
        own = sorted({name for name in called if name})
        places, shares = own_split(self.split, own, self.validation, self.test, where)
        chosen = [file for file, name in zip(files, called, strict=True) if (name or "") in places]
        image, label, caption, named = self._columns(_opened(chosen[0]).schema_arrow, str(chosen[0]))
        wanted = [column for column in (image, label, caption) if column is not None]
        rows, values = [], []
        for number, file in enumerate(tqdm(chosen, "reading labels", delay=2, leave=False)):
            found = _opened(file)  # one at a time: a thousand would pass the limit on open files
            _check_columns(found.schema_arrow.names, wanted, str(file))
            sizes = [found.metadata.row_group(group).num_rows for group in range(found.metadata.num_row_groups)]
            count = 0
            for group, size in enumerate(sizes):
                within = np.arange(size)
                rows.append(np.stack([np.full(size, number), np.full(size, group), within, count + within], 1))
                count += size
            if label is not None:
                values += _column(found, label, str(file)).to_pylist()
        table = np.concatenate(rows) if rows else np.zeros((0, 4), np.int64)
        if shares is not None:
            part = self.split or "train"
            examples = [f"{chosen[number].name}/{row}" for number, _, _, row in table.tolist()]
            keep = np.array([split_of(example, shares) == part for example in examples], bool)
        else:
            keep = np.ones(len(table), bool)
        if not keep.any():
            raise UserError(f"no picture in {f'split {self.split!r} of ' if self.split else ''}{where}")
        labels, names = self._labels(values, said if said is not None else named, where)
        if labels is None and (said is not None or templates):
            raise UserError(
                f"{where} has no labels, which class_names and templates are of; say {setting('label_key', 'NAME')}"
            )
        object.__setattr__(self, "files", tuple(chosen))
        object.__setattr__(self, "places", table[keep].astype(np.int64))
        object.__setattr__(self, "labels", None if labels is None else labels[keep])
        object.__setattr__(self, "class_names", tuple(names))
        object.__setattr__(self, "columns_read", (image, None if templates else caption))
        object.__setattr__(self, "_from_names", tuple(tuple(captions_of(name, templates)) for name in names))
        object.__setattr__(self, "_groups", _Groups())

    def _columns(self, schema: Any, where: str) -> tuple[str, str | None, str | None, tuple[str, ...] | None]:
        """(the columns of the image, the label and the captions, the names of the classes by the schema)."""
        names = list(schema.names)
        features = _features(schema)
        asked = [key for key in (self.image_key, self.label_key, self.caption_key) if key is not None]
        _check_columns(names, asked, where)
        of_kind = {kind: [n for n in names if _kind(features.get(n)) == kind] for kind in ("Image", "ClassLabel")}
        image = self.image_key or next(iter((*of_kind["Image"], *(n for n in IMAGE_COLUMNS if n in names))), None)
        if image is None:
            raise UserError(
                f"{where!r} has no column of images (it has {', '.join(names)}); say {setting('image_key', 'NAME')}"
            )
        label = self.label_key or next(iter((*(n for n in LABEL_COLUMNS if n in names), *of_kind["ClassLabel"])), None)
        caption = self.caption_key or next((n for n in CAPTION_COLUMNS if n in names and n not in (image, label)), None)
        told = features.get(label) if label is not None else None
        found = told.get("names") if isinstance(told, Mapping) else None
        return image, label, caption, tuple(map(str, found)) if isinstance(found, list) and found else None

    def _labels(
        self, values: list[Any], said: Sequence[str] | None, where: str
    ) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """(labels, the names of the classes). A split whose labels are all -1, or absent, as of a contest's test, has none."""
        if all(value is None or value == -1 for value in values):
            return None, ()
        if None in values or -1 in values:
            row = next(row for row, value in enumerate(values) if value is None or value == -1)
            raise UserError(f"{where}: row {row} has no label, where others have one")
        return numbered(values, said, where)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, group, row, whole = (int(value) for value in self.places[index])
        file, (image, caption) = self.files[number], self.columns_read
        where = f"{file}, row {whole}"
        table = self._groups(file, group, [name for name in (image, caption) if name is not None])  # type: ignore[attr-defined]
        item: dict[str, Any] = {
            "image": _image(table.column(image)[row].as_py(), file, where), "name": f"{file.name}/{whole}", "where": where
        }  # fmt: skip
        if self.labels is not None:
            item["label"] = int(self.labels[index])
            texts = self._from_names[item["label"]]  # type: ignore[attr-defined]
            item |= {"captions": list(texts)} if texts else {}
        if caption is not None:
            item["captions"] = texts_of(table.column(caption)[row].as_py() or "", where)
        return item


class _Groups:
    """Row groups by (file, group), the last that were used; threads wait for one another where one is read."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, int], Table] = OrderedDict()
        self._metadata: dict[Path, Any] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return (_Groups, ())  # what is kept is read again: an open file would not survive pickling

    def __call__(self, file: Path, group: int, columns: Sequence[str]) -> Table:
        with self._lock:
            found = self._kept.get((file, group))
            if found is None:
                opened = _opened(file, self._metadata.get(file))
                self._metadata[file] = opened.metadata
                found = self._kept[file, group] = _read(
                    file, lambda: opened.read_row_group(group, columns=list(columns))
                )
                while len(self._kept) > 1 and sum(table.nbytes for table in self._kept.values()) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end((file, group))
            return found


def _image(value: Any, file: Path, where: str) -> Any:
    """The bytes of a picture, or the path of one that lies beside the file."""
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        value = data if data is not None else None if path is None else file.parent / path
    if not isinstance(value, bytes | Path):
        raise UserError(f"{where}: the image is {shortened(value, 40)}, neither bytes nor a struct of bytes and path")
    return value


def _files(path: str) -> list[Path]:
    folder = Path(path).expanduser()
    if folder.is_dir():
        found = sorted(file for file in folder.rglob("*.parquet") if not file.name.startswith("."))
        if not found:
            raise UserError(f"no .parquet in {path!r}")
        return found
    return expand(path, ".parquet")


def _split_of_file(file: Path) -> str | None:
    """The split that a file is named for, or its folder."""
    words = re.split(r"[-_.0-9]+", file.stem)
    return next((split for word in (words[0], *words[1:], file.parent.name) if (split := split_named(word))), None)


def _first(called: Sequence[str | None]) -> int:
    return next(place for place, name in enumerate(called) if name)


def _opened(file: Path, metadata: Any = None) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(
            "data 'parquet' reads by pyarrow, which is not installed: pip install -e '.[parquet]'"
        ) from error
    return _read(file, lambda: parquet.ParquetFile(file, metadata=metadata))


def _read(file: Path, call: Any) -> Any:
    """What `call` gives; UserError for what pyarrow raises."""
    import pyarrow

    try:
        return call()
    except (pyarrow.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{str(file)!r} is cut short, damaged or no parquet: {said}") from error


def _column(found: Any, name: str, where: str) -> Any:
    return _read(Path(where), lambda: found.read(columns=[name])).column(name)


def _check_columns(names: Sequence[str], wanted: Sequence[str], where: str) -> None:
    for name in wanted:
        if name not in names:
            raise UserError(f"{where!r} has no column {name!r} (it has {', '.join(names)}){hint(name, names)}")


def _features(schema: Any) -> Mapping[str, Any]:
    """What Hugging Face's metadata say of the columns; {} where there are none."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _kind(feature: Any) -> str | None:
    return feature.get("_type") if isinstance(feature, Mapping) else None
