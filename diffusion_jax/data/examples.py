"""Examples as a diffusion model takes them: a source of pictures prepared without chance, or a source of arrays as it is.

Pictures stay uint8 [size, size, channels] in 0 .. 255 until they are on the device, where `to_unit` makes them [-1, 1]: a
quarter of the bytes. Arrays of floats are in [-1, 1] already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion_jax.data.reading import read_picture
from diffusion_jax.typing import Array, Source, UserError

__all__ = ["Examples", "label_names", "labels_of", "raw", "to_unit"]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """`source` with its pictures made arrays by `prepare`; what else it has (`class_names`, `labels`, ...) is the source's.

    `ready`: the source's columns have the pictures as they would be prepared. `raw(examples)` is the source itself: what asks
    for labels or captions alone does not decode a picture.
    """

    source: Source
    prepare: Callable[[Any], np.ndarray]
    ready: bool = False

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.source[index]
        return {**item, "image": read_picture(item, self.prepare)}

    @property
    def levels(self) -> int:
        """Of a channel."""
        return 256

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "source" or (name == "columns" and not self.ready):
            raise AttributeError(name)
        return getattr(self.source, name)


def raw(data: Source) -> Any:
    """The source beneath, whose items cost no decoding."""
    return data.source if isinstance(data, Examples) else data


def labels_of(data: Source) -> np.ndarray:
    """The label of every example, int32 [n]. UserError for one without, and for what is no whole number of at least 0."""
    source = raw(data)
    found = getattr(source, "labels", None)
    if found is None and hasattr(source, "columns"):
        found = source.columns().get("label")
    if found is None:
        found = [source[i].get("label") for i in range(len(source))]
    labels = np.asarray(found)
    if labels.dtype.kind not in "iu" or labels.shape != (len(source),) or (labels.size and labels.min() < 0):
        wrong = next((i for i, label in enumerate(found) if label is None), None)
        what = (
            "the examples have labels that are no whole numbers" if wrong is None else f"example {wrong} has no label"
        )
        raise UserError(f"{what}: a label is the number of a class, from 0")
    return labels.astype(np.int32)


def label_names(data: Source) -> tuple[str, ...]:
    """The names of the classes in the order of their labels: the source's own, or else the numbers."""
    own = tuple(str(name) for name in getattr(raw(data), "class_names", None) or ())
    labels = labels_of(data)
    most = int(labels.max()) + 1 if labels.size else 0
    if own and most > len(own):
        raise UserError(f"label {most - 1} of the data has no name: they name {len(own)} classes")
    return own or tuple(str(label) for label in range(most))


def to_unit(images: Any) -> Array:
    """float32 in [-1, 1]: uint8 as x / 127.5 - 1, floats as they are."""
    found = jnp.asarray(images)
    return found.astype(jnp.float32) / 127.5 - 1.0 if found.dtype == jnp.uint8 else found
