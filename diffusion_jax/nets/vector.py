"""A residual network for vectors, such as embeddings: the network of diffusion over them.

Layers of width w, each modulated by c as a block of a DiT is (adaLN-Zero; for vectors as in arXiv 2312.03701, section 3.2):

    x <- x + gate mlp(norm(x) (1 + scale) + shift),   (shift, scale, gate) = a zero-initialised map of silu(c).

c is the sum of the embeddings of the time and of what else is told: `label` [batch], whole numbers, by a table whose last row
stands for no label; `pooled`, `embedding` [batch, features] by maps of their own. At the start each layer is the identity, and
the answer is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.attention import Mlp
from diffusion_jax.nets.entries import check_entries
from diffusion_jax.nets.functional import Stack
from diffusion_jax.nets.layers import LayerNorm, Linear, dropout, gelu_tanh, time_features
from diffusion_jax.typing import UserError

__all__ = ["VectorLayer", "VectorMLP"]

_zeros = jax.nn.initializers.zeros


class VectorLayer(nnx.Module):
    """One layer; see the module's docstring for what it computes."""

    def __init__(
        self, width: int, rngs: nnx.Rngs, *, mlp_ratio: float, dropout_rate: float, norm: str, dtype: Any
    ) -> None:
        self.norm = LayerNorm(width, eps=1e-6, affine=False, norm=norm, dtype=dtype)
        self.mlp = Mlp(width, round(width * mlp_ratio), rngs, activation=gelu_tanh, dtype=dtype)
        self.modulation = Linear(width, 3 * width, rngs, kernel_init=_zeros, dtype=dtype)
        self.dropout_rate = dropout_rate

    def __call__(self, x: Array, c: Array, *, key: Array | None = None, train: bool = False) -> Array:
        """x, c [batch, width] (c after SiLU) -> x."""
        shift, scale, gate = jnp.split(self.modulation(c), 3, axis=-1)
        y = self.mlp(self.norm(x) * (1.0 + scale) + shift)
        return x + gate * dropout(y, self.dropout_rate, key, train)


class VectorMLP(nnx.Module):
    """Noised vectors [batch, dim], time [batch], condition -> the network's prediction, float32.

    `pooled` and `embedding` are the feature sizes of the condition's entries, None where it has none; `classes` are the rows of
    the table of labels, the one for no label among them. `time_scale` multiplies the time before its features (1 for times in
    [0, 1000]).
    """

    reads: ClassVar[tuple[str, ...]] = ("pooled", "label", "embedding")

    @staticmethod
    def sizes(
        shape: tuple[int, ...],
        entries: Mapping[str, tuple[int, ...]],
        counts: Mapping[str, int] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """The keywords that follow from an example's `shape` and the condition's `entries` and `counts`, as of a DiT.

        Raises UserError for examples that are no vectors, and for labels of unknown number.
        """
        if len(shape) != 1:
            raise UserError(f"model 'mlp' draws vectors [size], not arrays {tuple(shape)}; nearest: 'dit'")
        check_entries("model 'mlp'", shape, entries, counts)
        last = {name: size[-1] for name, size in entries.items() if size}
        return {
            "dim": shape[0],
            "classes": counts["label"] if "label" in entries else None,
            "pooled": last.get("pooled"),
            "embedding": last.get("embedding"),
        }

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        dim: int,
        width: int = 512,
        layers: int = 6,
        mlp_ratio: float = 2.0,
        pooled: int | None = None,
        embedding: int | None = None,
        classes: int | None = None,
        time_scale: float = 1.0,
        dropout_rate: float = 0.0,
        norm: str = "saved",
        scan: bool = False,
        remat: str | None = None,
        dtype: Any = jnp.float32,
    ) -> None:
        small = jax.nn.initializers.normal(0.02)
        self.dim, self.time_scale = dim, time_scale

        def added(features: int | None) -> Linear | None:
            return None if features is None else Linear(features, width, rngs, kernel_init=small, dtype=dtype)

        self.enter = Linear(dim, width, rngs, dtype=dtype)
        self.time_in = Linear(256, width, rngs, kernel_init=small, dtype=dtype)
        self.time_out = Linear(width, width, rngs, kernel_init=small, dtype=dtype)
        self.pooled, self.embedding = added(pooled), added(embedding)
        self.label = None if classes is None else nnx.Param(small(rngs.params(), (classes, width), jnp.float32))

        def layer(rngs: nnx.Rngs) -> VectorLayer:
            return VectorLayer(width, rngs, mlp_ratio=mlp_ratio, dropout_rate=dropout_rate, norm=norm, dtype=dtype)

        self.layers = Stack(layer, layers, rngs, scan=scan, remat=remat)
        self.norm_final = LayerNorm(width, eps=1e-6, affine=False, norm=norm, dtype=dtype)
        self.modulation = Linear(width, 2 * width, rngs, kernel_init=_zeros, dtype=dtype)
        self.final = Linear(width, dim, rngs, kernel_init=_zeros, dtype=dtype)

    def __call__(
        self,
        xt: Float[Array, "batch ..."],
        t: Float[Array, " batch"],
        cond: dict[str, Array] | None = None,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch dim"]:
        """The prediction, in whatever space the network is trained for. UserError for vectors of another size."""
        if xt.shape[1:] != (self.dim,):
            raise UserError(f"this network draws vectors of {self.dim}; given {xt.shape[1:]} an example")
        c = self.time_out(jax.nn.silu(self.time_in(time_features(t * self.time_scale, 256))))
        told = cond or {}
        for name, added in (("pooled", self.pooled), ("embedding", self.embedding)):
            if added is not None:
                c = c + added(told[name])
        if self.label is not None:
            c = c + self.label[...].astype(c.dtype)[told["label"]]
        c = jax.nn.silu(c)
        x = self.layers(self.enter(xt), c, key=key, train=train)
        shift, scale = jnp.split(self.modulation(c), 2, axis=-1)
        return self.final(self.norm_final(x) * (1.0 + scale) + shift).astype(jnp.float32)
