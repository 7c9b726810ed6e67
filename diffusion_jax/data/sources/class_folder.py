"""Pictures sorted into a folder a class, as ImageNet's often are: to train on, and to measure zero-shot and probes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from diffusion_jax.data.sources.captioned import own_split, split_named, split_of
from diffusion_jax.data.sources.classes import captions_of, templates_of
from diffusion_jax.data.sources.folders import existing_folder, hint, is_picture, names_in, pictures_in
from diffusion_jax.data.text.text_files import read_json, shortened
from diffusion_jax.typing import UserError

__all__ = ["ClassFolder"]


@dataclasses.dataclass(frozen=True)
class ClassFolder:
    """`path`/CLASS/PICTURE; item i is {"image": Path, "label": int, "name": str}, labels in the order of `class_names`.

    classes: a JSON file {folder: name}, which also says the order and may leave folders out; by default the folders in
    their order, "_" read as a space. Pictures may lie deeper than a class's folder.
    templates: a name of `data.text.prompts`, or templates, that make "captions" of the name of a class.
    split: "train", "validation", "test" or None (all); `path`/SPLIT/CLASS/PICTURE where the folders are splits ("train",
    "val", "test"), and otherwise, or where one of them is missing, a share (`validation`, `test`) by a hash of the name.

    Raises UserError for no folder, no pictures, a class of the file without a folder; and, where no file names the classes,
    for a folder without pictures, which would be a class that no picture has, for pictures in no class's folder,
    for a class that "train" lacks, and for folders that are splits where none is asked for.
    """

    pictures: ClassVar[bool] = True  # to be prepared, rather than arrays in [-1, 1]
    levels: ClassVar[int] = 256
    path: str | Path
    classes: str | Path | None = None
    templates: str | Sequence[str] | None = None
    split: str | None = None
    validation: float = 0.05
    test: float = 0.0
    class_names: tuple[str, ...] = dataclasses.field(init=False, repr=False)
    files: tuple[Path, ...] = dataclasses.field(init=False, repr=False)
    labels: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)
    captions: tuple[tuple[str, ...], ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        folder, said = existing_folder(self.path), templates_of(self.templates)
        own = self._own(folder) if self.split is not None else {}
        places, parts = own_split(self.split, tuple(own), self.validation, self.test, repr(str(folder)))
        names: dict[str, str] | None = None
        for place in [own["train"]] if "train" in own and "train" not in places else []:
            names, _ = self._classes(place, None)
        files: list[tuple[Path, int]] = []
        for place in (own.get(name, folder) for name in places):
            names, found = self._classes(place, names)
            for label, name in enumerate(names):
                files += [(file, label) for file in found.get(name, ())]
        assert names is not None
        if parts is not None:
            files = [pair for pair in files if split_of(pair[0].relative_to(folder).as_posix(), parts) == self.split]
        if not files:
            raise UserError(f"no picture in split {self.split!r} of {str(folder)!r}")
        object.__setattr__(self, "path", folder)
        object.__setattr__(self, "class_names", tuple(names.values()))
        object.__setattr__(self, "files", tuple(file for file, _ in files))
        object.__setattr__(self, "labels", np.array([label for _, label in files]))
        object.__setattr__(self, "captions", tuple(tuple(captions_of(name, said)) for name in names.values()))

    def _own(self, folder: Path) -> dict[str, Path]:
        """The folders that are splits, none where any other folder stands beside them."""
        folders = _folders(folder)
        called = [split_named(name) for name in folders]
        if None in called or len(set(called)) != len(called):
            return {}
        return {str(split): folder / name for split, name in zip(called, folders, strict=True)}

    def _classes(self, folder: Path, known: dict[str, str] | None) -> tuple[dict[str, str], dict[str, list[Path]]]:
        """({folder: name} of the classes, which are those that are `known`, {folder: its pictures})."""
        folders = _folders(folder)
        if known is not None:
            names = known
        else:
            names = {name: name.replace("_", " ") for name in folders} if self.classes is None else self._named(folders)
        found = {name: pictures_in(folder / name) for name in names if name in folders}
        if not any(found.values()):
            loose = len(_loose(folder))
            flat = f"; {loose} lie in it directly (train: data.name=folder reads those)" if loose else ""
            raise UserError(f"no pictures in folders of {str(folder)!r}: they lie as CLASS/PICTURE.jpg{flat}")
        if self.classes is None:
            _check(folder, found)
            new = [name for name in folders if name not in names]
            if new:
                raise UserError(
                    f"{str(folder / new[0])!r} is a class that the split 'train' has not{hint(new[0], names)}"
                )
        return names, found

    def _named(self, folders: list[str]) -> dict[str, str]:
        file = Path(str(self.classes))
        names = read_json(file)
        if not isinstance(names, dict) or not all(isinstance(name, str) and name.strip() for name in names.values()):
            raise UserError(f'{str(file)!r} is not a JSON object {{"folder": "name of the class", ...}}')
        missing = [name for name in names if name not in folders]
        if missing:
            near = hint(missing[0], folders)
            raise UserError(
                f"{len(missing)} classes of {file.name} have no folder, the first {shortened(missing[0])}{near}"
            )
        return names

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, label = self.files[index], int(self.labels[index])
        texts = {"captions": list(self.captions[label])} if self.captions[label] else {}
        return {"image": file, "label": label, **texts, "name": file.relative_to(self.path).as_posix()}


def _folders(folder: Path) -> list[str]:
    return [name for name in names_in(folder, folders=True) if not name.startswith(".")]


def _loose(folder: Path) -> list[str]:
    """The pictures that lie in no folder of a class."""
    return [name for name in names_in(folder) if is_picture(name) and not (folder / name).is_dir()]


def _check(folder: Path, found: dict[str, list[Path]]) -> None:
    """UserError for what a folder of classes would silently mismeasure."""
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise UserError(
            f"{len(empty)} of {len(found)} class folders in {str(folder)!r} have no picture, the first {empty[0]!r}: take them "
            "away, or name the classes that are meant in a JSON file (evaluate: --classes=FILE)"
        )
    loose = _loose(folder)
    if loose:
        raise UserError(
            f"{len(loose)} pictures in {str(folder)!r} lie in no class's folder, the first {loose[0]!r}: move them"
        )
    if all(split_named(name) for name in found):
        first = str(folder / next(iter(found)))
        raise UserError(f"the folders of {str(folder)!r} are splits ({', '.join(found)}), not classes: give {first!r}")
