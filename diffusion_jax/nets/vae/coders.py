"""The two halves of an autoencoder for pictures (latent diffusion, arXiv 2112.10752, appendix G; VQGAN, arXiv 2012.09841).

    encoder: conv_in; levels of residual blocks, each halved but the last; middle; norm, SiLU, conv_out
    decoder: conv_in; middle; levels with one block more, the coarsest first, each doubled but the last; norm, SiLU, conv_out

The blocks are a U-Net's that hear nothing, with norms of eps 1e-6; there are no skips. What halves is a 3x3 convolution of
stride 2 with one row of zeros below and one column to the right.

What `dtype` says is how the 3x3 convolutions of the levels compute. In float32, whatever it is: the sums of the residual
blocks, which in Stable Diffusion XL's decoder are beyond what float16 holds, with the 1x1 convolutions in them; norms;
attention, whose one head of all channels has large scores; both ends, since the last one's output is the picture, or the
logarithm of a variance.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.functional import called
from diffusion_jax.nets.unet.attention import PixelAttention
from diffusion_jax.nets.unet.blocks import ResBlock
from diffusion_jax.nets.unet.convolution import Conv, GroupNorm, Resample
from diffusion_jax.typing import UserError

__all__ = ["Coders", "Decoder", "Encoder", "check_channels", "check_sizes", "factor_of", "nearest_multiple"]

Maps: TypeAlias = Float[Array, "batch height width channels"]
Made: TypeAlias = Float[Array, "batch _ _ _"]
EPS = 1e-6
_DTYPES = (jnp.dtype("float32"), jnp.dtype("bfloat16"))


@dataclasses.dataclass(frozen=True)
class Coders:
    """What both halves share. `channels` are the widths of the levels, the finest first; `attends` says which of them have
    attention after each block on the way down, `up_attends` on the way up, in the same order."""

    channels: tuple[int, ...]
    layers: int
    groups: int
    act: str
    attends: tuple[bool, ...]
    up_attends: tuple[bool, ...]
    middle_attention: bool
    norm: str
    dtype: Any
    remat: str | None

    def __post_init__(self) -> None:
        for name in ("attends", "up_attends"):
            said = getattr(self, name)
            if len(said) != len(self.channels):
                raise UserError(f"{name} are {len(said)} for {len(self.channels)} levels of channels {self.channels}")
        if jnp.dtype(self.dtype) not in _DTYPES:
            raise UserError(
                f"dtype {jnp.dtype(self.dtype).name!r}: an autoencoder computes in float32 or bfloat16, for published ones "
                "overflow in float16; nearest: 'bfloat16'"
            )

    def block(self, features_in: int, width: int, rngs: nnx.Rngs) -> ResBlock:
        """A residual block."""
        groups = (self.groups, self.groups)
        return ResBlock(
            features_in, width, None, rngs, groups=groups, eps=EPS, act=self.act, norm=self.norm, dtype=self.dtype,
            shortcut_dtype=jnp.float32,
        )  # fmt: skip

    def attention(self, width: int, rngs: nnx.Rngs) -> PixelAttention:
        """One head of all channels, in float32."""
        return PixelAttention(width, 1, rngs, groups=self.groups, eps=EPS, norm=self.norm)


class _Level(nnx.Module):
    """Blocks at one resolution, with attention after each where it attends, and what changes the size after them."""

    def __init__(
        self, features_in: int, width: int, count: int, attends: bool, way: str | None, how: Coders, rngs: nnx.Rngs
    ) -> None:
        self.remat = how.remat
        self.blocks = nnx.List([how.block(width if at else features_in, width, rngs) for at in range(count)])
        self.attentions = nnx.List([how.attention(width, rngs) for _ in range(count if attends else 0)])
        self.change = None if way is None else Resample(width, way, rngs, padding=0, dtype=how.dtype)

    def __call__(self, x: Maps) -> Made:
        """[batch, height, width, in] -> [batch, height', width', width], float32."""
        for at in range(len(self.blocks)):
            x = called(self.blocks[at], self.remat, x).astype(jnp.float32)
            if len(self.attentions):
                x = called(self.attentions[at], self.remat, x)
        return x if self.change is None else self.change(x).astype(jnp.float32)


class _Middle(nnx.Module):
    """A block, attention, a block."""

    def __init__(self, how: Coders, rngs: nnx.Rngs) -> None:
        width, self.remat = how.channels[-1], how.remat
        self.blocks = nnx.List([how.block(width, width, rngs) for _ in range(2)])
        self.attention = how.attention(width, rngs) if how.middle_attention else None

    def __call__(self, x: Maps) -> Maps:
        x = called(self.blocks[0], self.remat, x)
        if self.attention is not None:
            x = called(self.attention, self.remat, x)
        return called(self.blocks[1], self.remat, x)


class _End(nnx.Module):
    """Norm, SiLU whatever the blocks' activation, convolution."""

    def __init__(self, width: int, features_out: int, how: Coders, rngs: nnx.Rngs) -> None:
        self.norm = GroupNorm(width, how.groups, eps=EPS, norm=how.norm)
        self.conv = Conv(width, features_out, 3, rngs)

    def __call__(self, x: Maps) -> Made:
        return self.conv(nnx.silu(self.norm(x)))


