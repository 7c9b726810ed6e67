"""Contrastive losses over the global batch."""

from diffusion_jax.contrastive.infonce import infonce, logits

__all__ = ["infonce", "logits"]
