"""What a system gives the training loop, and the captioned data that systems share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from diffusion_jax import build
from diffusion_jax.data.pipeline import caption_table
from diffusion_jax.nets import Network
from diffusion_jax.systems.clip.run import ClipRun
from diffusion_jax.train.state import TrainState
from diffusion_jax.typing import Batch, LossFn, Params, PyTree

__all__ = ["Captioned", "Task", "captioned", "process_slice"]


@dataclasses.dataclass(frozen=True)
class Task:
    """What a system gives the loop. `evaluate(state, done)` returns held-out numbers and may leave pictures in the run."""

    network: Network
    loss_fn: LossFn
    batches: Callable[[int], Batch]
    evaluate: Callable[[TrainState, int], Mapping[str, Any]]
    frozen: PyTree = None
    clamp: Mapping[str, tuple[float, float]] | None = None
    text_encoder: ClipRun | None = None
    aux: PyTree = None  # the first state of the loss itself
    initial: Params | None = None  # weights to begin with, in place of fresh ones
    counts: str = ""  # how many examples are trained on and how many held out, to be said
    beside: Params = dataclasses.field(default_factory=dict)  # what trains beside the network


@dataclasses.dataclass(frozen=True, eq=False)
class Captioned:
    """A source's two splits; its training captions, each once (`unique`), and the rows [n, captions] of each example's."""

    train: Any
    held_out: Any
    unique: tuple[str, ...]
    rows: np.ndarray
    held_captions: tuple[str, ...]

    @property
    def counts(self) -> str:
        """How many there are, to be said."""
        return f"{len(self.train)} scans to train on, {len(self.held_out)} held out"


@functools.cache
def captioned(name: str) -> Captioned:
    """The data of a name, whose captions are gathered once a process: runs that follow one another share them."""
    train, held_out = (build.source({"name": name}, split) for split in ("train", "validation"))
    return Captioned(train, held_out, *caption_table(train), tuple(item["captions"][0] for item in held_out))


def process_slice() -> dict[str, int]:
    """This process's place among all, for the functions that make batches."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}
