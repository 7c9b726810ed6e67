"""Weights as a function of names and shapes, the same on every machine, so that goldens hold outputs only."""

import zlib

import numpy as np


def fill(shapes, seed=0):
    """{name: float32 array}: matrices at the scale that keeps activations near 1, gains near 1, variances above 0."""
    return {name: _array(name, tuple(shape), seed) for name, shape in shapes.items()}


def _array(name, shape, seed):
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name in ("logit_scale", "logit_bias"):
        return np.full(shape, {"logit_scale": 2.5, "logit_bias": -9.5}[name], np.float32)
    values = rng.standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return np.exp(0.3 * values)
    if len(shape) >= 2 and "embedding" not in name and "embed" not in name.rsplit(".", 1)[-1]:
        return values * np.float32(np.prod(shape[1:]) ** -0.5)
    if name.endswith("weight") and len(shape) == 1:
        return 1 + 0.2 * values
    return 0.3 * values


def inputs(image_size, vocabulary_size, context_length, seed=1):
    """(images [3, size, size, 3], tokens [3, context]): rows that end in the middle, at the end, and at once."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((3, image_size, image_size, 3)).astype(np.float32)
    tokens = rng.integers(1, vocabulary_size - 2, (3, context_length))
    for row, end in enumerate((context_length // 2, context_length - 1, 1)):
        tokens[row, end], tokens[row, end + 1 :] = vocabulary_size - 1, 0
    return images, tokens
