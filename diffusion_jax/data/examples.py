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
from diffusion_jax.typing import Array, Source

__all__ = ["Examples", "raw", "to_unit"]


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


def to_unit(images: Any) -> Array:
    """float32 in [-1, 1]: uint8 as x / 127.5 - 1, floats as they are."""
    found = jnp.asarray(images)
    return found.astype(jnp.float32) / 127.5 - 1.0 if found.dtype == jnp.uint8 else found
