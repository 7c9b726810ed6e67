"""A learned uncertainty of the loss at each noise level (EDM2, arXiv 2312.02696, eq. 21 and 22).

With u(t) learned beside the network, the loss L(t) becomes L / e^u + u. Its derivative in u, 1 - L / e^u, vanishes in
the mean where u = log E[L(t)]: then every noise level contributes a gradient of the same size, whatever the weighting
and however the loss changes as training goes on. It is the negative log-likelihood of a Gaussian error whose variance
is e^u, up to constants (arXiv 1705.07115).

u is linear in Fourier features sqrt(2) cos(f_k c + phase_k) of c = -logsnr / 8 (EDM's c_noise). f_k / 2 pi are the
quantiles of the standard normal and the phases are spread by the golden ratio: nothing but the line is learned or
stored, and u begins at 0, where the loss is the plain one.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion_jax.typing import Params, UserError

__all__ = ["init", "log_variance", "uncertain"]

GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def init(channels: int = 128) -> Params:
    """The parameters for `channels` Fourier features, at least 1: u = 0 everywhere."""
    if not isinstance(channels, int) or channels < 1:
        raise UserError(f"channels {channels!r} of the uncertainty are not a whole number of at least 1")
    return {"weight": jnp.zeros((channels,), jnp.float32), "bias": jnp.zeros((), jnp.float32)}


def log_variance(params: Params, logsnr: Float[Array, " batch"]) -> Float[Array, " batch"]:
    """u of each logsnr [batch]."""
    channels = params["weight"].shape[0]
    index = jnp.arange(channels, dtype=logsnr.dtype)
    frequency = 2.0 * math.pi * jax.scipy.special.ndtri((index + 0.5) / channels)
    phase = 2.0 * math.pi * ((index * GOLDEN) % 1.0)
    c_noise = -0.125 * logsnr
    features = math.sqrt(2.0) * jnp.cos(c_noise[:, None] * frequency[None] + phase[None])
    # Divided by the root of the width, so that u moves at the same rate whatever the number of features.
    return features @ params["weight"].astype(logsnr.dtype) / math.sqrt(channels) + params["bias"]


def uncertain(loss: Float[Array, " batch"], log_variance: Float[Array, " batch"]) -> Float[Array, " batch"]:
    """loss / e^u + u, in which u = log E[loss] is best; it may be negative."""
    return loss * jnp.exp(-log_variance) + log_variance
