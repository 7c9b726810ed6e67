"""The peak signal-to-noise ratio: how well images keep the pixels that they were given.

    10 log10(peak^2 / mean squared error)   in dB, of each image by itself; the peak of images in [-1, 1] is 2

What is beyond the range is clipped first, as it is when a picture is written. The rounding to 256 levels alone is 58.9 dB, and
no difference at all is said as 120.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["psnr"]

PEAK, LEAST = 2.0, 4e-12  # the range of [-1, 1], and the squared error that is taken for none


def psnr(
    images: Float[np.ndarray, "n h w c"],
    given: Float[np.ndarray, "n h w c"],
    counted: Bool[np.ndarray, "n h w one"] | None = None,
) -> Float[np.ndarray, " n"]:
    """The PSNR in dB of each of `images` in [-1, 1] to what was `given`, over the pixels that are `counted` (all by default).

    NaN for an image of which no pixel counts.
    """
    squared = (np.clip(images, -1.0, 1.0).astype(np.float64) - given) ** 2
    weight = np.ones_like(squared) if counted is None else np.broadcast_to(counted, squared.shape).astype(np.float64)
    total, count = (squared * weight).sum(axis=(1, 2, 3)), weight.sum(axis=(1, 2, 3))
    error = np.maximum(total / np.maximum(count, 1.0), LEAST)
    return np.where(count > 0, 10.0 * np.log10(PEAK**2 / error), np.nan)
