"""The autoencoder of latent diffusion whose latents are drawn from a normal distribution (arXiv 2112.10752, appendix G).

    mean, logvar = quant(encoder(x)),   z ~ N(mean, exp(logvar)),   x' = decoder(post_quant(z))

with logvar clipped to [-30, 20]. `quant` and `post_quant` are maps from channels to channels of each latent by itself; Stable
Diffusion 3's and FLUX's autoencoders have none.

The distance of a posterior from N(0, 1), in nats an example (VAE, arXiv 1312.6114, appendix B):

    KL = 1/2 sum(mean^2 + exp(logvar) - 1 - logvar)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.unet.convolution import Conv
from diffusion_jax.nets.vae.coders import Coders, Decoder, Encoder, check_channels, check_sizes, factor_of
from diffusion_jax.typing import pytree_dataclass

__all__ = ["AutoencoderKL", "Posterior"]

Maps: TypeAlias = Float[Array, "batch height width channels"]
Made: TypeAlias = Float[Array, "batch _ _ _"]
LOGVAR = (-30.0, 20.0)


@pytree_dataclass
class Posterior:
    """A normal distribution of latents: `mean` and `logvar` [batch, height, width, channels], logvar within [-30, 20]."""

    # Any, not Array: JAX's transformations also put shapes and placeholders into a tree's leaves.
    mean: Any
    logvar: Any

    @staticmethod
    def of(moments: Float[Array, "batch height width twice"]) -> Posterior:
        """Of an encoder's output, means first: the second half of the channels is clipped."""
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return Posterior(mean, jnp.clip(logvar, *LOGVAR))

    def sample(self, key: Array) -> Maps:
        """mean + exp(logvar / 2) eps. `key` is one key for all, folded with the place in the batch, or a key an example."""
        keys = key
        if key.ndim == 0:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(self.mean.shape[0]))
        eps = jax.vmap(lambda key: jax.random.normal(key, self.mean.shape[1:], jnp.float32))(keys)
        return self.mean + jnp.exp(self.logvar / 2) * eps

    def kl(self) -> Float[Array, " batch"]:
        """The distance from N(0, 1) in nats, summed over an example's latents."""
        return 0.5 * jnp.sum(self.mean**2 + jnp.exp(self.logvar) - 1 - self.logvar, axis=(1, 2, 3))


class AutoencoderKL(nnx.Module):
    """Pictures [batch, height, width, in_channels] in [-1, 1] <-> latents [batch, height / f, width / f, latent_channels].

    f is 2^(levels - 1). `channels` are the widths of the levels, the finest first, with `layers` blocks each (one more on the
    way up), norms of `groups`; `attends` says which levels have attention beside the middle (`middle_attention`), one value or
    one a level, `up_attends` those on the way up where they are others. `quant` and `post_quant` say whether there are maps
    beside the latents. `dtype` is float32 or bfloat16, see `coders`; `remat` as `nets.functional.Stack`'s, for each block.

    Raises UserError for widths that `groups` do not divide, and for float16. The methods raise it for pictures whose sides are
    no multiples of f, and for other channels.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        channels: Sequence[int] = (128, 256, 512, 512),
        layers: int = 2,
        latent_channels: int = 4,
        groups: int = 32,
        act: str = "silu",
        attends: bool | Sequence[bool] = False,
        up_attends: bool | Sequence[bool] | None = None,
        middle_attention: bool = True,
        quant: bool = True,
        post_quant: bool = True,
        norm: str = "saved",
        dtype: Any = jnp.float32,
        remat: str | None = None,
    ) -> None:
        how = coders(channels, layers, groups, act, attends, up_attends, middle_attention, norm, dtype, remat)
        self.in_channels, self.latent_channels = in_channels, latent_channels
        self.factor = factor_of(how.channels)
        self.encoder = Encoder(in_channels, 2 * latent_channels, how, rngs)
        self.decoder = Decoder(latent_channels, out_channels, how, rngs)
        self.quant = Conv(2 * latent_channels, 2 * latent_channels, 1, rngs) if quant else None
        self.post_quant = Conv(latent_channels, latent_channels, 1, rngs) if post_quant else None

    def moments(self, x: Maps, *, key: Array | None = None, train: bool = False) -> Made:
        """Pictures -> [batch, height / f, width / f, 2 latent_channels]: means, then logvars as they are, unclipped."""
        check_channels("pictures", x.shape[-1], self.in_channels)
        check_sizes(x.shape[1], x.shape[2], self.factor)
        moments = self.encoder(x)
        return moments if self.quant is None else self.quant(moments)

    def encode(self, x: Maps, *, key: Array | None = None, train: bool = False) -> Posterior:
        """Pictures -> the distribution of their latents. Nothing is drawn."""
        return Posterior.of(self.moments(x))

    def decode(self, z: Maps, *, key: Array | None = None, train: bool = False) -> Made:
        """Latents -> pictures, float32, not clipped."""
        check_channels("latents", z.shape[-1], self.latent_channels)
        return self.decoder(z if self.post_quant is None else self.post_quant(z))

    def __call__(self, x: Maps, *, key: Array | None = None, train: bool = False) -> tuple[Made, Posterior]:
        """(pictures there and back, the posterior of their latents), through a sample with a `key`, the mean without."""
        posterior = self.encode(x)
        return self.decode(posterior.mean if key is None else posterior.sample(key)), posterior


def coders(
    channels: Sequence[int],
    layers: int,
    groups: int,
    act: str,
    attends: bool | Sequence[bool],
    up_attends: bool | Sequence[bool] | None,
    middle_attention: bool,
    norm: str,
    dtype: Any,
    remat: str | None,
) -> Coders:
    """What both halves share, one value a level where one is said for all."""

    def each(said: bool | Sequence[bool]) -> tuple[bool, ...]:
        return (said,) * len(channels) if isinstance(said, bool) else tuple(said)

    up = attends if up_attends is None else up_attends
    return Coders(tuple(channels), layers, groups, act, each(attends), each(up), middle_attention, norm, dtype, remat)
