"""Learned positions for another resolution (ViT, arXiv 2010.11929, section 3.2): the grid is resized, the class token's stays.

Bicubic with antialias, as open_clip does: Keys' kernel with a = -1/2 (IEEE TASSP 29, 1981), widened where the grid shrinks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffusion_jax.typing import Params, UserError

__all__ = ["resize_image", "resize_positions", "resize_text"]


def resize_positions(
    positions: Float[np.ndarray, "tokens width"], side: int, *, first: int
) -> Float[np.ndarray, "others width"]:
    """Positions of a square grid, rows first, after `first` rows that stay as they are, for a grid of `side` x `side`."""
    kept, grid = positions[:first], positions[first:]
    old = math.isqrt(len(grid))
    if old * old != len(grid):
        raise UserError(f"{len(grid)} positions are not a square grid")
    if old == side:
        return positions
    square = jnp.asarray(grid, jnp.float32).reshape(old, old, -1)
    new = jax.image.resize(square, (side, side, square.shape[-1]), method="cubic", antialias=True)
    return np.concatenate([kept, np.asarray(new).reshape(side * side, -1)])


def resize_image(config: Mapping[str, Any], params: Params, image_size: int) -> tuple[dict[str, Any], Params]:
    """(config, params) of a model for images of another size, by interpolated positions.

    For vision transformers and ResNets alike. Raises UserError for a size that the patches do not divide.
    """
    if "vision" not in config:
        raise UserError(f"image_size {image_size}: the model has no vision tower")
    vision = dict(config["vision"])
    resnet = vision.get("tower") == "resnet"
    step = 32 if resnet else vision["patch"]
    if image_size < step or image_size % step:
        raise UserError(
            f"image_size {image_size} is not divided by {step}; nearest: {max(1, round(image_size / step)) * step}"
        )
    first = 1 if resnet or vision["pool"] != "map" else 0
    vision |= {"image_size": image_size} | ({} if resnet else {"trim": False})
    visual = dict(params["visual"])
    place = dict(visual["attnpool"]) if resnet else visual
    place["positional_embedding"] = resize_positions(
        np.asarray(place["positional_embedding"]), image_size // step, first=first
    )
    if resnet:
        visual["attnpool"] = place
    return {**config, "vision": vision}, {**params, "visual": visual}


def resize_text(config: Mapping[str, Any], params: Params, context_length: int) -> tuple[dict[str, Any], Params]:
    """(config, params) of a model for texts of another length: positions cut, or interpolated linearly to more of them.

    The first positions keep their places when there are fewer; linear interpolation stretches all of them when there are more.
    """
    if "text" not in config:
        raise UserError(f"context_length {context_length}: the model has no text tower")
    if context_length < 2:
        raise UserError(f"context_length {context_length} is not at least 2, for the start and the end token")
    text, tower = dict(config["text"]), dict(params["text"])
    positions = np.asarray(tower["positional_embedding"])
    if context_length <= len(positions):
        tower["positional_embedding"] = positions[:context_length]
    else:
        shape = (context_length, positions.shape[1])
        tower["positional_embedding"] = np.asarray(jax.image.resize(jnp.asarray(positions), shape, method="linear"))
    return {**config, "text": text | {"context_length": context_length}}, {**params, "text": tower}
