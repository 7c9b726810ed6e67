"""Structural similarity: closed forms, and windows worked out by hand."""

import numpy as np
import pytest

from diffusion_jax.metrics import ssim
from diffusion_jax.typing import UserError

C1, C2 = 0.02**2, 0.06**2


def picture(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def test_the_same_picture_is_one_and_flat_ones_are_their_means():
    x = picture(3, 16, 16, 3)
    np.testing.assert_allclose(ssim(x, x), 1.0, rtol=1e-6)
    a, b = np.full((2, 12, 12, 1), 0.5, np.float32), np.full((2, 12, 12, 1), -0.25, np.float32)
    np.testing.assert_allclose(ssim(a, b), (2 * 0.5 * -0.25 + C1) / (0.25 + 0.0625 + C1), rtol=1e-5)
    np.testing.assert_allclose(ssim(5 * a, a + 0.5), 1.0)  # both beyond the range: white


def test_inverted_contrast_is_minus_what_it_was():
    """y = -x of zero mean in the window: the first factor is 1 and the second (c2 - 2 s^2) / (c2 + 2 s^2)."""
    x = np.asarray([1.0, -1.0] * 2, np.float32).reshape(1, 2, 2, 1) * 0.5
    wide = 1e6  # a window of equal weights
    np.testing.assert_allclose(ssim(x, -x, size=2, deviation=wide), (C2 - 0.5) / (C2 + 0.5), rtol=1e-5)


def test_windows_by_hand():
    """3 x 3 windows of Gaussian weights over 4 x 5 pixels, each by its sums."""
    x, y = picture(1, 4, 5, 1), picture(2, 4, 5, 1)[1:]
    line = np.exp(-0.5 * (np.array([-1.0, 0.0, 1.0]) / 1.5) ** 2)
    weights = np.outer(line, line) / np.outer(line, line).sum()
    scores = []
    for i in range(2):
        for j in range(3):
            a, b = (one[0, i : i + 3, j : j + 3, 0].astype(np.float64) for one in (x, y))
            m, n = (weights * a).sum(), (weights * b).sum()
            s, t, c = (
                (weights * (a - m) ** 2).sum(),
                (weights * (b - n) ** 2).sum(),
                (weights * (a - m) * (b - n)).sum(),
            )
            scores.append((2 * m * n + C1) * (2 * c + C2) / ((m * m + n * n + C1) * (s + t + C2)))
    np.testing.assert_allclose(ssim(x, y, size=3), np.mean(scores), rtol=1e-6)


def test_a_window_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="8 x 12 are smaller than SSIM's window of 11; nearest: 8"):
        ssim(picture(1, 8, 12, 1), picture(1, 8, 12, 1))
