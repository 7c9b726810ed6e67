"""Weights of other libraries <-> plain dicts of arrays."""

from diffusion_jax.convert.clip import load_clip
from diffusion_jax.convert.clip_save import FORMATS, save_clip
from diffusion_jax.convert.lora import load_lora
from diffusion_jax.convert.lora_save import save_lora
from diffusion_jax.convert.positions import resize_image, resize_positions, resize_text

__all__ = [
    "FORMATS",
    "load_clip",
    "load_lora",
    "resize_image",
    "resize_positions",
    "resize_text",
    "save_clip",
    "save_lora",
]
