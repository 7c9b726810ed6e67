"""Pictures sorted into a folder a class, as ImageNet's often are: what zero-shot and linear probes are measured on."""

from __future__ import annotations

import dataclasses
import difflib
import json
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data.caption_folder import IMAGE_ENDINGS
from diffusion_jax.typing import UserError

__all__ = ["ClassFolder"]


@dataclasses.dataclass(frozen=True)
class ClassFolder:
    """`path`/CLASS/PICTURE; item i is {"image": Path, "label": int}, labels in the order of `class_names`.

    classes: a JSON file {folder: name}, which also says the order and may leave folders out; by default the folders in
    their order, "_" read as a space. Raises UserError for no folder, no pictures, and a class of the file without a folder.
    """

    path: str | Path
    classes: str | Path | None = None
    class_names: tuple[str, ...] = dataclasses.field(init=False, repr=False)
    files: tuple[Path, ...] = dataclasses.field(init=False, repr=False)
    labels: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        folder = Path(self.path)
        if not folder.is_dir():
            siblings = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
            near = difflib.get_close_matches(folder.name, siblings, n=1)
            raise UserError(f"there is no folder {str(folder)!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        folders = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        names = {name: name.replace("_", " ") for name in folders} if self.classes is None else self._named(folders)
        found = [
            (file, label)
            for label, name in enumerate(names)
            for file in sorted((folder / name).rglob("*"))
            if file.suffix.lower() in IMAGE_ENDINGS
        ]
        if not found:
            raise UserError(f"no pictures in folders of {str(folder)!r}: they lie as CLASS/PICTURE.jpg")
        object.__setattr__(self, "class_names", tuple(names.values()))
        object.__setattr__(self, "files", tuple(file for file, _ in found))
        object.__setattr__(self, "labels", np.array([label for _, label in found]))

    def _named(self, folders: list[str]) -> dict[str, str]:
        file = Path(str(self.classes))
        try:
            names = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{str(file)!r} is not readable as JSON: {error}") from error
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise UserError(f'{str(file)!r} is not a JSON object {{"folder": "name of the class", ...}}')
        missing = [name for name in names if name not in folders]
        if missing:
            near = difflib.get_close_matches(missing[0], folders, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{len(missing)} classes of {file.name} have no folder, the first {missing[0]!r}{hint}")
        return names

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.files[index], "label": int(self.labels[index])}
