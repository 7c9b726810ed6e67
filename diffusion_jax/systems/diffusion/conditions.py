"""What a diffusion model is told of an example, as entries of `cond`: from the data in training, from a request in sampling.

A condition is an object with

- `entries`: the shape of each entry of one example, {"pooled": (64,), "tokens": (16, 64), "length": ()};
- `asks`: what a request is called on the command line, "prompt", or "" where there is nothing to ask for;
- `drop`: the share of the examples whose condition is replaced by `null` (leading axis 1, or None where nothing is told),
  so that guidance has an unconditional field (arXiv 2207.12598, algorithm 1);
- `training(data)` -> pick(rows, rng): the entries of those rows of a source, with what is random drawn from `rng`;
- `held_out(data)`: the entries of every example of a source, without chance;
- `shown(data, held_out)`: the requests that the pictures of a training draw, a few;
- `listed(what, given)`: one request or several as a list; `request(requests)`: their entries; UserError for what is none;
- `notices(requests)`: what is to be said of requests before they are drawn;
- `params`: the frozen weights that it is made with, None for none;
- `notes(folder)`: JSON files that a run keeps of it; `agrees(folder, anew)`: UserError where a folder cannot be
  the run's, or a run there that is gone on with (not `anew`) does not go with it.

One of one's own is `condition.name = "mine:Condition"`: a class of the group's other keys, which may have a keyword `run`, the
folder of the run where one is loaded and None where one begins. `Plain` has what most need, so that a class of one's own says
`entries`, `training`, `held_out`, `request` and `null`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import numpy as np

from diffusion_jax import runs
from diffusion_jax.build.constructors import Spec, complete, construct, wanted
from diffusion_jax.build.own import is_own, pick
from diffusion_jax.data.pipeline import caption_table
from diffusion_jax.systems.clip.run import ClipRun, load_clip
from diffusion_jax.typing import PyTree, Source, UserError, texts_of

__all__ = [
    "CONDITIONS",
    "TEXT_ENCODER",
    "Condition",
    "Nothing",
    "Plain",
    "Text",
    "condition",
    "read_text_encoder",
    "trained_on",
]

TEXT_ENCODER = "text_encoder.json"
"""Where a run's text encoder lies, relative to it, and a fingerprint of the weights that it was trained on."""
SHOWN = 8
Pick = Callable[[np.ndarray, np.random.Generator], PyTree]


@runtime_checkable
class Condition(Protocol):
    """See the module."""

    asks: str
    drop: float

    @property
    def entries(self) -> Mapping[str, tuple[int, ...]]: ...
    @property
    def null(self) -> PyTree: ...
    @property
    def params(self) -> PyTree: ...
    def training(self, data: Source) -> Pick: ...
    def held_out(self, data: Source) -> PyTree: ...
    def shown(self, data: Source, held_out: Source) -> list[Any]: ...
    def listed(self, what: str, given: Any) -> list[Any]: ...
    def request(self, requests: Sequence[Any]) -> PyTree: ...
    def notices(self, requests: Sequence[Any]) -> list[str]: ...
    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]: ...
    def agrees(self, folder: Path, anew: bool) -> None: ...


class Plain:
    """What a condition is where its class does not say it."""

    asks: str = ""
    drop: float = 0.0
    params: PyTree = None

    def shown(self, data: Source, held_out: Source) -> list[Any]:
        """Nothing in particular."""
        return [None] * SHOWN

    def listed(self, what: str, given: Any) -> list[Any]:
        """A list, tuple or array as its items, anything else as one. UserError for none."""
        found = list(given) if isinstance(given, list | tuple | np.ndarray) and np.ndim(given) else [given]
        if not found or found == [None]:
            raise UserError(f"{what}: none is given, give at least one")
        return found

    def notices(self, requests: Sequence[Any]) -> list[str]:
        """Nothing."""
        return []

    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """None."""
        return {}

    def agrees(self, folder: Path, anew: bool) -> None:
        """Always."""


@dataclasses.dataclass(frozen=True)
class Nothing(Plain):
    """No condition: `cond` is None."""

    entries: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    null: ClassVar[None] = None

    def training(self, data: Source) -> Pick:
        """None for any rows; draws nothing."""
        return lambda rows, rng: None

    def held_out(self, data: Source) -> None:
        """None."""

    def request(self, requests: Sequence[Any]) -> None:
        """None. UserError for a request that asks for something."""
        if any(asked is not None for asked in requests):
            raise UserError(f"the model draws unasked: it takes no {requests[0]!r}, only how many")


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
        captions = caption_table(data)
        table = self.clip.condition(captions.unique)

        def chosen_captions(chosen: np.ndarray, rng: np.random.Generator) -> PyTree:
            picked = captions.pick(chosen, rng)
            return jax.tree.map(lambda leaf: leaf[picked], table)

        return chosen_captions

    def held_out(self, data: Source) -> PyTree:
        """The first caption of each."""
        return self.clip.condition([data[i]["captions"][0] for i in range(len(data))])

    def shown(self, data: Source, held_out: Source) -> list[str]:
        """The source's own `prompts`, or the first different captions that are held out."""
        own = getattr(data, "prompts", None)
        captions = (held_out[i]["captions"][0] for i in range(len(held_out)))
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


def _text(encoder: str, drop: float = 0.1, run: Path | None = None) -> Text:
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


CONDITIONS: dict[str, Callable[..., Any]] = {"none": Nothing, "text": _text}


def condition(spec: Spec | None, run: Path | None = None) -> Condition:
    """The condition of a config's `condition` group, nothing where there is none; of the run in `run` where it is loaded."""
    spec = spec or {"name": "none"}
    make = pick("condition", spec["name"], CONDITIONS)
    made = construct("condition", CONDITIONS, spec, **wanted(make, {"run": run}))
    complete("condition", spec["name"], made, Condition)
    if is_own(spec["name"]):
        null = {entry: np.shape(leaf) for entry, leaf in (made.null or {}).items()}
        should = {entry: (1, *shape) for entry, shape in made.entries.items()}
        if null != should:
            raise UserError(f"condition {spec['name']!r} has a null of shapes {null}; its entries make it {should}")
    return made


def trained_on(told: Condition, data: Source, name: Any) -> Pick:
    """`told.training(data)`. UserError where what it gives is not of the shapes that the condition's `entries` say."""
    pick = told.training(data)
    first = pick(np.arange(1), np.random.default_rng(0)) or {}
    found = {entry: np.shape(leaf) for entry, leaf in first.items()}
    should = {entry: (1, *shape) for entry, shape in told.entries.items()}
    if found != should:
        raise UserError(f"condition {name!r} gives {found} for one example in training; its entries make it {should}")
    return pick
