"""The condition of captions, by the text tower of a CLIP."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from diffusion_jax import runs
from diffusion_jax.data.examples import raw
from diffusion_jax.data.pipeline import caption_table
from diffusion_jax.systems.clip.run import ClipRun, load_clip
from diffusion_jax.systems.diffusion.conditions.condition import SHOWN, Pick, Plain
from diffusion_jax.typing import PyTree, Source, UserError, texts_of

__all__ = ["TEXT_ENCODER", "Text", "read_text_encoder", "text"]

TEXT_ENCODER = "text_encoder.json"
"""Where a run's text encoder lies, relative to it, and a fingerprint of the weights that it was trained on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Text(Plain):
    """Captions, by the frozen text tower of a CLIP run: `pooled`, its embedding, and `tokens` with `length`, its features.

    The embeddings of all captions of a source are made once, before training; each example gets one of its captions at random.
    """

    clip: ClipRun
    drop: float = 0.1
    asks: ClassVar[str] = "prompt"

    @property
    def entries(self) -> Mapping[str, tuple[int, ...]]:
        """Of the text tower's sizes."""
        return {name: tuple(leaf.shape[1:]) for name, leaf in self.null.items()}

    @functools.cached_property
    def null(self) -> dict[str, np.ndarray]:
        """The empty prompt's: what training puts in place of dropped captions."""
        return self.clip.condition([""])

    @property
    def params(self) -> PyTree:  # type: ignore[override]
        """The CLIP run's weights."""
        return self.clip.params

    @functools.cached_property
    def _fingerprint(self) -> str:
        return runs.fingerprint(self.clip.params)

    def training(self, data: Source) -> Pick:
        """A random caption of each row."""
        captions = caption_table(raw(data))
        table = self.clip.condition(captions.unique)

        def chosen_captions(chosen: np.ndarray, rng: np.random.Generator) -> PyTree:
            picked = captions.pick(chosen, rng)
            return jax.tree.map(lambda leaf: leaf[picked], table)

        return chosen_captions

    def held_out(self, data: Source) -> PyTree:
        """The first caption of each."""
        return self.clip.condition([_captions(raw(data), i)[0] for i in range(len(data))])

    def shown(self, data: Source, held_out: Source) -> list[str]:
        """The source's own `prompts`, or the first different captions that are held out."""
        own = getattr(data, "prompts", None)
        captions = (_captions(raw(held_out), i)[0] for i in range(len(held_out)))
        return list(own) if own is not None else list(dict.fromkeys(captions))[:SHOWN]

    def listed(self, what: str, given: Any) -> list[str]:
        """Texts."""
        return texts_of(what, given)

    def request(self, requests: Sequence[Any]) -> dict[str, np.ndarray]:
        """Of prompts."""
        return self.clip.condition(texts_of("prompts", requests))

    def notices(self, requests: Sequence[str]) -> list[str]:
        """What of the prompts does not reach the model."""
        return self.clip.tokenizer.explain(requests)

    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """Where the CLIP run lies from the run's folder, and its fingerprint."""
        return {TEXT_ENCODER: {"run": os.path.relpath(self.clip.path, folder), "fingerprint": self._fingerprint}}

    def agrees(self, folder: Path, anew: bool) -> None:
        """UserError for a folder that holds the CLIP run, and for a run there of other weights."""
        if self.clip.path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{folder} holds the text encoder {self.clip.path}: choose another --config.workdir")
        if anew or not (folder / TEXT_ENCODER).is_file():
            return
        if read_text_encoder(folder)["fingerprint"] != self._fingerprint:
            raise UserError(
                f"{folder} was trained on another text encoder than {self.clip.path} holds now: choose another "
                "--config.workdir, or --overwrite to begin anew"
            )


def _captions(data: Source, index: int) -> list[str]:
    """The captions of an example. UserError for one without."""
    found = data[index].get("captions")
    if not found:
        raise UserError(f"example {index} that is held out has no captions")
    return list(found)


def text(encoder: str, drop: float = 0.1, run: Path | None = None) -> Text:
    """The text condition of a config, or of the run in `run`, whose note says where its CLIP run lies from there."""
    if run is None:
        return Text(load_clip(encoder), drop)
    note = read_text_encoder(run)
    place = Path(os.path.normpath(run / note["run"]))
    if not (runs.is_run(place) or any(runs.is_run(inner) for inner in place.glob("*"))):
        raise UserError(
            f"there is no text encoder in {os.path.abspath(place)!r}, where {TEXT_ENCODER} of the diffusion run "
            f"{str(run)!r} says that it lies{runs.nearest(place)}"
        )
    clip = load_clip(place)
    if runs.fingerprint(clip.params) != note["fingerprint"]:
        raise UserError(f"the text encoder in {clip.path} was trained again after {run}: train the diffusion run anew")
    return Text(clip, drop)


def read_text_encoder(path: Path) -> dict[str, str]:
    """{"run", "fingerprint"} of the text encoder that the diffusion run in `path` was trained on."""
    file = path / TEXT_ENCODER
    if not file.is_file():
        raise UserError(f"{file} is missing: the run does not say which text encoder it was trained on")
    note = runs.read_json(file)
    if not {"run", "fingerprint"} <= note.keys():
        raise UserError(f"{file} lacks 'run' or 'fingerprint': it was not written by `diffusion-jax train`")
    return note
