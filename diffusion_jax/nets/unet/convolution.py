"""What every U-Net is made of: convolutions, group norm, and the filters that halve and double a picture.

**Group norm** (arXiv 1803.08494): channels in groups, mean and variance of each group over its channels and all pixels,
then a gain and a bias a channel. Statistics are in float32 whatever the dtype of the computation. With r = 1 / std and g the
cotangent of y = r (x - mean), dx = r (g - mean(g) - y mean(g y)), the means over the group, as for a layer norm; the rule is a
JVP, so that both modes of differentiation have it.

**Filters.** A picture is doubled by repeating pixels and halved by means of 2 x 2: the box [1, 1]. The binomial [1, 3, 3, 1]
of StyleGAN and score SDEs (arXiv 2011.13456, appendix H) is longer, and reaches over the edge, where zeros are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.layers import Initializer
from diffusion_jax.typing import UserError, one_of

__all__ = ["Conv", "GroupNorm", "Resample", "Shrunk", "double", "halve", "nearest_divisor", "nearest_to"]

Maps: TypeAlias = Float[Array, "batch height width channels"]
Made: TypeAlias = Float[Array, "batch _ _ _"]
_zeros = jax.nn.initializers.zeros
FILTERS = {"box": (1, 1), "binomial": (1, 3, 3, 1)}


def nearest_divisor(of: int, near: int) -> int:
    """The divisor of a number that is nearest to another."""
    return min((count for count in range(1, of + 1) if of % count == 0), key=lambda count: abs(count - near))


class Conv(nnx.Module):
    """A convolution, NHWC, kernel [size, size, in, out], zeros outside; parameters float32, computed in `dtype`.

    `padding` is how many rows of zeros stand before and after, by default (size - 1) // 2 on both sides. Defaults of the
    parameters: Glorot-uniform kernel, zero bias; `bias_init=None` leaves the bias out.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        size: int,
        rngs: nnx.Rngs,
        *,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        kernel_init: Initializer | None = None,
        bias_init: Initializer | None = _zeros,
        dtype: Any = jnp.float32,
    ) -> None:
        self.stride, self.dtype = stride, dtype
        self.padding = ((size - 1) // 2, (size - 1) // 2) if padding is None else padding
        init = kernel_init or jax.nn.initializers.glorot_uniform()
        self.kernel = nnx.Param(init(rngs.params(), (size, size, features_in, features_out), jnp.float32))
        self.bias = None if bias_init is None else nnx.Param(bias_init(rngs.params(), (features_out,), jnp.float32))

    def __call__(self, x: Maps) -> Made:
        """[batch, height, width, in] -> [batch, height', width', out]."""
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if kernel.shape[:2] == (1, 1) and self.stride == 1:
            y = x @ kernel[0, 0]
        else:
            y = jax.lax.conv_general_dilated(
                x, kernel, (self.stride,) * 2, [self.padding] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            if self.dtype == jnp.bfloat16 and jax.default_backend() == "cpu":
                # Fused with a norm in float32 it is NaN in the CPU's compiler of jax 0.12.
                y = jax.lax.optimization_barrier(y)
        return y if self.bias is None else y + jnp.broadcast_to(self.bias[...].astype(self.dtype), y.shape)


def _by_group(of_channels: Array, groups: int) -> Array:
    """[batch, channels] -> the same, with the mean of its group in the place of each channel."""
    batch, channels = of_channels.shape
    means = of_channels.reshape(batch, groups, -1).mean(-1, keepdims=True)
    return jnp.broadcast_to(means, (batch, groups, channels // groups)).reshape(batch, channels)


def _moments(x: Array, groups: int, eps: float) -> tuple[Array, Array]:
    """(mean, 1 / std) of each channel's group [batch, 1, channels], of x [batch, pixels, channels].

    Over the pixels first: sums along a group's few neighbouring channels are slow on a CPU.
    """
    mean = _by_group(x.mean(1), groups)[:, None]
    centred = x - mean
    return mean, jax.lax.rsqrt(_by_group((centred * centred).mean(1), groups) + eps)[:, None]


def _affine(x: Array, scale: Array, bias: Array, groups: int, eps: float) -> Array:
    mean, rstd = _moments(x, groups, eps)
    return (x - mean) * (rstd * scale[None, None]) + bias[None, None]


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def group_norm(
    x: Float[Array, "batch pixels channels"],
    scale: Float[Array, " channels"],
    bias: Float[Array, " channels"],
    groups: int,
    eps: float,
) -> Array:
    """scale (x - mean) / sqrt(var + eps) + bias in each group, with a derivative of few passes in both modes."""
    return _affine(x, scale, bias, groups, eps)


@group_norm.defjvp
def _group_norm_tangent(
    groups: int, eps: float, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
    (x, scale, bias), (dx, dscale, dbias) = primals, tangents
    mean, rstd = _moments(x, groups, eps)
    y, gain = (x - mean) * rstd, rstd * scale[None, None]
    # What does not vary over pixels is in two brackets, so that the transpose sums over the pixels twice and no more.
    shift = dbias[None, None] - gain * _by_group(dx.mean(1), groups)[:, None]
    slope = dscale[None, None] - gain * _by_group((dx * y).mean(1), groups)[:, None]
    return y * scale[None, None] + bias[None, None], gain * dx + y * slope + shift


class GroupNorm(nnx.Module):
    """Group norm over the last axis of [batch, ..., channels], statistics in float32, result in `dtype`.

    `norm` as LayerNorm's: "saved" or "plain". Raises UserError for channels that the groups do not divide.
    """

    def __init__(
        self, channels: int, groups: int, *, eps: float = 1e-5, norm: str = "saved", dtype: Any = jnp.float32
    ) -> None:
        if groups < 1 or channels % groups:
            nearest = nearest_divisor(channels, groups)
            raise UserError(f"{channels} channels are not divided by {groups} groups of a norm; nearest: {nearest}")
        self.groups, self.eps, self.dtype = groups, eps, dtype
        self.norm = one_of("norm", norm, ("saved", "plain"))
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def __call__(self, x: Array) -> Array:
        """[batch, ..., channels] -> the same."""
        wide = x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])
        norm = group_norm if self.norm == "saved" else _affine
        scale, bias = jnp.asarray(self.scale[...]), jnp.asarray(self.bias[...])
        return norm(wide, scale, bias, self.groups, self.eps).reshape(x.shape).astype(self.dtype)


def _filtered(x: Array, taps: Sequence[int], *, up: bool) -> Array:
    """x filtered by the outer square of `taps` and halved, or doubled with the brightness kept; zeros outside."""
    channels = x.shape[-1]
    line = np.asarray(taps, np.float32) / sum(taps)
    kernel = jnp.asarray(np.outer(line, line) * (4 if up else 1), x.dtype)
    kernel = jnp.broadcast_to(kernel[:, :, None, None], (*kernel.shape, 1, channels))
    longer = len(taps) - 2
    before, after = ((longer + 1) // 2 + 1, longer // 2 + 1) if up else ((longer + 1) // 2, longer // 2)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1) if up else (2, 2),
        [(before, after)] * 2,
        lhs_dilation=(2, 2) if up else (1, 1),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


def halve(x: Maps, taps: Sequence[int] = (1, 1)) -> Made:
    """Half the height and width, rounded down: means of 2 x 2, or another even filter, whose gain is 1."""
    if tuple(taps) != (1, 1):
        return _filtered(x, taps, up=False)
    b, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def double(x: Maps, taps: Sequence[int] = (1, 1)) -> Made:
    """Twice the height and width: every pixel four times, or through another even filter, whose gain is 1."""
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2) if tuple(taps) == (1, 1) else _filtered(x, taps, up=True)


def nearest_to(x: Maps, height: int, width: int) -> Made:
    """The nearest pixels at another size: row i is row floor(i h / height) of x, and so the columns."""
    h, w = x.shape[1:3]
    if (height, width) == (2 * h, 2 * w):
        return double(x)
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    return x[:, rows][:, :, columns]


class Resample(nnx.Module):
    """Half or twice the size by a convolution: "down" with stride 2, "up" after the nearest pixels.

    `padding` of "down" is 1, on all sides, or 0: then one row of zeros stands below and one column to the right.
    """

    def __init__(self, channels: int, way: str, rngs: nnx.Rngs, *, padding: int = 1, dtype: Any = jnp.float32) -> None:
        self.way = one_of("way", way, ("down", "up"))
        if padding not in (0, 1):
            raise UserError(f"padding {padding} of a convolution that halves is not 0 or 1")
        outside = None if way == "up" or padding == 1 else (0, 1)
        stride = 2 if way == "down" else 1
        self.conv = Conv(channels, channels, 3, rngs, stride=stride, padding=outside, dtype=dtype)

    def __call__(self, x: Maps, size: tuple[int, int] | None = None) -> Made:
        """`size` is what "up" comes to, twice the height and width by default."""
        if self.way == "up":
            x = nearest_to(x, *(size or (2 * x.shape[1], 2 * x.shape[2])))
        return self.conv(x)


class Shrunk(nnx.Module):
    """A picture filtered, then halved by a 3x3 convolution of stride 2: a step of a pyramid (arXiv 1904.11486).

    The filter reaches a pixel over each edge, where zeros are, and the convolution none.
    """

    def __init__(
        self, features_in: int, features_out: int, filter: str, rngs: nnx.Rngs, *, dtype: Any = jnp.float32
    ) -> None:
        self.taps = FILTERS[one_of("filter", filter, FILTERS)]
        self.conv = Conv(features_in, features_out, 3, rngs, stride=2, padding=(0, 0), dtype=dtype)

    def __call__(self, x: Maps) -> Made:
        """[batch, height, width, in] -> [batch, height / 2, width / 2, out]."""
        line = np.asarray(self.taps, np.float32) / sum(self.taps)
        kernel = jnp.asarray(np.outer(line, line), x.dtype)[:, :, None, None]
        kernel = jnp.broadcast_to(kernel, (*kernel.shape[:2], 1, x.shape[-1]))
        around = len(self.taps) - 2 + 2
        blurred = jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            [((around + 1) // 2, around // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )
        return self.conv(blurred)
