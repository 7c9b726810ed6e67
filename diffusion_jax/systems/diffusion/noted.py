"""The note that a diffusion run keeps of a frozen model: where it lies, relative to the run, and a fingerprint of its weights.

The model may move with the run, and is refused where it is not there any more, or holds other weights.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_jax import runs
from diffusion_jax.typing import PyTree, UserError

__all__ = ["Noted", "place_noted", "read_note"]


@dataclasses.dataclass(frozen=True, eq=False)
class Noted:
    """A frozen model at `path` with its `weights`, noted in `file`; `what` is what messages call it, "text encoder"."""

    path: Path
    weights: PyTree
    file: str
    what: str

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the weights."""
        return runs.fingerprint(self.weights)

    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """Where it lies from the run's folder, and its fingerprint."""
        return {self.file: {"run": os.path.relpath(self.path, folder), "fingerprint": self.fingerprint}}

    def agrees(self, folder: Path, anew: bool) -> None:
        """UserError for a folder that holds the model, and for a run there of other weights."""
        if self.path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{folder} holds the {self.what} {self.path}: choose another --config.workdir")
        if anew or not (folder / self.file).is_file():
            return
        if read_note(folder, self.file, self.what)["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{folder} was trained on another {self.what} than {self.path} holds now: choose another "
                "--config.workdir, or --overwrite to begin anew"
            )


def read_note(path: Path, file: str, what: str) -> dict[str, str]:
    """{"run", "fingerprint"} of the model that the diffusion run in `path` was trained on."""
    note = path / file
    if not note.is_file():
        raise UserError(f"{note} is missing: the run does not say which {what} it was trained on")
    found = runs.read_json(note)
    if not {"run", "fingerprint"} <= found.keys():
        raise UserError(f"{note} lacks 'run' or 'fingerprint': it was not written by `diffusion-jax train`")
    return found


def place_noted(run: Path, file: str, what: str) -> tuple[Path, str, UserError]:
    """(where the note says that the model lies, its fingerprint, what to raise where there is none)."""
    note = read_note(run, file, what)
    place = Path(os.path.normpath(run / note["run"]))
    gone = UserError(
        f"there is no {what} in {os.path.abspath(place)!r}, where {file} of the diffusion run {str(run)!r} says that it "
        f"lies: put it back, or write where it lies now, from the run's folder, into that file{runs.nearest(place)}"
    )
    return place, note["fingerprint"], gone
