"""The levels of a U-Net: on the way down, in the middle, on the way up.

A level is `layers` residual blocks of one width, each followed by attention where the level has some, then a change of the
size. Everything that comes out on the way down, sizes included, is kept, and joined by channels to what goes into the blocks
on the way up, which are one more a level (arXiv 1505.04597; arXiv 2006.11239, appendix B).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from diffusion_jax.nets.functional import called
from diffusion_jax.nets.unet.attention import AddedAttention, PixelAttention, SpatialTransformer
from diffusion_jax.nets.unet.blocks import ResBlock
from diffusion_jax.nets.unet.convnext import ConvNextBlock
from diffusion_jax.nets.unet.convolution import Resample, double, halve
from diffusion_jax.typing import UserError, one_of

__all__ = ["KINDS", "RESAMPLES", "Down", "How", "Level", "Middle", "Told", "Up"]

KINDS = ("plain", "attention", "added", "cross")
RESAMPLES = ("conv", "resnet", "pool")
MIDDLES = (*KINDS, "single")


@dataclasses.dataclass(frozen=True)
class How:
    """What the levels of a network share; the names as the network's. `attention_groups` 0 is no norm, None as the blocks'."""

    embedding: int | None
    groups: int | None = 32
    attention_groups: int | None = None
    eps: float = 1e-5
    act: str = "silu"
    modulation: str = "shift"
    activate: bool = True
    out_scale: float = 1.0
    dropout_rate: float = 0.0
    block: str = "resnet"
    filter: str = "box"
    resample_shortcut: bool = False
    padding: int = 1
    text_norm: str | None = None
    dual: bool = False
    scan: bool = False
    remat: str | None = None
    norm: str = "saved"
    dtype: Any = jnp.float32

    def norm_groups(self, channels: int) -> int:
        """Of a norm over so many channels: as given, or min(channels / 4, 32)."""
        return max(min(channels // 4, 32), 1) if self.groups is None else self.groups


@dataclasses.dataclass(frozen=True)
class Level:
    """What one level has: `kind` of attention, `heads`, `layers` of each transformer, `context` of the text, `resample`."""

    width: int
    layers: int
    kind: str = "plain"
    heads: int = 1
    transformer_layers: int | Sequence[int] = 1
    context: int | None = None
    only_text: bool = False
    resample: str = "conv"
    attends: str = "each"

    def depth(self, at: int) -> int:
        """Layers of the transformer after block `at`."""
        given = self.transformer_layers
        return given if isinstance(given, int) else given[at]


@dataclasses.dataclass(frozen=True)
class Told:
    """What the blocks hear: the embedding [batch, width], and a text [batch, keys, context] with `length` [batch]."""

    e: Array | None
    text: Array | None = None
    length: Array | None = None


def block_of(features_in: int, width: int, how: How, rngs: nnx.Rngs, **given: Any) -> Any:
    """A residual block; `given` are `resample` and what differs from the others."""
    if how.block == "convnext" and "resample" not in given:
        return ConvNextBlock(
            features_in, width, how.embedding, rngs, act=how.act, activate=how.activate,
            dropout_rate=how.dropout_rate, dtype=how.dtype,
        )  # fmt: skip
    options = {
        "groups": (how.norm_groups(features_in), how.norm_groups(width)),
        "eps": how.eps,
        "act": how.act,
        "modulation": how.modulation,
        "activate": how.activate,
        "out_scale": how.out_scale,
        "dropout_rate": how.dropout_rate,
        "norm": how.norm,
        "dtype": how.dtype,
    }
    if "resample" in given:
        options |= {"filter": how.filter, "shortcut": True if how.resample_shortcut else None}
    return ResBlock(features_in, width, how.embedding, rngs, **options | given)


def change_of(kind: str | None, way: str, width: int, how: How, rngs: nnx.Rngs) -> Any:
    """What changes the size after a level, None where nothing with weights does."""
    if kind == "conv":
        return Resample(width, way, rngs, padding=how.padding if way == "down" else 1, dtype=how.dtype)
    return block_of(width, width, how, rngs, resample=way) if kind == "resnet" else None


class Dual(nnx.Module):
    """Two spatial transformers for the two parts of a text, 77 tokens and the others, mixed half and half."""

    def __init__(self, make: Callable[[], SpatialTransformer]) -> None:
        self.transformers = nnx.List([make(), make()])

    def __call__(self, x: Array, text: Array, length: Array | None = None, **call: Any) -> Array:
        """`length` is of no use here: both parts are whole."""
        parts = (text[:, 77:], text[:, :77])
        changes = [each(x, part, **call) - x for each, part in zip(self.transformers, parts, strict=True)]
        return x + (changes[0] + changes[1]) / 2


def attention_of(level: Level, at: int, how: How, rngs: nnx.Rngs) -> Any:
    """The attention after block `at` of a level that has some."""
    groups, common = how.norm_groups(level.width), {"norm": how.norm, "dtype": how.dtype}
    if level.kind == "attention":
        own = groups if how.attention_groups is None else how.attention_groups or None
        return PixelAttention(
            level.width, level.heads, rngs, groups=own, eps=how.eps, out_scale=how.out_scale, **common
        )
    if level.context is None:
        raise UserError(f"attention {level.kind!r} is to a text, and this network has none: its context is None")
    if level.kind == "added":
        return AddedAttention(
            level.width, level.heads, level.context, rngs,
            groups=groups, only_text=level.only_text, text_norm=how.text_norm, **common,
        )  # fmt: skip

    def transformer() -> SpatialTransformer:
        return SpatialTransformer(
            level.width, level.heads, level.context, rngs,
            layers=level.depth(at), groups=groups, only_text=level.only_text, dropout_rate=how.dropout_rate,
            scan=how.scan, remat=how.remat, **common,
        )  # fmt: skip

    return Dual(transformer) if how.dual else transformer()


def attended(module: Any, x: Array, told: Told, key: Array | None, train: bool) -> Array:
    """x through an attention of any kind."""
    if isinstance(module, PixelAttention):
        return module(x)
    if isinstance(module, AddedAttention):
        assert told.text is not None
        return module(x, told.text, told.length)
    return module(x, told.text, told.length, key=key, train=train)


def _key(key: Array | None, at: int) -> Array | None:
    return None if key is None else jax.random.fold_in(key, at)


class _Layers(nnx.Module):
    """Blocks with attention after each, or after the last alone."""

    how: How

    def _fill(self, widths: Sequence[int], level: Level, rngs: nnx.Rngs) -> None:
        one_of("attention", level.kind, KINDS)
        self.attends = one_of("attends", level.attends, ("each", "last"))
        blocks, attentions = [], []
        for at, width in enumerate(widths):
            blocks.append(block_of(width, level.width, self.how, rngs))
            if level.kind != "plain" and (level.attends == "each" or at == len(widths) - 1):
                attentions.append(attention_of(level, at, self.how, rngs))
        self.blocks, self.attentions = nnx.List(blocks), nnx.List(attentions)

    def _layer(self, at: int, x: Array, told: Told, key: Array | None, train: bool) -> Array:
        key = _key(key, at)
        x = called(self.blocks[at], self.how.remat, x, told.e, key=_key(key, 0), train=train)
        first = len(self.blocks) - len(self.attentions)
        if at >= first:
            x = attended(self.attentions[at - first], x, told, _key(key, 1), train)
        return x


class Down(_Layers):
    """A level on the way down: (x, told) -> every output, the last of which goes on."""

    def __init__(self, features_in: int, level: Level, how: How, rngs: nnx.Rngs, *, last: bool) -> None:
        self.how = how
        self._fill([features_in, *[level.width] * (level.layers - 1)], level, rngs)
        self.kind = None if last else one_of("resample", level.resample, RESAMPLES)
        self.change = change_of(self.kind, "down", level.width, how, rngs)

    def __call__(self, x: Array, told: Told, *, key: Array | None = None, train: bool = False) -> list[Array]:
        """[batch, height, width, in] -> a list of maps."""
        found = []
        for at in range(len(self.blocks)):
            x = self._layer(at, x, told, key, train)
            found.append(x)
        if self.kind == "conv":
            found.append(self.change(x))
        elif self.kind == "resnet":
            found.append(called(self.change, self.how.remat, x, told.e, key=_key(key, 1000), train=train))
        elif self.kind == "pool":
            found.append(halve(x))
        return found


class Up(_Layers):
    """A level on the way up: (x, the maps kept on the way down, the last first, told) -> x."""

    def __init__(
        self, features_in: int, kept: Sequence[int], level: Level, how: How, rngs: nnx.Rngs, *, last: bool
    ) -> None:
        self.how = how
        entering = [features_in, *[level.width] * (len(kept) - 1)]
        self._fill([a + b for a, b in zip(entering, kept, strict=True)], level, rngs)
        self.kind = None if last else one_of("resample", level.resample, RESAMPLES)
        self.change = change_of(self.kind, "up", level.width, how, rngs)

    def __call__(
        self,
        x: Array,
        kept: Sequence[Array],
        told: Told,
        size: tuple[int, int],
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Array:
        """`size` is the height and width that the next level works at."""
        for at, skip in enumerate(kept):
            x = self._layer(at, jnp.concatenate([x, skip.astype(x.dtype)], axis=-1), told, key, train)
        if self.kind == "conv":
            return self.change(x, size)
        if self.kind == "resnet":
            return called(self.change, self.how.remat, x, told.e, key=_key(key, 1000), train=train)
        return double(x) if self.kind == "pool" else x


class Middle(nnx.Module):
    """A block, attention, a block at the lowest level; "plain" without attention, "single" one block alone."""

    def __init__(self, level: Level, how: How, rngs: nnx.Rngs) -> None:
        one_of("middle", level.kind, MIDDLES)
        self.how = how
        count = 1 if level.kind == "single" else 2
        self.blocks = nnx.List([block_of(level.width, level.width, how, rngs) for _ in range(count)])
        attends = level.kind not in ("plain", "single")
        self.attention = attention_of(level, 0, how, rngs) if attends else None

    def __call__(self, x: Array, told: Told, *, key: Array | None = None, train: bool = False) -> Array:
        """[batch, height, width, channels] -> the same."""
        x = called(self.blocks[0], self.how.remat, x, told.e, key=_key(key, 0), train=train)
        if self.attention is not None:
            x = attended(self.attention, x, told, _key(key, 1), train)
        return (
            x
            if len(self.blocks) == 1
            else called(self.blocks[1], self.how.remat, x, told.e, key=_key(key, 2), train=train)
        )
