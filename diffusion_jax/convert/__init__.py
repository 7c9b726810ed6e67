"""Weights of other libraries <-> plain dicts of arrays."""

from diffusion_jax.convert.clip import FORMATS, load_clip, save_clip
from diffusion_jax.convert.positions import resize_image, resize_positions, resize_text

__all__ = ["FORMATS", "load_clip", "resize_image", "resize_positions", "resize_text", "save_clip"]
