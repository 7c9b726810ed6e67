"""Augmentation on the host, a batch at a time."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from diffusion_jax.typing import UserError

__all__ = ["add_noise", "random_shift"]

Images = Float[np.ndarray, "batch height width channels"]


def random_shift(images: Images, rng: np.random.Generator, most: float, background: float = -1.0) -> Images:
    """Each image moved by its own offset, uniform in [-most, most] pixels along both axes, by bilinear interpolation.

    What moves in from outside is `background`. `most` = 0 gives the images back. Raises UserError when `most` is
    negative.
    """
    if most < 0:
        raise UserError(f"a shift of {most} pixels is negative; nearest: 0")
    if most == 0:
        return images
    for axis in (1, 2):
        offset = rng.uniform(-most, most, size=(len(images), 1, 1, 1)).astype(np.float32)
        whole = np.floor(offset).astype(int)
        images = _moved(images, whole, axis, background) * (1 - (offset - whole)) + _moved(
            images, whole + 1, axis, background
        ) * (offset - whole)
    return images.astype(np.float32)


def _moved(images: np.ndarray, by: np.ndarray, axis: int, background: float) -> np.ndarray:
    """Each image moved by a whole number of pixels along one axis."""
    size = images.shape[axis]
    shape = [1, 1, 1, 1]
    shape[axis] = size
    source = np.arange(size).reshape(shape) - by
    inside = (source >= 0) & (source < size)
    taken = np.take_along_axis(
        images,
        np.broadcast_to(np.clip(source, 0, size - 1), (len(images), *np.broadcast_shapes(shape[1:], (1, 1, 1)))),
        axis,
    )
    return np.where(inside, taken, background)


def add_noise(images: Images, rng: np.random.Generator, std: float) -> Images:
    """Gaussian noise of standard deviation `std` on every pixel, clipped to [-1, 1]; `std` = 0 gives the images back."""
    if std < 0:
        raise UserError(f"noise of standard deviation {std} is negative; nearest: 0")
    if std == 0:
        return images
    noise = rng.standard_normal(images.shape, dtype=np.float32)
    return np.clip(images + np.float32(std) * noise, -1.0, 1.0)
