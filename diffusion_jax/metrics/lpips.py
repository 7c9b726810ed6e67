"""LPIPS: how unlike two pictures look, by the features of VGG16 (arXiv 1801.03924, eq. 1), with weights that the user has.

    d(x, y) = sum_l mean over places of sum_c w_lc (f_lc(x) - f_lc(y))^2

with f_l the maps after the last rectifier of each of the five stages of VGG16 (arXiv 1409.1556, configuration D), each place's
channels of unit length, and w_l at least 0, learned from what people said of pairs. Pictures are brought to the mean and
deviation that VGG16 was trained on. `convert.lpips` reads the weights.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from diffusion_jax.typing import UserError

__all__ = ["STAGES", "lpips", "lpips_features"]

STAGES: tuple[tuple[int, int], ...] = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Of each stage of VGG16: channels, convolutions."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation a channel, of pictures in [-1, 1]."""
LEAST = 2 ** (len(STAGES) - 1)
Images = Float[Array, "batch height width channels"] | Float[np.ndarray, "batch height width channels"]


def lpips_features(params: PyTree, images: Images) -> list[Array]:
    """The maps of the five stages of images in [-1, 1], of one channel or three, the finest first; float32.

    Raises UserError for other channels, and for an edge below 16, of which nothing would be left.
    """
    if images.shape[-1] not in (1, 3):
        raise UserError(f"LPIPS sees pictures of 1 or 3 channels, not {images.shape[-1]}")
    if min(images.shape[1:3]) < LEAST:
        raise UserError(f"LPIPS halves pictures four times: {images.shape[1]} x {images.shape[2]} is below {LEAST}")
    x = jnp.broadcast_to(jnp.asarray(images, jnp.float32), (*images.shape[:-1], 3))
    x = (x - np.asarray(SHIFT, np.float32).reshape(1, 1, 1, 3)) / np.asarray(SCALE, np.float32).reshape(1, 1, 1, 3)
    found = []
    for stage, (_, convolutions) in enumerate(STAGES):
        if stage:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        for place in range(convolutions):
            layer = params["features"][str(stage)][str(place)]
            x = jax.lax.conv_general_dilated(
                x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + layer["bias"].reshape(1, 1, 1, -1))
        found.append(x)
    return found


def lpips(params: PyTree, x: Images, y: Images) -> Float[Array, " batch"]:
    """d(x, y) of each pair of images in [-1, 1]; 0 for equal ones. UserError as `lpips_features`."""
    both = zip(lpips_features(params, x), lpips_features(params, y), strict=True)
    parts = []
    for stage, (mine, theirs) in enumerate(both):
        square = (_unit(mine) - _unit(theirs)) ** 2
        parts.append((square * params["weights"][str(stage)].reshape(1, 1, 1, -1)).sum(-1).mean((1, 2)))
    return sum(parts[1:], parts[0])


def _unit(x: Array) -> Array:
    """Channels of unit length; of none, nothing, with a gradient of 0."""
    square = (x * x).sum(-1, keepdims=True)
    norm = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    return x / (jnp.where(square > 0, norm, 0.0) + 1e-10)
