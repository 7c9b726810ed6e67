"""A condition with the labels of the augmentation beside it (arXiv 2206.00364, appendix F.2).

The network is told how each picture of a batch was altered, so that the alterations do not leak into what it draws; when it
draws it is told 0, that nothing was. They are never dropped, and nobody asks for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion_jax.systems.diffusion.conditions.condition import Condition, Pick
from diffusion_jax.typing import Array, PyTree, Source

__all__ = ["AUGMENT", "Augmented"]

AUGMENT = "augment"
"""The entry of the labels."""


@dataclasses.dataclass(frozen=True, eq=False)
class Augmented:
    """`told` with an entry "augment" of `size` numbers; all else is as `told` has it."""

    told: Condition
    size: int

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "told":
            raise AttributeError(name)
        return getattr(self.told, name)

    @property
    def entries(self) -> Mapping[str, tuple[int, ...]]:
        """Those of `told`, and the labels."""
        return {**self.told.entries, AUGMENT: (self.size,)}

    @property
    def null(self) -> PyTree:
        """Nothing told, and nothing altered."""
        return self._beside(self.told.null, 1)

    def _beside(self, cond: PyTree, count: int) -> PyTree:
        return {**(cond or {}), AUGMENT: np.zeros((count, self.size), np.float32)}

    def training(self, data: Source) -> Pick:
        """Zeros beside what `told` picks, which the step replaces by what it did."""
        pick = self.told.training(data)
        return lambda rows, rng: self._beside(pick(rows, rng), len(rows))

    def held_out(self, data: Source) -> PyTree:
        """Of examples as they are."""
        return self._beside(self.told.held_out(data), len(data))

    def request(self, requests: Sequence[Any]) -> PyTree:
        """For pictures that are drawn as they are."""
        return self._beside(self.told.request(requests), len(requests))

    def drawn(self, cond: PyTree, keys: Array) -> PyTree:
        """As of `told`."""
        return {**(self.told.drawn(_without(cond), keys) or {}), AUGMENT: cond[AUGMENT]}

    def dropped(self, cond: PyTree, null: PyTree, key: Array) -> PyTree:
        """What `told` drops; the labels stay."""
        kept = _without(cond)
        return {**(self.told.dropped(kept, _without(null), key) if kept else {}), AUGMENT: cond[AUGMENT]}


def _without(cond: PyTree) -> PyTree:
    found = {name: leaf for name, leaf in cond.items() if name != AUGMENT}
    return found or None
