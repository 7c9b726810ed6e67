"""Networks: flax.nnx modules inside, pure functions over plain dicts outside."""

from diffusion_jax.nets.clip import CLIP, CLIPOutput
from diffusion_jax.nets.dit import DiT
from diffusion_jax.nets.dit_presets import DIT_MODELS, dit_model
from diffusion_jax.nets.functional import Network, Stack, functional
from diffusion_jax.nets.mlp import MLP
from diffusion_jax.nets.presets import CLIP_MODELS, clip_model, complete
from diffusion_jax.nets.prior import PriorTransformer
from diffusion_jax.nets.prior_presets import PRIOR_MODELS, prior_model
from diffusion_jax.nets.resnet import ModifiedResNet
from diffusion_jax.nets.text import TextTransformer
from diffusion_jax.nets.unclip_text import TextProjection
from diffusion_jax.nets.unet import (
    GLIDE,
    UNET_MODELS,
    ConfigUNet,
    EDM2UNet,
    UNet,
    complete_unet,
    unet_keywords,
    unet_model,
    unit_filters,
)
from diffusion_jax.nets.vae import (
    VAE_MODELS,
    VQ,
    AutoencoderKL,
    Posterior,
    Quantized,
    complete_vae,
    sliced,
    tiled,
    vae_keywords,
    vae_model,
)
from diffusion_jax.nets.vector import VectorMLP
from diffusion_jax.nets.vit import TowerOutput, VisionTransformer

__all__ = [
    "CLIP",
    "CLIP_MODELS",
    "DIT_MODELS",
    "GLIDE",
    "MLP",
    "PRIOR_MODELS",
    "UNET_MODELS",
    "VAE_MODELS",
    "VQ",
    "AutoencoderKL",
    "CLIPOutput",
    "ConfigUNet",
    "DiT",
    "EDM2UNet",
    "ModifiedResNet",
    "Network",
    "Posterior",
    "PriorTransformer",
    "Quantized",
    "Stack",
    "TextProjection",
    "TextTransformer",
    "TowerOutput",
    "UNet",
    "VectorMLP",
    "VisionTransformer",
    "clip_model",
    "complete",
    "complete_unet",
    "complete_vae",
    "dit_model",
    "functional",
    "prior_model",
    "sliced",
    "tiled",
    "unet_keywords",
    "unet_model",
    "unit_filters",
    "vae_keywords",
    "vae_model",
]
