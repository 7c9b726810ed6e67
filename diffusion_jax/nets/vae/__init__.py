"""The autoencoders of latent diffusion: with normal latents, with a codebook, by tiles, and the published sizes by name."""

from diffusion_jax.nets.vae.autoencoder_kl import AutoencoderKL, Posterior
from diffusion_jax.nets.vae.presets import VAE_MODELS, complete_vae, vae_keywords, vae_model
from diffusion_jax.nets.vae.tiles import sliced, tiled
from diffusion_jax.nets.vae.vq import VQ, Quantized

__all__ = [
    "VAE_MODELS",
    "VQ",
    "AutoencoderKL",
    "Posterior",
    "Quantized",
    "complete_vae",
    "sliced",
    "tiled",
    "vae_keywords",
    "vae_model",
]
