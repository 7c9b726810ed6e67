"""EfficientNet-Lite0: a small convolutional network whose pooled features measure pictures.

EfficientNet-B0 (arXiv 1905.11946, table 1) without squeeze-and-excitation and with min(max(x, 0), 6) for SiLU, as its
authors made it for integer hardware. A block widens by 1x1, convolves each channel with its own kernel, and narrows by 1x1
without a nonlinearity (the inverted bottleneck of arXiv 1801.04381); where neither size nor width changes, its input is added.
Strides pad as TensorFlow's SAME does, so that any image size goes.

Batch norm is frozen, as in `nets.resnet`: mean and variance are arrays that come with the weights, and none of them trains.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.functional import Stack
from diffusion_jax.nets.layers import Linear, scaled_uniform
from diffusion_jax.nets.resnet import FrozenBatchNorm

__all__ = ["HEAD", "STAGES", "STEM", "EfficientNet", "EfficientNetOutput"]

STEM, HEAD = 32, 1280
STAGES: tuple[tuple[int, int, int, int, int], ...] = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
"""Of each stage: blocks, kernel, stride of the first, widening, channels out."""
EPS = 1e-3


class EfficientNetOutput(NamedTuple):
    """`pooled` [batch, 1280], the mean of the last map over its places; `logits` [batch, classes]."""

    pooled: Array
    logits: Array


def _relu6(x: Array) -> Array:
    return jnp.clip(x, 0.0, 6.0)


def _by_channel(x: Array, kernel: Array, stride: int) -> Array:
    """Each channel with its own kernel [size, size, 1, channels], padded as SAME: a sum of shifted products.

    XLA's grouped convolution is 10 to 60 times slower than this on the CPU (measured with jax 0.10 on maps of 3 to 48).
    """
    size = kernel.shape[0]
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    rows, columns = ((length - size) // stride * stride + 1 for length in x.shape[1:3])
    parts = [
        x[:, i : i + rows : stride, j : j + columns : stride] * kernel[i : i + 1, j : j + 1]
        for i in range(size)
        for j in range(size)
    ]
    return sum(parts[1:], parts[0])


class Conv(nnx.Module):
    """A convolution without bias and its frozen norm, NHWC; kernel [size, size, in, out], or [size, size, 1, in] by channel."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        size: int,
        rngs: nnx.Rngs,
        *,
        stride: int = 1,
        by_channel: bool = False,
    ) -> None:
        self.stride, self.by_channel = stride, by_channel
        within = 1 if by_channel else features_in
        init = scaled_uniform(size * size * within)
        self.kernel = nnx.Param(init(rngs.params(), (size, size, within, features_out), jnp.float32))
        self.norm = FrozenBatchNorm(features_out, eps=EPS)

    def __call__(self, x: Array) -> Array:
        """[batch, height, width, in] -> [batch, height / stride, width / stride, out], rounded up."""
        kernel = self.kernel[...]
        if self.by_channel:
            return self.norm(_by_channel(x, kernel, self.stride))
        y = jax.lax.conv_general_dilated(
            x, kernel, (self.stride, self.stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return self.norm(y)


class Block(nnx.Module):
    """Widened, convolved by channel, narrowed; the input is added where the shape is kept."""

    def __init__(
        self, features_in: int, features_out: int, size: int, wider: int, rngs: nnx.Rngs, *, stride: int = 1
    ) -> None:
        inner = features_in * wider
        self.kept = stride == 1 and features_in == features_out
        self.expand = Conv(features_in, inner, 1, rngs) if wider > 1 else None
        self.depthwise = Conv(inner, inner, size, rngs, stride=stride, by_channel=True)
        self.project = Conv(inner, features_out, 1, rngs)

    def __call__(self, x: Array, *, key: Array | None = None, train: bool = False) -> Array:
        """[batch, height, width, in] -> [batch, height / stride, width / stride, out]."""
        y = x if self.expand is None else _relu6(self.expand(x))
        y = self.project(_relu6(self.depthwise(y)))
        return x + y if self.kept else y


class Stage(nnx.Module):
    """One block that changes the shape, then equal ones with stacked parameters."""

    def __init__(
        self, features_in: int, features_out: int, blocks: int, size: int, stride: int, wider: int, rngs: nnx.Rngs
    ) -> None:
        self.first = Block(features_in, features_out, size, wider, rngs, stride=stride)
        self.rest = (
            Stack(lambda r: Block(features_out, features_out, size, wider, r), blocks - 1, rngs) if blocks > 1 else None
        )

    def __call__(self, x: Array) -> Array:
        """[batch, height, width, in] -> [batch, height / stride, width / stride, out]."""
        x = self.first(x)
        return x if self.rest is None else self.rest(x)


class EfficientNet(nnx.Module):
    """Images [batch, height, width, 3] of any size, normalised as the weights want it -> `EfficientNetOutput`."""

    def __init__(self, rngs: nnx.Rngs, *, classes: int = 1000) -> None:
        self.stem = Conv(3, STEM, 3, rngs, stride=2)
        width = STEM
        for i, (blocks, size, stride, wider, out) in enumerate(STAGES):
            setattr(self, f"stage{i}", Stage(width, out, blocks, size, stride, wider, rngs))
            width = out
        self.head = Conv(width, HEAD, 1, rngs)
        self.classifier = Linear(HEAD, classes, rngs)

    def __call__(
        self, images: Float[Array, "batch height width 3"], *, key: Array | None = None, train: bool = False
    ) -> EfficientNetOutput:
        """Features and class scores of a batch; deterministic."""
        x: Any = _relu6(self.stem(images))
        for i in range(len(STAGES)):
            x = getattr(self, f"stage{i}")(x)
        pooled = _relu6(self.head(x)).mean(axis=(1, 2))
        return EfficientNetOutput(pooled, self.classifier(pooled))
