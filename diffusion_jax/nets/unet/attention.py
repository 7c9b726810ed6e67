"""Attention over the pixels of a feature map: to one another, and to a text.

Three kinds are published, and their names here are

- "attention": pixels to pixels after a group norm (arXiv 2006.11239, appendix B; ADM, arXiv 2105.05233, section 3.1);
- "added": pixels to the tokens of a text and to pixels in one softmax, with keys and values of the text by maps of their own
  (GLIDE, arXiv 2112.10741, section 3; DALL-E 2 and Karlo);
- "cross": a spatial transformer of Stable Diffusion (latent diffusion, arXiv 2112.10752, section 3.3 and appendix E.2.1): group
  norm, a map in, blocks of self-attention, cross-attention to the text and a gated MLP, a map out, all added to what came in.

A text is [batch, keys, context] with `length` [batch], the number of keys that count, all where it is None.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from diffusion_jax.nets.attention import attend
from diffusion_jax.nets.functional import Stack
from diffusion_jax.nets.layers import LayerNorm, Linear, dropout, gelu
from diffusion_jax.nets.unet.convolution import GroupNorm, nearest_divisor
from diffusion_jax.typing import UserError, one_of

__all__ = ["AddedAttention", "PixelAttention", "SpatialTransformer"]

Maps: TypeAlias = Float[Array, "batch height width channels"]
Made: TypeAlias = Float[Array, "batch _ _ _"]
_zeros = jax.nn.initializers.zeros
CROSS_NORMS = (None, "layer_norm", "group_norm")


def _heads(x: Array, heads: int) -> Array:
    return x.reshape(*x.shape[:-1], heads, -1)


def _divides(what: str, channels: int, heads: int) -> None:
    if heads < 1 or channels % heads:
        raise UserError(
            f"{what}: {channels} channels are not divided by {heads} heads; nearest: {nearest_divisor(channels, heads)}"
        )


class PixelAttention(nnx.Module):
    """Pixels to pixels: (x + out(attention(qkv(norm(x))))) / out_scale. `groups` None leaves the norm out."""

    def __init__(
        self,
        channels: int,
        heads: int,
        rngs: nnx.Rngs,
        *,
        groups: int | None = 32,
        eps: float = 1e-5,
        out_scale: float = 1.0,
        norm: str = "saved",
        dtype: Any = jnp.float32,
    ) -> None:
        _divides("attention", channels, heads)
        self.heads, self.out_scale = heads, out_scale
        self.norm = None if groups is None else GroupNorm(channels, groups, eps=eps, norm=norm, dtype=dtype)
        self.qkv = Linear(channels, 3 * channels, rngs, dtype=dtype)
        self.out = Linear(channels, channels, rngs, kernel_init=_zeros, dtype=dtype)

    def __call__(self, x: Maps) -> Made:
        """[batch, height, width, channels] -> the same."""
        b, h, w, c = x.shape
        y = (x if self.norm is None else self.norm(x)).reshape(b, h * w, c)
        q, k, v = (_heads(part, self.heads) for part in jnp.split(self.qkv(y), 3, axis=-1))
        y = x + self.out(attend(q, k, v).reshape(b, h * w, c)).reshape(x.shape)
        return y if self.out_scale == 1.0 else y / self.out_scale


class AddedAttention(nnx.Module):
    """Pixels to a text and to pixels: x + out(attention(q, [own keys, the text's], ...)), after a group norm of eps 1e-5.

    `only_text` leaves the pixels' own keys out. `text_norm` is None, "layer_norm" or "group_norm" of 32 groups, of a text
    as wide as the pixels.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        context: int,
        rngs: nnx.Rngs,
        *,
        groups: int = 32,
        only_text: bool = False,
        text_norm: str | None = None,
        norm: str = "saved",
        dtype: Any = jnp.float32,
    ) -> None:
        _divides("attention", channels, heads)
        self.heads = heads
        self.norm = GroupNorm(channels, groups, eps=1e-5, norm=norm, dtype=dtype)
        if text_norm is not None and context != channels:
            raise UserError(
                f"text_norm {text_norm!r} is over the level's {channels} channels, and the text has {context}"
            )
        self.text_norm = _text_norm(text_norm, context, norm, dtype)
        self.q = Linear(channels, channels, rngs, dtype=dtype)
        self.kv = None if only_text else Linear(channels, 2 * channels, rngs, dtype=dtype)
        self.text_kv = Linear(context, 2 * channels, rngs, dtype=dtype)
        self.out = Linear(channels, channels, rngs, kernel_init=_zeros, dtype=dtype)

    def __call__(self, x: Maps, text: Array, length: Array | None = None) -> Made:
        """x [batch, height, width, channels], text [batch, keys, context] -> as x."""
        b, h, w, c = x.shape
        y = self.norm(x).reshape(b, h * w, c)
        k, v = jnp.split(self.text_kv(text if self.text_norm is None else self.text_norm(text)), 2, axis=-1)
        if self.kv is not None:
            own_k, own_v = jnp.split(self.kv(y), 2, axis=-1)
            # The text last, so that a length hides its end.
            k, v = jnp.concatenate([own_k, k], axis=1), jnp.concatenate([own_v, v], axis=1)
            length = None if length is None else length + h * w
        y = attend(*(_heads(part, self.heads) for part in (self.q(y), k, v)), length=length)
        return x + self.out(y.reshape(b, h * w, c)).reshape(x.shape)


def _text_norm(name: str | None, width: int, norm: str, dtype: Any) -> nnx.Module | None:
    if name is None:
        return None
    one_of("text_norm", name, [kind for kind in CROSS_NORMS if kind])
    if name == "layer_norm":
        return LayerNorm(width, norm=norm, dtype=dtype)
    return GroupNorm(width, 32, eps=1e-5, norm=norm, dtype=dtype)


class _Attention(nnx.Module):
    """Attention of tokens to themselves or to a text, without biases before the softmax."""

    def __init__(self, width: int, heads: int, context: int | None, rngs: nnx.Rngs, *, dtype: Any) -> None:
        self.heads = heads
        if context is None:
            self.qkv = Linear(width, 3 * width, rngs, bias_init=None, dtype=dtype)
        else:
            self.q = Linear(width, width, rngs, bias_init=None, dtype=dtype)
            self.kv = Linear(context, 2 * width, rngs, bias_init=None, dtype=dtype)
        self.out = Linear(width, width, rngs, dtype=dtype)
        self.cross = context is not None

    def __call__(self, x: Array, text: Array | None, length: Array | None) -> Array:
        if self.cross:
            assert text is not None
            q, (k, v) = self.q(x), jnp.split(self.kv(text), 2, axis=-1)
        else:
            (q, k, v), length = jnp.split(self.qkv(x), 3, axis=-1), None
        y = attend(*(_heads(part, self.heads) for part in (q, k, v)), length=length)
        return self.out(y.reshape(x.shape))


class TransformerBlock(nnx.Module):
    """x + attn1(norm1(x)), x + attn2(norm2(x), text), x + out(a gelu(b)) with (a, b) = in(norm3(x)): GEGLU, arXiv 2002.05202.

    `context` None has no attn2; `only_text` lets attn1 look at the text as well.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context: int | None,
        rngs: nnx.Rngs,
        *,
        only_text: bool,
        dropout_rate: float,
        norm: str,
        dtype: Any,
    ) -> None:
        self.dropout_rate = dropout_rate
        self.norm1 = LayerNorm(width, norm=norm, dtype=dtype)
        self.attn1 = _Attention(width, heads, context if only_text else None, rngs, dtype=dtype)
        self.norm2 = None if context is None else LayerNorm(width, norm=norm, dtype=dtype)
        self.attn2 = None if context is None else _Attention(width, heads, context, rngs, dtype=dtype)
        self.norm3 = LayerNorm(width, norm=norm, dtype=dtype)
        self.ff_in = Linear(width, 8 * width, rngs, dtype=dtype)
        self.ff_out = Linear(4 * width, width, rngs, dtype=dtype)

    def __call__(
        self, x: Array, text: Array | None, length: Array | None, *, key: Array | None = None, train: bool = False
    ) -> Array:
        """[batch, tokens, width] -> the same."""
        keys = [None] * 3 if key is None else list(jax.random.split(key, 3))

        def drop(y: Array, at: int) -> Array:
            return dropout(y, self.dropout_rate, keys[at], train)

        x = x + drop(self.attn1(self.norm1(x), text, length), 0)
        if self.attn2 is not None and self.norm2 is not None:
            x = x + drop(self.attn2(self.norm2(x), text, length), 1)
        y, gate = jnp.split(self.ff_in(self.norm3(x)), 2, axis=-1)
        return x + self.ff_out(drop(y * gelu(gate), 2))


class SpatialTransformer(nnx.Module):
    """x + out(blocks(in(norm(x)))) over the pixels as tokens; the norm has eps 1e-6.

    The maps in and out are 1x1 convolutions in some published layouts and linear in others, which is the same.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        context: int | None,
        rngs: nnx.Rngs,
        *,
        layers: int = 1,
        groups: int = 32,
        only_text: bool = False,
        dropout_rate: float = 0.0,
        scan: bool = False,
        remat: str | None = None,
        norm: str = "saved",
        dtype: Any = jnp.float32,
    ) -> None:
        _divides("a spatial transformer", channels, heads)
        self.norm = GroupNorm(channels, groups, eps=1e-6, norm=norm, dtype=dtype)
        self.proj_in = Linear(channels, channels, rngs, dtype=dtype)

        def block(rngs: nnx.Rngs) -> TransformerBlock:
            return TransformerBlock(
                channels, heads, context, rngs, only_text=only_text, dropout_rate=dropout_rate, norm=norm, dtype=dtype
            )

        self.blocks = Stack(block, layers, rngs, scan=scan, remat=remat)
        self.proj_out = Linear(channels, channels, rngs, kernel_init=_zeros, dtype=dtype)

    def __call__(
        self,
        x: Maps,
        text: Float[Array, "batch keys context"] | None = None,
        length: Int[Array, " batch"] | None = None,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Made:
        """x [batch, height, width, channels] -> the same."""
        b, h, w, c = x.shape
        y = self.proj_in(self.norm(x).reshape(b, h * w, c))
        y = self.blocks(y, text, length, key=key, train=train)
        return x + self.proj_out(y).reshape(x.shape)
