"""What a diffusion model is told of an example, as entries of `cond`: from the data in training, from a request in sampling.

A condition is an object with

- `entries`: the shape of each entry of one example, {"pooled": (64,), "tokens": (16, 64), "length": ()}; `counts`: of entries
  that are numbers, how many there are of them, the null included, {"label": 11};
- `asks`: what a request is called on the command line, "prompt" or "label"; several as a tuple; "" or () where there is nothing
  to ask for. A request is what is asked, or, of several, {"label": 3, "prompt": "a cat"}, where what is left out is its null;
- `drop`: the share of the examples whose condition is replaced by `null` (leading axis 1, or None where nothing is told),
  so that guidance has an unconditional field (arXiv 2207.12598, algorithm 1); `dropped(cond, null, key)` does it;
- `guides`: whether there is something to guide by;
- `training(data)` -> pick(rows, rng): the entries of those rows of a source, with what is random drawn from `rng`;
- `made(frozen, images, key)`: the entries that are made of a batch of images [batch, h, w, c] in [-1, 1], within the compiled
  step; `frozen`: the arrays that it takes for it, which are handed to the step and never trained;
- `held_out(data)`: the entries that `training` gives, of every example of a source, without chance;
- `shown(data, held_out)`: the requests that the pictures of a training draw, a few;
- `listed(what, given)`: one request or several as a list; `request(requests)`: all their entries; UserError for what is none;
  `drawn(cond, keys)`: what is random of these, given a key an example;
- `fidelity(requests, images)`: the PSNR in dB [n] of images that were drawn to the pixels that their requests told, NaN for a
  request that told none; None of a condition that tells no pixels;
- `notices(requests)`: what is to be said of requests before they are drawn;
- `params`: the frozen weights that it is made with, None for none;
- `notes(folder)`: JSON files that a run keeps of it; `agrees(folder, anew)`: UserError where a folder cannot be
  the run's, or a run there that is gone on with (not `anew`) does not go with it.

One of one's own is `condition.name = "mine:Condition"`: a class of the group's other keys, which may have a keyword `run`, the
folder of the run where one is loaded and None where one begins, and a keyword `data`, the examples to train on where one
begins. `Plain` has what most need: a class of one's own says `entries`, `training`, `held_out`, `request` and `null`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from diffusion_jax.systems.diffusion.loss import drop_condition
from diffusion_jax.typing import Array, PyTree, Source, UserError

__all__ = ["SHOWN", "Condition", "Nothing", "Pick", "Plain", "asks_of"]

SHOWN = 8
Pick = Callable[[np.ndarray, np.random.Generator], PyTree]


def asks_of(thing: Any) -> tuple[str, ...]:
    """What a condition or a run asks for, () for nothing."""
    asks = thing.asks
    return ((asks,) if asks else ()) if isinstance(asks, str) else tuple(asks)


@runtime_checkable
class Condition(Protocol):
    """See the module."""

    asks: str | tuple[str, ...]
    drop: float

    @property
    def guides(self) -> bool: ...
    @property
    def frozen(self) -> PyTree: ...
    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def entries(self) -> Mapping[str, tuple[int, ...]]: ...
    @property
    def null(self) -> PyTree: ...
    @property
    def params(self) -> PyTree: ...
    def training(self, data: Source) -> Pick: ...
    def made(self, frozen: PyTree, images: Array, key: Array) -> PyTree: ...
    def dropped(self, cond: PyTree, null: PyTree, key: Array) -> PyTree: ...
    def drawn(self, cond: PyTree, keys: Array) -> PyTree: ...
    def held_out(self, data: Source) -> PyTree: ...
    def shown(self, data: Source, held_out: Source) -> list[Any]: ...
    def listed(self, what: str, given: Any) -> list[Any]: ...
    def request(self, requests: Sequence[Any]) -> PyTree: ...
    def fidelity(self, requests: Sequence[Any], images: np.ndarray) -> np.ndarray | None: ...
    def notices(self, requests: Sequence[Any]) -> list[str]: ...
    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]: ...
    def agrees(self, folder: Path, anew: bool) -> None: ...


class Plain:
    """What a condition is where its class does not say it."""

    asks: str | tuple[str, ...] = ()
    drop: float = 0.0
    params: PyTree = None
    frozen: PyTree = None
    null: PyTree
    counts: Mapping[str, int] = MappingProxyType({})

    @property
    def guides(self) -> bool:
        """Whether it has a null."""
        return self.null is not None

    def made(self, frozen: PyTree, images: Array, key: Array) -> PyTree:
        """Nothing."""
        return {}

    def dropped(self, cond: PyTree, null: PyTree, key: Array) -> PyTree:
        """All entries together."""
        return drop_condition(cond, null, self.drop, key)

    def drawn(self, cond: PyTree, keys: Array) -> PyTree:
        """As it is."""
        return cond

    def shown(self, data: Source, held_out: Source) -> list[Any]:
        """Nothing in particular."""
        return [None] * SHOWN

    def listed(self, what: str, given: Any) -> list[Any]:
        """A list, tuple or array as its items, anything else as one. UserError for none."""
        found = list(given) if isinstance(given, list | tuple | np.ndarray) and np.ndim(given) else [given]
        if not found or found == [None]:
            raise UserError(f"{what}: none is given, give at least one")
        return found

    def fidelity(self, requests: Sequence[Any], images: np.ndarray) -> np.ndarray | None:
        """None: no pixels are told."""
        return None

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
