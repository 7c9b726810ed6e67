"""GLIDE: ADM's U-Net with a text transformer of its own (arXiv 2112.10741, sections 4.1 and 4.2).

The transformer sees all words at once; places behind the text have learned vectors in place of a word. Its last position,
whatever stands there, is mapped into the U-Net's embedding, and all positions are attended to by the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.attention import Block
from diffusion_jax.nets.entries import entry
from diffusion_jax.nets.functional import Stack
from diffusion_jax.nets.layers import LayerNorm, gelu
from diffusion_jax.nets.unet.unet import UNet

__all__ = ["GLIDE"]


class GLIDE(nnx.Module):
    """Noised images [batch, height, width, channels], time [batch], words -> the prediction, float32.

    The condition has `words` [batch, context_length], ids in a vocabulary of `vocabulary_size`, and `length` [batch], how many
    of them are the text; an upsampler's `image`, as `UNet`'s, of `image` channels. `unet` are keywords of `UNet`, whose levels
    attend by "added".
    """

    reads: ClassVar[tuple[str, ...]] = ("words", "length", "image")

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        in_channels: int,
        out_channels: int | None = None,
        vocabulary_size: int = 50257,
        context_length: int = 128,
        text_width: int = 512,
        text_layers: int = 16,
        text_heads: int = 8,
        image: int | None = None,
        unet: Mapping[str, Any] = MappingProxyType({}),
        dropout_rate: float = 0.0,
        scan: bool = False,
        remat: str | None = None,
        norm: str = "saved",
        dtype: Any = jnp.float32,
    ) -> None:
        small, smaller = jax.nn.initializers.normal(0.02), jax.nn.initializers.normal(0.01)
        self.dtype = dtype
        self.word_embedding = nnx.Param(small(rngs.params(), (vocabulary_size, text_width), jnp.float32))
        self.positional_embedding = nnx.Param(smaller(rngs.params(), (context_length, text_width), jnp.float32))
        self.padding_embedding = nnx.Param(smaller(rngs.params(), (context_length, text_width), jnp.float32))

        def block(rngs: nnx.Rngs) -> Block:
            return Block(
                text_width, text_heads, rngs, activation=gelu, attention_init={}, mlp_init={}, norm=norm, dtype=dtype
            )

        self.blocks = Stack(block, text_layers, rngs, scan=scan, remat=remat)
        self.norm_text = LayerNorm(text_width, norm=norm, dtype=dtype)
        self.unet = UNet(
            rngs, in_channels=in_channels, out_channels=out_channels, image=image, tokens=text_width, pooled=text_width,
            dropout_rate=dropout_rate, scan=scan, remat=remat, norm=norm, dtype=dtype, **dict(unet),
        )  # fmt: skip

    def __call__(
        self,
        xt: Float[Array, "batch height width channels"],
        t: Float[Array, " batch"],
        cond: dict[str, Array] | None = None,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch height width out"]:
        """The prediction; `t` in steps, as ADM's. UserError for a condition that lacks an entry."""
        words, length = entry(cond, "words"), entry(cond, "length")
        x = jnp.take(self.word_embedding[...], words, axis=0)
        x = x + jnp.broadcast_to(self.positional_embedding[...], x.shape)
        behind = jnp.arange(words.shape[1])[None] >= length[:, None]
        x = jnp.where(behind[..., None], jnp.broadcast_to(self.padding_embedding[...], x.shape), x)
        text = self.norm_text(self.blocks(x.astype(self.dtype), key=key, train=train))
        told = {"tokens": text, "pooled": text[:, -1]}
        if self.unet.image is not None:
            told["image"] = entry(cond, "image")
        return self.unet(xt, t, told, key=key, train=train)
