"""PIL's resize as matrices of integers: what `Preprocess.on_device` multiplies by, and the host where the whole is too large.

PIL's resize is two passes over one axis each, and 8 bits between them. Per axis, from n pixels to m, with s = n / m
and f = max(s, 1), output i is centred on c = (i + 1/2) s and takes pixels j from trunc(c - rf + 1/2) up to, but
without, trunc(c + rf + 1/2), inside the image, with weights k((j - c + 1/2) / f), which are scaled to sum to 1: a
filter of radius r that is stretched when it reduces ("antialias"). k is the triangle (r = 1), Keys' cubic with
a = -1/2 (r = 2), Lanczos' (r = 3), Hamming's (r = 1) or the box (r = 1/2). Weights are rounded to multiples of 2^-22 and
sums to the nearest level, clipped to 0 .. 255. A resize in one shot or in floating point is 2 to 20 levels off on noise; in
integers, as here, none is. "nearest" has no filter: output i is the pixel below s/2 + s + ... + s (i times), summed so.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

__all__ = ["BITS", "FILTERS", "weights"]

BITS = 22  # PIL's precision: 32, less 8 for a pixel, less 2 for weights that add up to more than 1 or to less than 0
RADIUS = {"bicubic": 2.0, "bilinear": 1.0, "lanczos": 3.0, "hamming": 1.0, "box": 0.5}
FILTERS = {name: Image.Resampling[name.upper()] for name in (*RADIUS, "nearest")}


@functools.lru_cache(maxsize=64)
def weights(size: int, resized: int, start: int, count: int, interpolation: str) -> tuple[slice, np.ndarray]:
    """PIL's weights, in 2^-22, of outputs start .. start + count of a resize to `resized`.

    (the pixels that have any, their weights as int32 [count, pixels]).
    """
    stretch = size / resized
    if interpolation == "nearest":
        steps = np.concatenate([[stretch * 0.5], np.full(start + count - 1, stretch)])
        chosen = np.minimum(np.cumsum(steps)[start:].astype(int), size - 1)
        read = slice(int(chosen.min()), int(chosen.max()) + 1)
        return read, (chosen[:, None] == np.arange(read.start, read.stop)[None]).astype(np.int32) << BITS
    wide = max(stretch, 1.0)
    centre = (np.arange(start, start + count)[:, None] + 0.5) * stretch
    reach = RADIUS[interpolation] * wide
    first = np.maximum((centre - reach + 0.5).astype(int), 0)
    last = np.minimum((centre + reach + 0.5).astype(int), size)
    read = slice(int(first.min()), int(last.max()))
    pixel = np.arange(read.start, read.stop)[None, :]
    filtered = _kernel(interpolation, (pixel - centre + 0.5) * (1.0 / wide))
    filtered = np.where((pixel >= first) & (pixel < last), filtered, 0.0)
    fixed = filtered / filtered.sum(axis=1, keepdims=True) * (1 << BITS)
    return read, np.trunc(fixed + np.copysign(0.5, fixed)).astype(np.int32)


def _kernel(interpolation: str, x: np.ndarray) -> np.ndarray:
    """PIL's filters, at distances in units of their stretched pixel."""
    if interpolation == "box":
        return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)
    if interpolation == "lanczos":
        return np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0.0)
    x = np.abs(x)
    if interpolation == "hamming":
        return np.where(x < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0.0)
    if interpolation == "bilinear":
        return np.where(x < 1, 1 - x, 0.0)
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
