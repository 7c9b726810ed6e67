"""The autoencoder of latent diffusion whose latents are rows of a codebook (VQ-VAE, arXiv 1711.00937; VQGAN, arXiv 2012.09841).

    h = quant(encoder(x)),   zq = e_k with k = argmin_k |h - e_k|^2,   x' = decoder(post_quant(zq))

Diffusion sees h, the latents before they are quantised; decoding quantises first (arXiv 2112.10752, section 3.2). The gradient
passes zq as though it were h (straight through). With sg the stop of gradients, the two terms that train encoder and
codebook are means over an example's numbers,

    commitment = mean((sg(zq) - h)^2),   codebook = mean((zq - sg(h))^2),

and equation 3 of VQ-VAE weighs the first by beta. The published weights of VQGAN and latent diffusion were trained with beta on
the second (`legacy`, which is what diffusers computes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.unet.convolution import Conv
from diffusion_jax.nets.vae.autoencoder_kl import coders
from diffusion_jax.nets.vae.coders import Decoder, Encoder, check_channels, check_sizes, factor_of
from diffusion_jax.typing import pytree_dataclass

__all__ = ["VQ", "Quantized"]

Maps: TypeAlias = Float[Array, "batch height width channels"]
Made: TypeAlias = Float[Array, "batch _ _ _"]
BETA = 0.25


@pytree_dataclass
class Quantized:
    """`zq` [batch, height, width, dim], rows of the codebook at `indices` [batch, height, width], with the gradient of the
    latents; `commitment` and `codebook` [batch], the terms of the loss."""

    # Any, not Array: JAX's transformations also put shapes and placeholders into a tree's leaves.
    zq: Any
    indices: Any
    commitment: Any
    codebook: Any

    def loss(self, beta: float = BETA, *, legacy: bool = True) -> Float[Array, " batch"]:
        """commitment + beta codebook as published models were trained, or beta commitment + codebook as VQ-VAE says."""
        return self.commitment + beta * self.codebook if legacy else beta * self.commitment + self.codebook


class Codebook(nnx.Module):
    """`codes` rows of `dim` numbers, which begin uniform in [-1 / codes, 1 / codes]."""

    def __init__(self, codes: int, dim: int, rngs: nnx.Rngs) -> None:
        self.rows = nnx.Param(
            jax.random.uniform(rngs.params(), (codes, dim), jnp.float32, minval=-1 / codes, maxval=1 / codes)
        )

    def __call__(self, h: Maps) -> Quantized:
        """Each latent's nearest row, the first of equally near ones."""
        h, rows = h.astype(jnp.float32), jnp.asarray(self.rows[...])
        # |h|^2 is the same for all rows. In full precision on every backend: two near rows differ in the last digits.
        cross = jnp.einsum("bhwd,nd->bhwn", h, rows, precision=jax.lax.Precision.HIGHEST)
        indices = jnp.argmin(jnp.sum(rows**2, axis=-1)[None, None, None] - 2 * cross, axis=-1)
        zq, stop = rows[indices], jax.lax.stop_gradient
        return Quantized(
            zq=stop(zq) + (h - stop(h)),
            indices=indices,
            commitment=jnp.mean((stop(zq) - h) ** 2, axis=(1, 2, 3)),
            codebook=jnp.mean((zq - stop(h)) ** 2, axis=(1, 2, 3)),
        )


class VQ(nnx.Module):
    """Pictures [batch, height, width, in_channels] in [-1, 1] <-> latents [batch, height / f, width / f, dim].

    `codes` and `dim` are the codebook's, `dim` None as wide as the encoder's `latent_channels`; the other options and what is
    raised as `AutoencoderKL`.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        channels: Sequence[int] = (128, 256, 512),
        layers: int = 2,
        latent_channels: int = 3,
        codes: int = 8192,
        dim: int | None = None,
        groups: int = 32,
        act: str = "silu",
        attends: bool | Sequence[bool] = False,
        up_attends: bool | Sequence[bool] | None = None,
        middle_attention: bool = True,
        norm: str = "saved",
        dtype: Any = jnp.float32,
        remat: str | None = None,
    ) -> None:
        how = coders(channels, layers, groups, act, attends, up_attends, middle_attention, norm, dtype, remat)
        self.in_channels, self.dim = in_channels, dim or latent_channels
        self.factor = factor_of(how.channels)
        self.encoder = Encoder(in_channels, latent_channels, how, rngs)
        self.decoder = Decoder(latent_channels, out_channels, how, rngs)
        self.quant = Conv(latent_channels, self.dim, 1, rngs)
        self.post_quant = Conv(self.dim, latent_channels, 1, rngs)
        self.codebook = Codebook(codes, self.dim, rngs)

    def encode(self, x: Maps, *, key: Array | None = None, train: bool = False) -> Made:
        """Pictures -> latents before they are quantised."""
        check_channels("pictures", x.shape[-1], self.in_channels)
        check_sizes(x.shape[1], x.shape[2], self.factor)
        return self.quant(self.encoder(x))

    def quantize(self, h: Maps, *, key: Array | None = None, train: bool = False) -> Quantized:
        """Latents -> the codebook's rows and what the loss needs of them."""
        check_channels("latents", h.shape[-1], self.dim)
        return self.codebook(h)

    def decode(self, h: Maps, *, key: Array | None = None, train: bool = False) -> Made:
        """Latents, quantised or not -> pictures, float32, not clipped: the codebook's rows nearest to them are decoded."""
        return self._decoded(self.quantize(h))

    def _decoded(self, quantized: Quantized) -> Made:
        return self.decoder(self.post_quant(quantized.zq))

    def __call__(self, x: Maps, *, key: Array | None = None, train: bool = False) -> tuple[Made, Quantized]:
        """(pictures there and back, what their latents were quantised to)."""
        quantized = self.quantize(self.encode(x))
        return self._decoded(quantized), quantized
