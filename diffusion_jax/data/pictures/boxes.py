"""Which part of a picture is seen in training: its place and size by chance."""

from __future__ import annotations

import numpy as np

__all__ = ["even_box", "random_box"]


def random_box(
    width: int, height: int, rng: np.random.Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a random part of an image; see `Preprocess.random_pixels`."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(*np.log(ratio)))
        wide, high = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            return int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1)), wide, high
    wide, high = min(width, max(1, round(height * ratio[1]))), min(height, max(1, round(width / ratio[0])))
    return (width - wide) // 2, (height - high) // 2, wide, high


def even_box(
    width: int, height: int, rng: np.random.Generator, scale: tuple[float, float], square: bool
) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a random square, or a part of the image's own aspect, anywhere in it.

    Its area is a share, uniform in `scale`, of the largest such part.
    """
    wide, high = (min(width, height),) * 2 if square else (width, height)
    share = np.sqrt(rng.uniform(*scale))
    wide, high = (max(1, round(side * share)) for side in (wide, high))
    return int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1)), wide, high
