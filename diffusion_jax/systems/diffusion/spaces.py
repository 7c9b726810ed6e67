"""Where a diffusion model works: the arrays x0 that are noised, and how examples become them and samples come back.

A space is a frozen dataclass with `shape`, that of one x0; `frozen`, arrays that encoding needs, handed to the step and never
trained; `encode(frozen, batch)` -> x0 [batch, *shape] of about unit scale, inside of the compiled step, the batch's "image" in
[-1, 1]; and `decode(frozen, x0)` -> what is shown. It may have `table(data)` -> x0 of every example of a source, made once, or
None: then no picture is read in training. One of one's own is `space.name = "mine:Space"`, made of the shape of the data's
images (`image`) and the group's other keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from diffusion_jax.build.constructors import Spec, complete, construct
from diffusion_jax.typing import Array, Batch, PyTree

__all__ = ["SPACES", "Pixels", "Space", "space"]


@runtime_checkable
class Space(Protocol):
    """See the module."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def frozen(self) -> PyTree: ...
    def encode(self, frozen: PyTree, batch: Batch) -> Array: ...
    def decode(self, frozen: PyTree, x0: Array) -> Array: ...


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The images of the data as they are, in [-1, 1]; `image` is the shape of one."""

    image: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """An image's."""
        return self.image

    @property
    def frozen(self) -> PyTree:
        """Nothing."""
        return None

    def encode(self, frozen: PyTree, batch: Batch) -> Array:
        """The batch's "image"."""
        return batch["image"]

    def decode(self, frozen: PyTree, x0: Array) -> Array:
        """x0 itself."""
        return x0


SPACES: dict[str, Callable[..., Any]] = {"pixels": Pixels}


def space(spec: Spec | None, image: tuple[int, ...]) -> Space:
    """The space of a config's `space` group, pixels where there is none, for images of this shape."""
    spec = spec or {"name": "pixels"}
    made = construct("space", SPACES, spec, image=tuple(image))
    complete("space", spec["name"], made, Space)
    return made
