"""Contrastive losses over the global batch: sharded, in blocks, and with encoders run by micro-batches."""

from diffusion_jax.contrastive.accumulate import in_micro_batches
from diffusion_jax.contrastive.infonce import infonce, logits
from diffusion_jax.contrastive.ranks import found
from diffusion_jax.contrastive.sigmoid import sigmoid_loss

__all__ = ["found", "in_micro_batches", "infonce", "logits", "sigmoid_loss"]
