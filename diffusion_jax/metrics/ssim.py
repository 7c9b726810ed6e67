"""The structural similarity of two pictures, SSIM (Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 13, 2004, eq. 13).

In a window around each pixel, with weights w that sum to 1, means m, variances s^2 and the covariance s_xy under w,

    SSIM = (2 m_x m_y + c1) (2 s_xy + c2) / ((m_x^2 + m_y^2 + c1) (s_x^2 + s_y^2 + c2)),    c1 = (.01 L)^2, c2 = (.03 L)^2

with L the range, 2 of pictures in [-1, 1]. w is a Gaussian of deviation 1.5 over 11 x 11 pixels (section III.B), only windows
that lie within the picture count, and each channel by itself; the score is the mean over windows and channels. 1 is the same
picture, and inverted contrast is below 0.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from diffusion_jax.typing import UserError

__all__ = ["ssim"]

RANGE, SIZE, DEVIATION = 2.0, 11, 1.5
C1, C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2


def _window(size: int, deviation: float) -> np.ndarray:
    """The Gaussian along one side, which sums to 1."""
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / deviation) ** 2)
    return line / line.sum()


def _means(x: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The weighted mean of each window within the pictures [n, h, w, c], by rows and then by columns."""
    for axis in (1, 2):
        count = x.shape[axis] - len(window) + 1
        x = sum(weight * np.take(x, np.arange(at, at + count), axis) for at, weight in enumerate(window))
    return x


def ssim(
    images: Float[np.ndarray, "n h w c"],
    given: Float[np.ndarray, "n h w c"],
    *,
    size: int = SIZE,
    deviation: float = DEVIATION,
) -> Float[np.ndarray, " n"]:
    """The SSIM of each of `images` in [-1, 1] to what was `given`, in [-1, 1]; what is beyond the range is clipped first.

    UserError for pictures that a window of `size` pixels does not fit into.
    """
    if min(images.shape[1:3]) < size:
        raise UserError(
            f"pictures of {images.shape[1]} x {images.shape[2]} are smaller than SSIM's window of {size}; nearest: "
            f"{min(images.shape[1:3])}"
        )
    x, y = (np.clip(one, -1.0, 1.0).astype(np.float64) for one in (images, given))
    window = _window(size, deviation)
    m_x, m_y, xx, yy, xy = (_means(part, window) for part in (x, y, x * x, y * y, x * y))
    s_x, s_y, s_xy = xx - m_x**2, yy - m_y**2, xy - m_x * m_y
    found = (2 * m_x * m_y + C1) * (2 * s_xy + C2) / ((m_x**2 + m_y**2 + C1) * (s_x + s_y + C2))
    return found.mean(axis=(1, 2, 3))
