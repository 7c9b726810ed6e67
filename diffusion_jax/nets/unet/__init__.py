"""U-Nets: blocks, the network of every family, EDM2's, and the published sizes by name."""

from diffusion_jax.nets.unet.complete import complete_unet
from diffusion_jax.nets.unet.config import ConfigUNet, unet_keywords
from diffusion_jax.nets.unet.edm2 import EDM2UNet, unit_filters
from diffusion_jax.nets.unet.glide import GLIDE
from diffusion_jax.nets.unet.presets import UNET_MODELS, unet_model
from diffusion_jax.nets.unet.unet import UNet

__all__ = [
    "GLIDE",
    "UNET_MODELS",
    "ConfigUNet",
    "EDM2UNet",
    "UNet",
    "complete_unet",
    "unet_keywords",
    "unet_model",
    "unit_filters",
]
