"""The contract of a system, which is what is trained, loaded, sampled and measured as one thing.

The trunk (`training`, `cli`) names none: it asks the `System` that a config's `system` picks. One of one's own is a `System` in
a module of one's own, `system = "mine:SYSTEM"`; it needs `task` and `load`, and all else has a default.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.build.keys import Group
from diffusion_jax.build.ranges import Range
from diffusion_jax.nets import Network
from diffusion_jax.train.state import TrainState
from diffusion_jax.typing import Batch, LossFn, Params, PyTree

__all__ = ["FIXED", "FREE", "MOVED", "Drawing", "Published", "Run", "System", "Task", "process_slice"]

FIXED, FREE, MOVED = "fixed", "free", "moved"
"""Whether a key may change when a run is gone on with; see `systems.resume`."""

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Task:
    """What a system gives the loop. `evaluate(state, done)` returns held-out numbers and may leave pictures in the run.

    `batches(step)` is this process's share of the batch of a step. `notes` are JSON files that the run keeps, by name, and
    `copies` files of others that it takes into its folder, by their paths there. `agrees(folder, anew)` raises UserError where
    the folder cannot be the run's, or a run there that is gone on with (not `anew`) does not go with it. It is asked before
    anything is written.

    For `diffusion-jax config check`: `words(step, batch)` is what people call the rows of a step's batch, a text each or none;
    `drawing` are the steps in which one example is drawn, and params -> that example, which is traced for what it costs.
    """

    network: Network
    loss_fn: LossFn
    batches: Callable[[int], Batch]
    evaluate: Callable[[TrainState, int], Mapping[str, Any]] = lambda state, done: {}
    frozen: PyTree = None
    clamp: Mapping[str, tuple[float, float]] | None = None
    project: Callable[[Params], Params] | None = None
    aux: PyTree = None  # the first state of the loss itself
    initial: Params | None = None  # weights to begin with, in place of fresh ones
    counts: str = ""  # how many examples are trained on and how many held out, to be said
    beside: Params = dataclasses.field(default_factory=dict)  # what trains beside the network
    apart: Mapping[str, float] = dataclasses.field(
        default_factory=dict
    )  # what the optimizer steps by itself (`optim.parted`)
    notes: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    copies: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    agrees: Callable[[Path, bool], None] = lambda folder, anew: None
    words: Callable[[int, Batch], Sequence[str]] = lambda step, batch: ()
    drawing: tuple[int, Callable[[Params], Any]] | None = None


@runtime_checkable
class Run(Protocol):
    """What `load` gives: a trained run, ready to be used."""

    path: Path
    config: ConfigDict
    params: Params


@runtime_checkable
class Drawing(Run, Protocol):
    """A run that draws: what `diffusion-jax sample` asks of it.

    `asks` is what a request is made of, ("prompt",), or () where a run draws unasked. `settings` are those of `generate` that
    the options of the command line come to, checked; `notices` what is to be said of requests before they are drawn. One
    that is asked for a "label" may have `class_names`, the names of the classes in the order of their numbers; `ink` false
    says that grey is light, as of photographs, where it is otherwise shown as ink on paper.
    """

    @property
    def asks(self) -> str | tuple[str, ...]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def fingerprint(self) -> str: ...
    def settings(self, **options: Any) -> dict[str, Any]: ...
    def notices(self, requests: Sequence[str]) -> list[str]: ...
    def generate(
        self, requests: Any = None, *, count: int | None = None, seed: int, start: int, batch_size: int, **settings: Any
    ) -> np.ndarray: ...


def _nothing(config: ConfigDict) -> dict[str, Group]:
    return {}


def _fine(config: ConfigDict) -> None: ...


def _as_it_is(config: ConfigDict, version: int) -> ConfigDict:
    return config


@dataclasses.dataclass(frozen=True)
class System:
    """All that is a system's own. Equal by identity of its parts; the table of them is `systems.table.SYSTEMS`.

    task(config, folder, key) -> Task, for the loop; load(path, config, which, step) -> Run.

    A config may hold the keys of every system (`build.keys.COMMON` and its groups), the top-level `keys` with their defaults
    (`build.keys.REQUIRED` for those it must hold), and `groups(config)`, of which those in `optional` may be absent or None.
    `ranges` says what each key may be (of a system of one's own, where it says nothing, what the type of its default is),
    `changes` which may change when a run is gone on with (`systems.resume`), `check` what is wrong with values that are right
    alone. `upgrade(config, version)` makes the config of an older run one of today.

    `options` are the options of `diffusion-jax evaluate` that are this system's, whatever the run is of. `encode`, which is
    handed the config, `evaluate`, `report` and `convert` are those commands, None where there is none.
    `metrics` are measures by name, as `systems.measuring` says.
    `formats` are what `convert` writes, the first by default.
    `lighter(config)` says what makes a training step smaller. `published(path, **options)` reads published weights, of which
    `publishes(path, model)` says that they are this system's, of the name `model` or None.
    """

    task: Callable[[ConfigDict, Path, jax.Array], Task]
    load: Callable[[Path, ConfigDict, str, int | None], Any]
    keys: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    groups: Callable[[ConfigDict], dict[str, Group]] = _nothing
    optional: tuple[str, ...] = ()
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    changes: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    check: Callable[[ConfigDict], None] = _fine
    upgrade: Callable[[ConfigDict, int], ConfigDict] = _as_it_is
    options: tuple[str, ...] = ()
    encode: Callable[[argparse.Namespace, ConfigDict, Say], int] | None = None
    evaluate: Callable[[argparse.Namespace, Say], int] | None = None
    report: Callable[[argparse.Namespace, Say], int] | None = None
    convert: Callable[[argparse.Namespace, Say], int] | None = None
    formats: tuple[str, ...] = ()
    metrics: Mapping[str, Callable[..., Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
    published: Callable[..., Any] | None = None
    publishes: Callable[[Path, Any], bool] = lambda path, model: False
    lighter: Callable[[ConfigDict], str] = lambda config: (
        f"lower --config.batch_size={config.get('batch_size')} or the size of the model"
        + (f", or --config.preprocess.size={size}" if (size := (config.get("preprocess") or {}).get("size")) else "")
    )


@dataclasses.dataclass(frozen=True)
class Published:
    """Published weights of a kind that no system trains: `load(path, **options)` reads those of which `claims(path, model)`
    says that they are such, of the name `model` or None."""

    load: Callable[..., Any]
    claims: Callable[[Path, Any], bool]


def process_slice() -> dict[str, int]:
    """This process's place among all, for the functions that make batches."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}
