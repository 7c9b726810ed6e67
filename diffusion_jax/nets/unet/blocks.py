"""The residual block of a U-Net (arXiv 2006.11239, section 4 and appendix B; ADM: arXiv 2105.05233, section 3).

With e the embedding of time and condition and `modulation` "shift",

    h = conv1(resample(act(norm1(x)))) + linear(act(e))
    y = (shortcut(resample(x)) + conv2(dropout(act(norm2(h))))) / out_scale;

with "scale_shift" (adaptive group norm of ADM, section 3 there) linear gives a scale and a shift, and instead

    h = norm2(conv1(...)) (1 + scale) + shift.

`shortcut` is a 1x1 convolution where the widths differ, else nothing. conv2 begins at zero, so that the block begins as its
shortcut. out_scale sqrt(2) keeps the variance (score SDEs, arXiv 2011.13456, appendix H; EDM, arXiv 2206.00364, table 7).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.layers import Linear, dropout, gelu
from diffusion_jax.nets.unet.convolution import FILTERS, Conv, GroupNorm, double, halve
from diffusion_jax.typing import one_of

__all__ = ["ACTIVATIONS", "ResBlock", "activation"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": gelu,
    "relu": jax.nn.relu,
    "mish": jax.nn.mish,
}
_zeros = jax.nn.initializers.zeros


def activation(name: str) -> Callable[[Array], Array]:
    """The activation of a name; "swish" is another for "silu". UserError for an unknown one."""
    name = "silu" if name == "swish" else name
    return ACTIVATIONS[one_of("activation", name, ACTIVATIONS)]


class ResBlock(nnx.Module):
    """One residual block; see the module's docstring for what it computes.

    `embedding` is the width of e, None for a block that hears nothing. `groups` are those of the two norms. `resample` is None,
    "up" or "down", by the `filter` "box" or "binomial". `activate` says whether e goes through the activation here, as
    everywhere but where it did before. `shortcut` None is a convolution where the widths differ; it computes, and its sum is,
    in `shortcut_dtype`, by default `dtype`.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        embedding: int | None,
        rngs: nnx.Rngs,
        *,
        groups: tuple[int, int] = (32, 32),
        eps: float = 1e-5,
        act: str = "silu",
        modulation: str = "shift",
        activate: bool = True,
        resample: str | None = None,
        filter: str = "box",
        shortcut: bool | None = None,
        out_scale: float = 1.0,
        dropout_rate: float = 0.0,
        norm: str = "saved",
        dtype: Any = jnp.float32,
        shortcut_dtype: Any = None,
    ) -> None:
        self.modulation = one_of("modulation", modulation, ("shift", "scale_shift"))
        self.resample = None if resample is None else one_of("resample", resample, ("up", "down"))
        self.taps = FILTERS[one_of("filter", filter, FILTERS)]
        self.act, self.activate, self.out_scale, self.dropout_rate = activation(act), activate, out_scale, dropout_rate
        self.norm1 = GroupNorm(features_in, groups[0], eps=eps, norm=norm, dtype=dtype)
        self.conv1 = Conv(features_in, features_out, 3, rngs, dtype=dtype)
        told = features_out * (2 if modulation == "scale_shift" else 1)
        self.embed = None if embedding is None else Linear(embedding, told, rngs, dtype=dtype)
        self.norm2 = GroupNorm(features_out, groups[1], eps=eps, norm=norm, dtype=dtype)
        self.conv2 = Conv(features_out, features_out, 3, rngs, kernel_init=_zeros, dtype=dtype)
        projects = features_in != features_out if shortcut is None else shortcut
        own = dtype if shortcut_dtype is None else shortcut_dtype
        self.shortcut = Conv(features_in, features_out, 1, rngs, dtype=own) if projects else None

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        e: Float[Array, "batch embedding"] | None = None,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Array:
        """[batch, height, width, in] -> [batch, height', width', out]."""
        h = self.act(self.norm1(x))
        if self.resample is not None:
            change = double if self.resample == "up" else halve
            x, h = change(x.astype(h.dtype), self.taps), change(h, self.taps)
        h, scale = self.conv1(h), None
        if self.embed is not None and e is not None:
            told = self.embed(self.act(e) if self.activate else e)[:, None, None]
            if self.modulation == "shift":
                h = h + told
            else:
                scale, shift = jnp.split(told, 2, axis=-1)
        h = self.norm2(h)
        if scale is not None:
            h = h * (1 + scale) + shift
        h = self.conv2(dropout(self.act(h), self.dropout_rate, key, train))
        y = (x if self.shortcut is None else self.shortcut(x)) + h
        return y if self.out_scale == 1.0 else y / self.out_scale
