"""Arrays of pictures and of labels as they lie in files: .npz, .npy, and the IDX files of the MNIST family.

What a file holds is told by the names in it. An .npz has one part ("images", "labels") or the parts of its own ("x_train",
"y_train", "x_test", "y_test" as Keras has them, "train_images", "val_labels" as MedMNIST); a folder of IDX files has train
and t10k.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from diffusion_jax.data.sources.captioned import SPLITS, setting, split_named
from diffusion_jax.data.sources.folders import hint, names_in, status
from diffusion_jax.data.sources.idx import is_idx, read_idx
from diffusion_jax.data.text.text_files import shortened
from diffusion_jax.typing import UserError

__all__ = ["Part", "parts_at"]

IMAGES = ("images", "image", "x", "data", "arr_0")
LABELS = ("labels", "label", "y", "targets", "target", "arr_1")
FAMILY = re.compile(r"(?P<set>.*?)(?P<split>train|t10k|test)-images[-.]idx3-ubyte(\.gz)?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """The arrays of one split, or of all that there is; `where` names the file and the array in messages."""

    images: np.ndarray
    labels: np.ndarray | None
    where: str


def parts_at(path: str | Path, image_key: str | None, label_key: str | None) -> dict[str, Part]:
    """{split: its arrays}, {"": all} of data that are not parted.

    image_key, label_key: names of arrays in an .npz, "{split}" in them standing for a split as the file calls it; of an .npy or
    an IDX file `label_key` is the file of the labels beside it. Raises UserError for what is not there, cut short, or of
    another kind.
    """
    place = Path(path).expanduser()
    found = status(place)
    if found is None:
        raise UserError(
            f"there is no file or folder {shortened(str(path), 200)}{hint(place.name, names_in(place.parent))}"
        )
    if place.is_dir():
        return _family(place)
    ending = place.suffix.lower()
    if ending == ".npz":
        return _npz(place, found.st_size, found.st_mtime_ns, image_key, label_key)
    if ending == ".npy" or is_idx(place):
        return {"": Part(_array(place), _labels_beside(place, label_key), str(place))}
    raise UserError(
        f"{str(path)!r} is no file of arrays: an .npz, an .npy, an IDX file (such as train-images-idx3-ubyte.gz), or the "
        "folder of the latter"
    )


def _array(file: Path) -> np.ndarray:
    if is_idx(file):
        return read_idx(file)
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{str(file)!r} is cut short or no .npy of plain numbers: {_line(error)}") from error


def _labels_beside(file: Path, label_key: str | None) -> np.ndarray | None:
    """The labels that lie beside a file of images, by the name that is given or by the usual ones."""
    if label_key is not None:
        beside = file.parent / label_key
        if status(beside) is None:
            raise UserError(f"there is no file of labels {str(beside)!r}{hint(beside.name, names_in(file.parent))}")
        return _array(beside)
    renamed = file.name.replace("images", "labels").replace("idx3", "idx1")
    usual = [renamed, renamed.removesuffix(".gz"), f"{file.stem}_labels{file.suffix}", f"labels{file.suffix}"]
    for name in usual:
        if name != file.name and status(file.parent / name) is not None:
            return _array(file.parent / name)
    return None


def _family(folder: Path) -> dict[str, Part]:
    """train-images-idx3-ubyte and so on, gzipped or not, of one set."""
    names = names_in(folder)
    found: dict[str, dict[str, Path]] = {}
    for name in names:
        match = FAMILY.fullmatch(name)
        if match:
            own = found.setdefault(match["set"], {})
            split = str(split_named(match["split"]))
            if split not in own or not name.endswith(".gz"):  # a file that was unpacked beside its archive is the same
                own[split] = folder / name
    if not found:
        raise UserError(
            f"no arrays in {str(folder)!r}: a folder holds IDX files (train-images-idx3-ubyte, gzipped or not); of an .npz or "
            ".npy give the file; folders of pictures are read by data.name=folder or classes (configs/picture_*.py)"
        )
    if len(found) > 1:
        first = next(iter(found.values()))
        raise UserError(
            f"{str(folder)!r} holds {len(found)} sets of IDX files ({', '.join(name or 'mnist' for name in found)}): give a "
            f"folder for each, or a file such as {next(iter(first.values())).name!r}"
        )
    (own,) = found.values()
    return {split: Part(read_idx(file), _labels_beside(file, None), str(file)) for split, file in own.items()}


@functools.lru_cache(maxsize=2)  # the splits of a run are read one after another from one file
def _npz(file: Path, size: int, changed: int, image_key: str | None, label_key: str | None) -> dict[str, Part]:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            names = list(archive.files)
            images = _named(names, image_key, IMAGES)
            if not images:
                said = "images" if image_key is None else f"array {image_key!r}"
                near = "" if image_key is None else hint(image_key, names)
                raise UserError(
                    f"{str(file)!r} has no {said} (it has {', '.join(names) or 'nothing'}){near}; "
                    f"say {setting('image_key', 'NAME')}"
                )
            labels = _named(names, label_key, LABELS)
            if label_key is not None and not labels:
                raise UserError(
                    f"{str(file)!r} has no array {label_key!r} (it has {', '.join(names)}){hint(label_key, names)}"
                )
            return {
                split: Part(archive[name], archive[labels[split]] if split in labels else None, f"{file}: {name}")
                for split, name in images.items()
            }
    except UserError:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise UserError(f"{str(file)!r} is cut short or no .npz of plain numbers: {_line(error)}") from error


def _named(names: Iterable[str], asked: str | None, usual: Iterable[str]) -> Mapping[str, str]:
    """{split: the array that is it}, {"": the array} where there is one for all."""
    names = list(names)
    if asked is not None and "{split}" not in asked:
        return {"": asked} if asked in names else {}
    patterns = (
        [asked] if asked is not None else [made for key in usual for made in (f"{key}_{{split}}", f"{{split}}_{key}")]
    )
    for pattern in patterns:
        before, _, after = pattern.partition("{split}")
        found = {}
        for name in names:
            if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after):
                split = split_named(name[len(before) : len(name) - len(after)])
                if split is not None:
                    found[split] = name
        if found:
            return {split: found[split] for split in SPLITS if split in found}
    return next(({"": name} for name in usual if name in names and asked is None), {})


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