class Encoder(nnx.Module):
    """Pictures -> maps of `features_out` channels, 2^(levels - 1) times smaller."""

    def __init__(self, in_channels: int, features_out: int, how: Coders, rngs: nnx.Rngs) -> None:
        widths = how.channels
        self.conv_in = Conv(in_channels, widths[0], 3, rngs)
        self.down = nnx.List(
            [
                _Level(
                    widths[max(i - 1, 0)], width, how.layers, how.attends[i], "down" if i < len(widths) - 1 else None, how, rngs
                )
                for i, width in enumerate(widths)
            ]
        )  # fmt: skip
        self.middle = _Middle(how, rngs)
        self.end = _End(widths[-1], features_out, how, rngs)

    def __call__(self, x: Maps) -> Made:
        """[batch, height, width, in_channels] -> [batch, height / f, width / f, features_out], float32."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.end(self.middle(x))


class Decoder(nnx.Module):
    """Maps of `features_in` channels -> pictures, 2^(levels - 1) times larger. `up` begins with the coarsest level."""

    def __init__(self, features_in: int, out_channels: int, how: Coders, rngs: nnx.Rngs) -> None:
        widths, count = how.channels, len(how.channels)
        self.conv_in = Conv(features_in, widths[-1], 3, rngs)
        self.middle = _Middle(how, rngs)
        self.up = nnx.List(
            [
                _Level(
                    widths[min(i + 1, count - 1)], widths[i], how.layers + 1, how.up_attends[i], "up" if i else None, how, rngs
                )
                for i in reversed(range(count))
            ]
        )  # fmt: skip
        self.end = _End(widths[0], out_channels, how, rngs)

    def __call__(self, z: Maps) -> Made:
        """[batch, height, width, features_in] -> [batch, f height, f width, out_channels], float32."""
        x = self.middle(self.conv_in(z))
        for level in self.up:
            x = level(x)
        return self.end(x)


def factor_of(channels: tuple[int, ...]) -> int:
    """How many pixels of the picture a latent is high and wide."""
    return int(2 ** (len(channels) - 1))


def nearest_multiple(of: int, size: int) -> int:
    """The multiple of a number, itself at least, that is nearest to a size."""
    return max(round(size / of), 1) * of


def check_sizes(height: int, width: int, factor: int) -> None:
    """UserError, with the nearest size, for a picture that the levels do not halve."""
    if height < 1 or width < 1 or height % factor or width % factor:
        near = f"{nearest_multiple(factor, height)} x {nearest_multiple(factor, width)}"
        raise UserError(
            f"a picture of {height} x {width} is not halved {factor.bit_length() - 1} times: this autoencoder takes "
            f"multiples of {factor}; nearest: {near}"
        )


def check_channels(what: str, found: int, wanted: int) -> None:
    """UserError for arrays of another number of channels."""
    if found != wanted:
        raise UserError(f"{what} of {found} channels: this autoencoder takes {wanted}")
