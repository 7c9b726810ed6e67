"""A multilayer perceptron for points in few dimensions: the network of two-dimensional examples.

A plain MLP learns slowly what varies fast with its input. **Random Fourier features** (Tancik et al., arXiv 2006.10739,
eq. 5) put sin(x B) and cos(x B) with fixed B ~ N(0, std^2) beside x, and std sets how fine the detail is that is learned
early. x itself stays among the inputs: waves alone say nothing of where a point far off the data lies. The noise level
enters as sin and cos of one phase, `time_scale` times the time that the network is given: with time "logsnr" and
time_scale 1/4 that is half the logarithm of sigma / alpha, with its sign turned.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.layers import Linear, gelu, scaled_uniform
from diffusion_jax.typing import UserError

__all__ = ["MLP"]


class MLP(nnx.Module):
    """(x [batch, dim], time [batch], cond [batch, classes] or None) -> [batch, dim] in float32, with GELU between the layers.

    `features` > 0 puts that many random frequencies of standard deviation `std` beside x. `cond` is a row of
    numbers an example, such as a one-hot class; zeros are no condition. The last layer begins at 0. Raises UserError for a
    network without hidden layers. `reads` is empty: its condition is one array and has no entries.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        dim: int = 2,
        widths: Sequence[int] = (128, 128, 128, 128),
        classes: int = 0,
        features: int = 0,
        std: float = 6.0,
        time_scale: float = 0.25,
        dtype: Any = jnp.float32,
    ) -> None:
        if not widths:
            raise UserError("widths () of an MLP is empty: it has one hidden layer at least, such as (128,)")
        self.classes, self.time_scale = classes, time_scale
        drawn = std * jax.random.normal(rngs.params(), (dim, features))
        self.frequencies = nnx.Param(drawn) if features else None
        sizes = [dim + 2 * features + 2 + classes, *widths]
        self.hidden = nnx.List(
            Linear(a, b, rngs, kernel_init=scaled_uniform(a), bias_init=scaled_uniform(a), dtype=dtype)
            for a, b in itertools.pairwise(sizes)
        )
        self.output = Linear(sizes[-1], dim, rngs, kernel_init=jax.nn.initializers.zeros, dtype=dtype)

    def __call__(
        self,
        x: Float[Array, "batch dim"],
        time: Float[Array, " batch"],
        cond: Float[Array, "batch classes"] | None = None,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch dim"]:
        """The network's output. Raises UserError for a condition that it was not built for, or that it lacks."""
        if (cond is None) != (self.classes == 0):
            given = "no cond" if cond is None else f"cond of shape {cond.shape}"
            raise UserError(f"an MLP of {self.classes} classes was given {given}")
        inputs = [x]
        if self.frequencies is not None:
            phase = x @ jax.lax.stop_gradient(self.frequencies[...])
            inputs += [jnp.sin(phase), jnp.cos(phase)]
        phase = self.time_scale * time[:, None]
        inputs += [jnp.sin(phase), jnp.cos(phase)]
        if cond is not None:
            inputs.append(cond)
        hidden = jnp.concatenate(inputs, axis=-1)
        for layer in self.hidden:
            hidden = gelu(layer(hidden))
        return self.output(hidden).astype(jnp.float32)
