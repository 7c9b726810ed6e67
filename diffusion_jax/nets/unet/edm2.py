"""EDM2's U-Net, whose layers keep the magnitude of what they are given (Karras et al. 2024, arXiv 2312.02696, configuration G).

Every activation has expected magnitude 1 at every depth, by construction rather than by norms that learn:

- a layer uses w_i / |w_i|, filter by filter, so that its output has the input's magnitude (eq. 47), and has no bias: a channel
  of ones joins the picture instead. w_i is kept at the norm sqrt(fan in) after each step of training, `unit_filters`, so that
  the learning rate alone says how far it turns (section 2.3);
- silu(x) / 0.596 (eq. 81); a sum of a and b is ((1 - s) a + s b) / sqrt((1 - s)^2 + s^2) (eq. 88), s 0.3 for residuals and 0.5
  for time and class; a join is sqrt((Na + Nb) / ((1 - s)^2 + s^2)) [(1 - s) a / sqrt(Na), s b / sqrt(Nb)] (eq. 103), s 0.5;
- pixel norm x / sqrt(mean over channels x^2 + 1e-4) (eq. 30) on the main path of the encoder, and of q, k and v in each head;
- the time as sqrt(2) cos(2 pi (f c + phi)) with f, phi drawn once (eq. 75), c = ln(sigma) / 4; the network is given c.

The embedding multiplies: y (1 + g linear(e)), g learned from 0; a gain at the output begins at 0 as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.attention import attend
from diffusion_jax.nets.entries import entry
from diffusion_jax.nets.functional import called
from diffusion_jax.nets.layers import dropout
from diffusion_jax.nets.unet.convolution import double, halve, nearest_divisor
from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["EDM2UNet", "magnitude_join", "magnitude_silu", "magnitude_sum", "pixel_norm", "unit_filters"]

EPS = 1e-4
SILU = 0.596  # the root mean square of silu of a standard normal
RESIDUAL, EMBEDDED, JOINED = 0.3, 0.5, 0.5
BOUND = 256.0
UNIT = re.compile(r"(^|/)unit_kernel$")
Maps: TypeAlias = Float[Array, "batch height width channels"]
Made: TypeAlias = Float[Array, "batch _ _ _"]


def magnitude_silu(x: Array) -> Array:
    """silu(x) / 0.596: magnitude 1 from magnitude 1."""
    return jax.nn.silu(x) / SILU


def magnitude_sum(a: Array, b: Array, share: float) -> Array:
    """(1 - share) a + share b, scaled so that independent a and b of magnitude 1 give magnitude 1."""
    return ((1 - share) * a + share * b) / math.hypot(1 - share, share)


def magnitude_join(a: Array, b: Array, share: float = JOINED) -> Array:
    """a and b side by side over channels, weighted so that each brings its share of the magnitude, whatever its width."""
    na, nb = a.shape[-1], b.shape[-1]
    scale = math.sqrt((na + nb) / ((1 - share) ** 2 + share**2))
    return jnp.concatenate([a * (scale * (1 - share) / math.sqrt(na)), b * (scale * share / math.sqrt(nb))], axis=-1)


def pixel_norm(x: Array) -> Array:
    """x / sqrt(mean x^2 + 1e-4) over the last axis, the mean in float32."""
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + EPS)).astype(x.dtype)


def _unit(kernel: Array) -> Array:
    """Each filter [..., out] divided by its norm, which is at least 1e-4 sqrt(fan in)."""
    axes = tuple(range(kernel.ndim - 1))
    fan_in = math.prod(kernel.shape[:-1])
    norm = jnp.sqrt((kernel * kernel).sum(axes, keepdims=True))
    return kernel / (norm + EPS * math.sqrt(fan_in))


def unit_filters(params: Params) -> Params:
    """The parameters with every filter of a magnitude-preserving layer at the norm sqrt(fan in), the others as they are.

    Forced weight normalisation (section 2.3): what training does after each step. Layers stacked over a leading axis are not
    known to it.
    """

    def forced(path: Any, leaf: Array) -> Array:
        name = "/".join(str(getattr(part, "key", part)) for part in path)
        if not UNIT.search(name):
            return leaf
        norm = jnp.sqrt((leaf * leaf).sum(tuple(range(leaf.ndim - 1)), keepdims=True))
        return leaf * (math.sqrt(math.prod(leaf.shape[:-1])) / jnp.maximum(norm, jnp.finfo(leaf.dtype).tiny))

    return jax.tree_util.tree_map_with_path(forced, params)


class UnitLayer(nnx.Module):
    """A convolution of `size`, or a linear map where it is 0, with filters of norm 1 and without a bias."""

    def __init__(self, features_in: int, features_out: int, size: int, rngs: nnx.Rngs, *, dtype: Any) -> None:
        self.size, self.dtype = size, dtype
        shape = (size, size, features_in, features_out) if size else (features_in, features_out)
        kernel = jax.random.normal(rngs.params(), shape, jnp.float32)
        self.unit_kernel = nnx.Param(_unit(kernel) * math.sqrt(math.prod(shape[:-1])))

    def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
        """[batch, height, width, in], or [batch, in] for a linear map."""
        kernel = (_unit(self.unit_kernel[...]) * gain).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.size in (0, 1):
            return x @ (kernel if self.size == 0 else kernel[0, 0])
        around = [(self.size // 2, self.size // 2)] * 2
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), around, dimension_numbers=("NHWC", "HWIO", "NHWC"))


class EDM2Block(nnx.Module):
    """One block of the encoder or the decoder (figure 21 there), with attention where it has `heads`."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        embedding: int,
        rngs: nnx.Rngs,
        *,
        side: str,
        resample: str | None = None,
        heads: int = 0,
        dropout_rate: float = 0.0,
        dtype: Any = jnp.float32,
    ) -> None:
        self.side, self.resample, self.heads = one_of("side", side, ("encoder", "decoder")), resample, heads
        self.dropout_rate = dropout_rate
        self.embed_gain = nnx.Param(jnp.zeros((), jnp.float32))
        entering = features_out if side == "encoder" else features_in
        self.conv1 = UnitLayer(entering, features_out, 3, rngs, dtype=dtype)
        self.embed = UnitLayer(embedding, features_out, 0, rngs, dtype=dtype)
        self.conv2 = UnitLayer(features_out, features_out, 3, rngs, dtype=dtype)
        changes = features_in != features_out
        self.shortcut = UnitLayer(features_in, features_out, 1, rngs, dtype=dtype) if changes else None
        self.qkv = UnitLayer(features_out, 3 * features_out, 1, rngs, dtype=dtype) if heads else None
        self.out = UnitLayer(features_out, features_out, 1, rngs, dtype=dtype) if heads else None

    def __call__(self, x: Maps, e: Array, *, key: Array | None = None, train: bool = False) -> Made:
        """[batch, height, width, in] -> [batch, height', width', out]."""
        if self.resample is not None:
            x = double(x) if self.resample == "up" else halve(x)
        if self.side == "encoder":
            x = pixel_norm(x if self.shortcut is None else self.shortcut(x))
        y = self.conv1(magnitude_silu(x))
        scale = self.embed(e, self.embed_gain[...]) + 1
        y = magnitude_silu(y * scale[:, None, None])
        y = self.conv2(dropout(y, self.dropout_rate, key, train))
        if self.side == "decoder" and self.shortcut is not None:
            x = self.shortcut(x)
        x = magnitude_sum(x, y, RESIDUAL)
        if self.qkv is not None and self.out is not None:
            b, h, w, c = x.shape
            qkv = self.qkv(x).reshape(b, h * w, 3, self.heads, c // self.heads)
            q, k, v = (pixel_norm(qkv[:, :, i]) for i in range(3))
            y = self.out(attend(q, k, v).reshape(b, h, w, c))
            x = magnitude_sum(x, y, RESIDUAL)
        return jnp.clip(x, -BOUND, BOUND)


class EDM2UNet(nnx.Module):
    """Noised images [batch, size, size, channels], c = ln(sigma) / 4 [batch], condition -> the prediction, float32.

    `width` is the finest level's, `channels` the levels' multiples of it; attention at the pictures' sizes in `attention`, in
    heads of `head_dim` channels. `remat` is a policy of `jax.checkpoint` for each block, None to keep all. `classes` rows of
    labels, the one for no label, all zeros, among them.
    """

    reads: ClassVar[tuple[str, ...]] = ("label",)
    chosen: ClassVar[tuple[str, ...]] = ("channels",)
    after_step = staticmethod(unit_filters)

    @staticmethod
    def sizes(
        shape: tuple[int, ...],
        entries: Mapping[str, tuple[int, ...]],
        counts: Mapping[str, int] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """The keywords that follow from an example's shape and the condition's entries. UserError for no square pictures."""
        if len(shape) != 3 or shape[0] != shape[1]:
            raise UserError(f"an EDM2 U-Net draws square pictures [size, size, channels], not arrays {tuple(shape)}")
        return {
            "image_size": shape[0], "in_channels": shape[2], "classes": counts["label"] if "label" in entries else None,
        }  # fmt: skip

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        image_size: int,
        in_channels: int,
        width: int = 192,
        channels: Sequence[int] = (1, 2, 3, 4),
        layers: int = 3,
        attention: Sequence[int] = (16, 8),
        head_dim: int = 64,
        classes: int | None = None,
        dropout_rate: float = 0.0,
        remat: str | None = None,
        dtype: Any = jnp.float32,
    ) -> None:
        widths = [width * multiple for multiple in channels]
        if image_size % 2 ** (len(widths) - 1):
            raise UserError(
                f"image_size {image_size} is not halved {len(widths) - 1} times by the levels of channels {tuple(channels)}"
            )
        self.shape, self.classes, self.remat = (image_size, image_size, in_channels), classes, remat
        embedded = max(widths)
        drawn = jax.random.split(rngs.params(), 2)
        self.frequencies = nnx.Param(jax.random.normal(drawn[0], (width,), jnp.float32))
        self.phases = nnx.Param(jax.random.uniform(drawn[1], (width,), jnp.float32))
        self.time = UnitLayer(width, embedded, 0, rngs, dtype=dtype)
        self.label = None if classes is None else UnitLayer(classes - 1, embedded, 0, rngs, dtype=dtype)

        def block(
            entering: int, leaving: int, side: str, size: int = 0, resample: str | None = None, attends: bool = False
        ) -> EDM2Block:
            attends = attends or size in tuple(attention)
            if attends and leaving % head_dim:
                raise UserError(
                    f"head_dim {head_dim} does not divide the {leaving} channels of a level; "
                    f"nearest: {nearest_divisor(leaving, head_dim)}"
                )
            heads = leaving // head_dim if attends else 0
            return EDM2Block(
                entering, leaving, embedded, rngs,
                side=side, resample=resample, heads=heads, dropout_rate=dropout_rate, dtype=dtype,
            )  # fmt: skip

        self.conv_in = UnitLayer(in_channels + 1, widths[0], 3, rngs, dtype=dtype)
        down, kept, at = [], [widths[0]], widths[0]
        for i, leaving in enumerate(widths):
            size = image_size >> i
            if i:
                down.append(block(at, at, "encoder", resample="down"))
                kept.append(at)
            for _ in range(layers):
                down.append(block(at, leaving, "encoder", size))
                at = leaving
                kept.append(at)
        self.middle = nnx.List([block(at, at, "decoder", attends=True), block(at, at, "decoder")])
        up, joins = [], []
        for i, leaving in reversed(list(enumerate(widths))):
            if i < len(widths) - 1:
                up.append(block(at, at, "decoder", resample="up"))
                joins.append(False)
            for _ in range(layers + 1):
                up.append(block(at + kept.pop(), leaving, "decoder", image_size >> i))
                joins.append(True)
                at = leaving
        self.down, self.up, self.joins = nnx.List(down), nnx.List(up), tuple(joins)
        self.gain_out = nnx.Param(jnp.zeros((), jnp.float32))
        self.conv_out = UnitLayer(at, in_channels, 3, rngs, dtype=dtype)

    def __call__(
        self,
        xt: Float[Array, "batch height width channels"],
        c: Float[Array, " batch"],
        cond: dict[str, Array] | None = None,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        """The prediction. UserError for images of another shape."""
        if xt.shape[1:] != self.shape:
            raise UserError(f"this network draws {self.shape}; given {xt.shape[1:]} an example")
        x = self.conv_in(jnp.concatenate([xt, jnp.ones((*xt.shape[:3], 1), xt.dtype)], axis=-1))
        e = self._embedding(c, cond)
        keys = (None if key is None else jax.random.fold_in(key, i) for i in range(10_000))
        kept = [x]
        for block in self.down:
            x = called(block, self.remat, x, e, key=next(keys), train=train)
            kept.append(x)
        for block in self.middle:
            x = called(block, self.remat, x, e, key=next(keys), train=train)
        for block, joins in zip(self.up, self.joins, strict=True):
            x = magnitude_join(x, kept.pop()) if joins else x
            x = called(block, self.remat, x, e, key=next(keys), train=train)
        return self.conv_out(x, self.gain_out[...]).astype(jnp.float32)

    def _embedding(self, c: Array, cond: dict[str, Array] | None) -> Array:
        frequencies, phases = jax.lax.stop_gradient((self.frequencies[...], self.phases[...]))
        angles = 2 * math.pi * (c.astype(jnp.float32)[:, None] * frequencies[None] + phases[None])
        e = self.time(math.sqrt(2) * jnp.cos(angles))
        if self.label is not None and self.classes is not None:
            # The null, the last, is all zeros.
            told = jax.nn.one_hot(entry(cond, "label"), self.classes - 1) * math.sqrt(self.classes - 1)
            e = magnitude_sum(e, self.label(told), EMBEDDED)
        return magnitude_silu(e)
