"""The data of a diffusion config as examples: arrays as they are."""

from __future__ import annotations

from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.typing import Source

__all__ = ["examples"]


def examples(config: ConfigDict, split: str) -> Source:
    """The examples of a split, "train", "validation" or "test"."""
    return build.source(config.data, split)
