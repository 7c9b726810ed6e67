"""How a picture becomes a row of a training batch: the part of it that is seen, at the size of the network."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import UInt8

from diffusion_jax.data.pictures.decoding import Picture
from diffusion_jax.data.pictures.preprocess import Preprocess
from diffusion_jax.typing import UserError, one_of

__all__ = ["CROPS", "Crop"]

CROPS = ("random", "center", "none")


@dataclasses.dataclass(frozen=True)
class Crop:
    """A picture as uint8 [edge, edge, channels] by `prepare`.

    crop: "random" (`Preprocess.random_pixels` with this `scale`), "center" (`Preprocess.pixels`) or "none" (all of it,
        squashed).
    distort: whether a random part may have another aspect than it gets, as CLIP is trained; a generative model would draw
    what it sees, and takes squares.

    Raises UserError for an unknown crop, and for a random one where `prepare` resizes nothing.
    """

    prepare: Preprocess
    crop: str = "random"
    scale: tuple[float, float] = (0.9, 1.0)
    distort: bool = True

    def __post_init__(self) -> None:
        one_of("crop", self.crop, CROPS)
        if self.crop == "random" and self.prepare.resize == "none":
            raise UserError("crop 'random' resizes a part of a picture, where resize is 'none'; nearest: crop 'center'")
        if self.crop == "none" and self.prepare.resize == "shortest":
            whole = dataclasses.replace(self.prepare, resize="squash", size=self.prepare.edge, crop=None)
            object.__setattr__(self, "prepare", whole)

    def __call__(self, image: Picture, rng: np.random.Generator) -> UInt8[np.ndarray, "edge edge channels"]:
        """The row. Raises UserError as `Preprocess.pixels`."""
        if self.crop != "random":
            return self.prepare.pixels(image)
        return self.prepare.random_pixels(image, rng, self.scale, (3 / 4, 4 / 3) if self.distort else None)

    @property
    def fixed(self) -> tuple[int, int, int] | None:
        """The shape of a row where a picture is always the same row; None where that is left to chance."""
        return None if self.crop == "random" else (self.prepare.edge, self.prepare.edge, self.prepare.channels)

    def keeps(self, images: Any) -> bool:
        """Whether the rows of arrays such as these [n, height, width, channels] are the arrays themselves, with no chance."""
        return self.prepare.edge == self.prepare.size and images.shape[1:] == self.fixed
