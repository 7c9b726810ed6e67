"""The condition of a class: the number of its row in a table of the network's, whose last row is the null."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import runs
from diffusion_jax.build.sources import labelled
from diffusion_jax.data.examples import raw
from diffusion_jax.data.labels import label_names, label_of, labels_of
from diffusion_jax.systems.diffusion.conditions.condition import SHOWN, Pick, Plain
from diffusion_jax.typing import PyTree, Source, UserError

__all__ = ["CLASSES", "Label", "label"]

CLASSES = "classes.json"
"""The names of the classes that a run was trained on, in the order of their numbers."""


@dataclasses.dataclass(frozen=True)
class Label(Plain):
    """The class of an example, by its number or by its name; `classes` are the names in the order of their numbers."""

    classes: tuple[str, ...]
    drop: float = 0.1
    asks: ClassVar[tuple[str, ...]] = ("label",)
    entries: ClassVar[Mapping[str, tuple[int, ...]]] = {"label": ()}

    @property
    def counts(self) -> Mapping[str, int]:  # type: ignore[override]
        """A row a class, and the null."""
        return {"label": len(self.classes) + 1}

    @property
    def null(self) -> PyTree:  # type: ignore[override]
        """The row after the last class."""
        return {"label": np.array([len(self.classes)], np.int32)}

    def training(self, data: Source) -> Pick:
        """The labels of the rows."""
        labels = labels_of(data)
        return lambda rows, rng: {"label": labels[rows]}

    def held_out(self, data: Source) -> PyTree:
        """The labels."""
        labels = labels_of(data)
        if labels.size and labels.max() >= len(self.classes):
            raise UserError(
                f"label {labels.max()} of the data is none of the {len(self.classes)} classes of the training"
            )
        return {"label": labels}

    def shown(self, data: Source, held_out: Source) -> list[Any]:
        """The first classes, in turn where there are fewer than are shown."""
        return [self.classes[i % len(self.classes)] for i in range(SHOWN)]

    def request(self, requests: Sequence[Any]) -> PyTree:
        """Of numbers and names of classes."""
        return {"label": np.array([label_of(self.classes, one) for one in requests], np.int32)}

    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """The names of the classes."""
        return {CLASSES: {"classes": list(self.classes)}}

    def agrees(self, folder: Path, anew: bool) -> None:
        """UserError for a run there of other classes."""
        if not anew and (folder / CLASSES).is_file():
            before = runs.read_json(folder / CLASSES).get("classes")
            if before != list(self.classes):
                raise UserError(
                    f"{folder} was trained on the classes {before}, and the data have {list(self.classes)}: choose another "
                    "--config.workdir, or --overwrite to begin anew"
                )


def label(
    drop: float = 0.1, run: Path | None = None, data: Source | None = None, config: ConfigDict | None = None
) -> Label:
    """The classes of the data that a run begins with, or of the run in `run`. UserError for none, and for fewer than two."""
    if run is not None:
        file = run / CLASSES
        if not file.is_file():
            raise UserError(f"{file} is missing: the run does not say which classes it was trained on")
        return Label(tuple(runs.read_json(file)["classes"]), drop)
    if data is None:
        raise UserError("condition 'label' is made of the data to train on, or of a run")
    if config is not None:
        labelled(config.data, raw(data))
    classes = label_names(data)
    if len(classes) < 2:
        raise UserError(
            f"the data have {len(classes)} class{'es' * (len(classes) != 1)} ({', '.join(classes) or 'no labels'}), and "
            "condition 'label' needs two at least; nearest: --config.condition.name=none"
        )
    return Label(classes, drop)
