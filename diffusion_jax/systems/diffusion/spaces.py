"""Where a diffusion model works: the arrays x0 that are noised, and how examples become them and samples come back.

A space is a frozen dataclass with `shape`, that of one x0; `frozen`, arrays that encoding needs, handed to the step and never
trained; `encode(frozen, batch)` -> x0 [batch, *shape] of about unit scale, inside of the compiled step, the batch's "image" in
[-1, 1], with a "key" where x0 may be drawn; and `decode(frozen, x0)` -> what is shown. It may have `table(data)` -> x0 of every
example of a source, made once (NaN of one that cannot be read), or None: then no picture is read in training. What is in the
table may be more than x0 (`latent_cache.LatentTable`): then `drawn(rows, key)` -> x0 is of the space too. One of one's own is
`space.name = "mine:Space"`, made of the shape of the data's images (`image`) and the group's other keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ml_collections import ConfigDict

from diffusion_jax.build.constructors import Spec, complete, construct, wanted
from diffusion_jax.build.own import pick
from diffusion_jax.systems.diffusion.embeddings import embeddings
from diffusion_jax.systems.diffusion.latents import latents
from diffusion_jax.typing import Array, Batch, PyTree

__all__ = ["GIVEN", "SPACES", "Pixels", "Space", "space"]


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


SPACES: dict[str, Callable[..., Any]] = {"pixels": Pixels, "embeddings": embeddings, "latents": latents}
GIVEN = ("image", "run", "config")
"""Keywords of spaces that are not the user's to set."""


def space(
    spec: Spec | None, image: tuple[int, ...], run: Path | None = None, config: ConfigDict | None = None
) -> Space:
    """The space of a config's `space` group, pixels where there is none, for images of this shape.

    Of the run in `run` where one is loaded; `config` is the whole.
    """
    spec = {"name": "pixels", **(spec or {})}
    make = pick("space", spec["name"], SPACES)
    made = construct("space", SPACES, spec, image=tuple(image), **wanted(make, {"run": run, "config": config}))
    complete("space", spec["name"], made, Space)
    return made
