"""CLIP's ModifiedResNet (arXiv 2103.00020, section 2.4; ResNet-D: arXiv 1812.01187, blur-pooled strides: arXiv 1904.11486).

What differs from a ResNet: a stem of three 3x3 convolutions and an average pool; every stride is an average pool before the
last 1x1 convolution of a block and before its shortcut's; attention pooling instead of a mean: the mean token, put before the
others, is the one query, and its projection is the embedding.

Batch norm is frozen: mean and variance are arrays that come with the weights and are not trained (no gradient reaches
them, and the optimiser's decay leaves them out by name), so that the tower is a pure function and an example does not depend
on its batch. Fresh parameters have mean 0 and variance 1; the last norm of each block has gain 0 (OpenAI's initialisation), and
the attention pool N(0, 1/features) matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.attention import attend
from diffusion_jax.nets.functional import Stack
from diffusion_jax.nets.layers import Linear, scaled_uniform
from diffusion_jax.nets.vit import TowerOutput
from diffusion_jax.typing import UserError

__all__ = ["ModifiedResNet"]


def _pool(x: Array, by: int) -> Array:
    """The mean over by x by squares, NHWC."""
    if by == 1:
        return x
    b, h, w, c = x.shape
    return x.reshape(b, h // by, by, w // by, by, c).mean(axis=(2, 4))


class Conv(nnx.Module):
    """A convolution without bias, NHWC, kernel [size, size, in, out], zeros outside."""

    def __init__(
        self, features_in: int, features_out: int, size: int, rngs: nnx.Rngs, *, stride: int = 1, dtype: Any
    ) -> None:
        self.stride, self.padding, self.dtype = stride, size // 2, dtype
        init = scaled_uniform(size * size * features_in)
        self.kernel = nnx.Param(init(rngs.params(), (size, size, features_in, features_out), jnp.float32))

    def __call__(self, x: Array) -> Array:
        """[batch, height, width, in] -> [batch, height / stride, width / stride, out]."""
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            (self.stride, self.stride),
            [(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        # The CPU's compiler of jax 0.12 makes NaN where it fuses a norm of float32 into a convolution of bfloat16
        # (with --xla_cpu_experimental_ynn_fusion_type= it does not): nothing is fused across the barrier.
        apart = self.dtype == jnp.bfloat16 and jax.default_backend() == "cpu"
        return jax.lax.optimization_barrier(y) if apart else y


class FrozenBatchNorm(nnx.Module):
    """(x - mean) / sqrt(var + eps) scale + bias, with mean and var as given."""

    def __init__(self, features: int, *, scale: float = 1.0, eps: float = 1e-5) -> None:
        self.eps = eps
        self.scale = nnx.Param(jnp.full((features,), scale, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))
        self.mean = nnx.Param(jnp.zeros((features,), jnp.float32))
        self.var = nnx.Param(jnp.ones((features,), jnp.float32))

    def __call__(self, x: Array) -> Array:
        """[..., features] -> [..., features], computed in float32."""
        mean, var = jax.lax.stop_gradient((self.mean[...], self.var[...]))
        gain = self.scale[...] * jax.lax.rsqrt(var + self.eps)
        shift = self.bias[...] - mean * gain
        y = x.astype(jnp.float32)
        return (y * jnp.broadcast_to(gain, y.shape) + jnp.broadcast_to(shift, y.shape)).astype(x.dtype)


class Bottleneck(nnx.Module):
    """1x1, 3x3, (pool,) 1x1 to four times the width; the shortcut is pooled and projected where the shape changes."""

    def __init__(self, features_in: int, width: int, rngs: nnx.Rngs, *, stride: int = 1, dtype: Any) -> None:
        out = 4 * width
        self.stride = stride
        self.conv1, self.bn1 = Conv(features_in, width, 1, rngs, dtype=dtype), FrozenBatchNorm(width)
        self.conv2, self.bn2 = Conv(width, width, 3, rngs, dtype=dtype), FrozenBatchNorm(width)
        self.conv3, self.bn3 = Conv(width, out, 1, rngs, dtype=dtype), FrozenBatchNorm(out, scale=0.0)
        changed = stride > 1 or features_in != out
        self.shortcut = Conv(features_in, out, 1, rngs, dtype=dtype) if changed else None
        self.shortcut_bn = FrozenBatchNorm(out) if changed else None

    def __call__(self, x: Array, *, key: Array | None = None, train: bool = False) -> Array:
        """[batch, height, width, in] -> [batch, height / stride, width / stride, 4 width]."""
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = jax.nn.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(_pool(y, self.stride)))
        if self.shortcut is not None and self.shortcut_bn is not None:
            x = self.shortcut_bn(self.shortcut(_pool(x, self.stride)))
        return jax.nn.relu(x + y)


class Stage(nnx.Module):
    """One block that changes the shape, then equal ones with stacked parameters."""

    def __init__(
        self,
        features_in: int,
        width: int,
        blocks: int,
        rngs: nnx.Rngs,
        *,
        stride: int,
        scan: bool,
        remat: str | None,
        dtype: Any,
    ) -> None:
        self.first = Bottleneck(features_in, width, rngs, stride=stride, dtype=dtype)
        self.rest = (
            Stack(lambda r: Bottleneck(4 * width, width, r, dtype=dtype), blocks - 1, rngs, scan=scan, remat=remat)
            if blocks > 1
            else None
        )

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """[batch, height, width, in] -> [batch, height / stride, width / stride, 4 width]."""
        x = self.first(x, train=train)
        return x if self.rest is None else self.rest(x, train=train)


class AttentionPool2d(nnx.Module):
    """The mean token asks all tokens; its answer, projected, is the embedding."""

    def __init__(self, tokens: int, width: int, heads: int, embed: int, rngs: nnx.Rngs, *, dtype: Any) -> None:
        if width % heads:
            raise UserError(f"width {width} is not divided by {heads} heads")
        self.heads = heads
        normal = jax.nn.initializers.normal(width**-0.5)
        self.positional_embedding = nnx.Param(normal(rngs.params(), (tokens + 1, width), jnp.float32))
        self.q_proj, self.k_proj, self.v_proj = (
            Linear(width, width, rngs, kernel_init=normal, dtype=dtype) for _ in range(3)
        )
        self.c_proj = Linear(width, embed, rngs, kernel_init=normal, dtype=dtype)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> tuple[Array, Array]:
        """-> (pooled [batch, width], embedding [batch, embed])."""
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        x = x + self.positional_embedding[...].astype(x.dtype)[None]
        q, k, v = self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)
        q, k, v = (a.reshape(*a.shape[:-1], self.heads, -1) for a in (q, k, v))
        pooled = attend(q, k, v).reshape(x.shape[0], -1)
        return pooled, self.c_proj(pooled)


class ModifiedResNet(nnx.Module):
    """Images [batch, image_size, image_size, channels] -> TowerOutput.

    `tokens` [batch, (image_size / 32)^2, 32 width] is the last feature map, rows first, and `penultimate`
    [batch, (image_size / 16)^2, 16 width] that of the stage before. Raises UserError for an image_size that 32 does not
    divide and for images of another shape.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        image_size: int = 224,
        channels: int = 3,
        width: int = 64,
        layers: Sequence[int] = (3, 4, 6, 3),
        heads: int | None = None,
        embed: int = 1024,
        scan: bool = False,
        remat: str | None = None,
        norm: str = "saved",
        dtype: Any = jnp.float32,
    ) -> None:
        if image_size % 32:
            raise UserError(
                f"image_size {image_size} is not divided by 32; nearest: {max(1, round(image_size / 32)) * 32}"
            )
        if len(layers) != 4 or min(layers) < 1:
            raise UserError(f"layers {tuple(layers)} of a ResNet are four numbers of at least 1, such as (3, 4, 6, 3)")
        self.shape = (image_size, image_size, channels)
        half = width // 2
        self.conv1, self.bn1 = Conv(channels, half, 3, rngs, stride=2, dtype=dtype), FrozenBatchNorm(half)
        self.conv2, self.bn2 = Conv(half, half, 3, rngs, dtype=dtype), FrozenBatchNorm(half)
        self.conv3, self.bn3 = Conv(half, width, 3, rngs, dtype=dtype), FrozenBatchNorm(width)
        shared = {"scan": scan, "remat": remat, "dtype": dtype}
        self.layer1 = Stage(width, width, layers[0], rngs, stride=1, **shared)
        self.layer2 = Stage(4 * width, 2 * width, layers[1], rngs, stride=2, **shared)
        self.layer3 = Stage(8 * width, 4 * width, layers[2], rngs, stride=2, **shared)
        self.layer4 = Stage(16 * width, 8 * width, layers[3], rngs, stride=2, **shared)
        # OpenAI's number of heads: one for each 64 features of the last map.
        heads = width * 32 // 64 if heads is None else heads
        self.attnpool = AttentionPool2d((image_size // 32) ** 2, 32 * width, heads, embed, rngs, dtype=dtype)

    def __call__(self, images: Array, *, key: Array | None = None, train: bool = False) -> TowerOutput:
        """Encode a batch of images; deterministic."""
        *_, before, x = self.maps(images, train=train)
        flat = [a.reshape(a.shape[0], -1, a.shape[-1]) for a in (before, x)]
        pooled, embedding = self.attnpool(flat[1])
        return TowerOutput(flat[1], pooled, embedding.astype(jnp.float32), flat[0])

    def maps(self, images: Array, *, key: Array | None = None, train: bool = False) -> tuple[Array, ...]:
        """The feature maps NHWC after the stem and after each of the four stages, at 1/4, 1/4, 1/8, 1/16 and 1/32."""
        if images.shape[1:] != self.shape:
            raise UserError(f"images of shape {images.shape[1:]}: this tower takes {self.shape}")
        x = images
        for conv, bn in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = jax.nn.relu(bn(conv(x)))
        found = [_pool(x, 2)]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            found.append(stage(found[-1], train=train))
        return tuple(found)
