"""Pictures sorted into a folder a class, as ImageNet's often are: what zero-shot and linear probes are measured on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data.sources.folders import existing_folder, hint, is_picture, names_in, pictures_in
from diffusion_jax.data.text.text_files import read_json, shortened
from diffusion_jax.typing import UserError

__all__ = ["ClassFolder"]

SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclasses.dataclass(frozen=True)
class ClassFolder:
    """`path`/CLASS/PICTURE; item i is {"image": Path, "label": int}, labels in the order of `class_names`.

    classes: a JSON file {folder: name}, which also says the order and may leave folders out; by default the folders in
    their order, "_" read as a space. Pictures may lie deeper than a class's folder.

    Raises UserError for no folder, no pictures, a class of the file without a folder; and, where no file names the classes,
    for a folder without pictures, which would be a class that no picture has, for pictures in no class's folder,
    and for folders that are splits ("train", "val").
    """

    path: str | Path
    classes: str | Path | None = None
    class_names: tuple[str, ...] = dataclasses.field(init=False, repr=False)
    files: tuple[Path, ...] = dataclasses.field(init=False, repr=False)
    labels: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        folder = existing_folder(self.path)
        folders = [name for name in names_in(folder, folders=True) if not name.startswith(".")]
        names = {name: name.replace("_", " ") for name in folders} if self.classes is None else self._named(folders)
        found = {name: pictures_in(folder / name) for name in names}
        if not any(found.values()):
            raise UserError(f"no pictures in folders of {str(folder)!r}: they lie as CLASS/PICTURE.jpg")
        if self.classes is None:
            _check(folder, found)
        files = [(file, label) for label, name in enumerate(names) for file in found[name]]
        object.__setattr__(self, "path", folder)
        object.__setattr__(self, "class_names", tuple(names.values()))
        object.__setattr__(self, "files", tuple(file for file, _ in files))
        object.__setattr__(self, "labels", np.array([label for _, label in files]))

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
        return {"image": self.files[index], "label": int(self.labels[index])}


def _check(folder: Path, found: dict[str, list[Path]]) -> None:
    """UserError for what a folder of classes would silently mismeasure."""
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise UserError(
            f"{len(empty)} of {len(found)} class folders in {str(folder)!r} have no picture, the first {empty[0]!r}: take them "
            "away, or name the classes that are meant in a JSON file (evaluate: --classes=FILE)"
        )
    loose = [name for name in names_in(folder) if is_picture(name) and not (folder / name).is_dir()]
    if loose:
        raise UserError(
            f"{len(loose)} pictures in {str(folder)!r} lie in no class's folder, the first {loose[0]!r}: move them"
        )
    if {name.lower() for name in found} <= SPLIT_NAMES:
        first = str(folder / next(iter(found)))
        raise UserError(f"the folders of {str(folder)!r} are splits ({', '.join(found)}), not classes: give {first!r}")
