"""The patch discriminator of pix2pix (arXiv 1611.07004, appendix 6.1.2), which latent diffusion trains beside its autoencoder.

    conv4 stride 2, leaky ReLU;  (conv4 stride 2, norm, leaky ReLU) x (layers - 1);  conv4, norm, leaky ReLU;  conv4 -> 1

with slope 0.2, widths doubled each time up to eight times the first, and kernels N(0, 0.02). Each number of the answer sees a
patch of the picture: 34 pixels of 2 layers, 70 of 3.

The norm is a group norm, where the paper and its followers have batch norm. A batch norm's running statistics would be state
that the loss changes beside its parameters; without them, what is said of a picture would depend on the others in its batch, on
whether real and made pictures are seen together, and on the number of devices. Groups of one example have none of that.
"""

from __future__ import annotations

import itertools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.unet.convolution import Conv, GroupNorm, nearest_divisor
from diffusion_jax.typing import UserError

__all__ = ["PatchDiscriminator", "most_layers"]

Maps: TypeAlias = Float[Array, "batch height width channels"]
Made: TypeAlias = Float[Array, "batch _ _ _"]
SLOPE, GROUPS, WIDEST = 0.2, 32, 8


def _rows(side: int, layers: int) -> int:
    """How many rows of the answer a picture of so many has."""
    for _ in range(layers):
        side = side // 2
    return side - 2


def most_layers(side: int) -> int:
    """The most layers of which a picture with this shorter side has an answer, 0 for none."""
    return next((layers for layers in range(16, 0, -1) if _rows(side, layers) >= 1), 0)


class PatchDiscriminator(nnx.Module):
    """Pictures [batch, height, width, channels] -> logits [batch, rows, columns, 1], float32: above 0 says real.

    `layers` is how often the size is halved, `width` the channels after the first. It computes in `dtype`, norms in float32.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        channels: int = 3,
        width: int = 64,
        layers: int = 3,
        norm: str = "saved",
        dtype: Any = jnp.float32,
    ) -> None:
        init = jax.nn.initializers.normal(0.02)

        def conv(features_in: int, features_out: int, stride: int) -> Conv:
            return Conv(
                features_in, features_out, 4, rngs, stride=stride, padding=(1, 1), kernel_init=init, dtype=dtype
            )

        widths = [width * min(2**at, WIDEST) for at in range(layers + 1)]
        self.layers = layers
        self.first = conv(channels, width, 2)
        self.convs = nnx.List(
            [conv(a, b, 2 if at < layers - 1 else 1) for at, (a, b) in enumerate(itertools.pairwise(widths))]
        )
        self.norms = nnx.List(
            [GroupNorm(size, nearest_divisor(size, min(GROUPS, size // 4)), norm=norm) for size in widths[1:]]
        )
        self.last = conv(widths[-1], 1, 1)

    def __call__(self, x: Maps, *, key: Array | None = None, train: bool = False) -> Made:
        """The logits. UserError for pictures that are too small for so many layers."""
        height, width = x.shape[1:3]
        if _rows(min(height, width), self.layers) < 1:
            raise UserError(
                f"a picture of {height} x {width} is too small for a discriminator of {self.layers} layers; nearest: "
                f"{most_layers(min(height, width))}"
            )
        x = jax.nn.leaky_relu(self.first(x), SLOPE)
        for conv, norm in zip(self.convs, self.norms):
            x = jax.nn.leaky_relu(norm(conv(x)), SLOPE)
        return self.last(x).astype(jnp.float32)
