"""unCLIP's prior: a causal transformer that draws the embedding of a picture from a text (arXiv 2204.06125, section 2.2).

The sequence is the n tokens of a text, then its embedding, the time, the noised embedding x_t and a learned query; each is
mapped to the width and has a learned position. Pre-norm blocks, in which a place sees itself and what stands before it, end in
a norm, and the answer is a linear map of what stands at the query (at x_t without one). Karlo's weights give x0 itself.

**What the mask hides.** Of n tokens the first `length` are a text, the others padding that nothing may see. The four that come
after the text are moved to its end,

    text[0 .. length - 1], embedding, time, x_t, query, text[length .. n - 1],

each with the position that it has in the whole sequence. Positions are added and not relative, and attention sums over what is
seen in any order: what the query sees is the same set as under a mask of keys, with the order among the four kept, and the
padding, now last, is hidden by causality alone. So attention needs no mask beside the causal one, which the fused kernels take.

**Scale.** The network works on embeddings that are brought to a mean of 0 and a deviation of 1 in each entry. `mean` and `std`
are parameters beside it that no gradient reaches, 0 and 1 at first: `denormalize` makes an embedding of what is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.attention import Block
from diffusion_jax.nets.entries import check_entries, entry
from diffusion_jax.nets.functional import Stack
from diffusion_jax.nets.layers import LayerNorm, Linear, gelu, time_features
from diffusion_jax.nets.unet.blocks import activation
from diffusion_jax.typing import UserError

__all__ = ["PriorTransformer"]

_zeros = jax.nn.initializers.zeros


class PriorTransformer(nnx.Module):
    """Noised embeddings [batch, dim], time [batch], condition -> the network's prediction [batch, out_dim], float32.

    The condition has `pooled` [batch, features], the embedding of a text, and perhaps its `tokens` [batch, n, features] with
    `length` [batch], how many of them count. `pooled` and `context` are the feature sizes of the two, `context_length` the most
    tokens; without `context` there are no tokens. `query` False reads the answer at x_t. `pooled_norm` puts a layer norm before
    the map of `pooled`, `norm_in` one before the blocks. The time's MLP has `time_width` numbers between its two maps (`width`
    when None) and the activation `time_act`; `time_scale` multiplies the time before its features (1 for times in [0, 1000]).
    `out_dim` is `dim` when None.
    """

    reads: ClassVar[tuple[str, ...]] = ("tokens", "length", "pooled")
    needs: ClassVar[tuple[str, ...]] = ("pooled",)

    @staticmethod
    def sizes(
        shape: tuple[int, ...],
        entries: Mapping[str, tuple[int, ...]],
        counts: Mapping[str, int] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """The keywords that follow from an example's `shape` and the condition's `entries` and `counts`, as of a DiT.

        Raises UserError for examples that are no vectors, and for tokens without their length.
        """
        what = "model 'prior'"
        if len(shape) != 1:
            raise UserError(f"{what} draws vectors [size], not arrays {tuple(shape)}; nearest: 'dit'")
        if ("tokens" in entries) != ("length" in entries):
            raise UserError(f"{what} reads 'tokens' with their 'length'; the condition has {', '.join(entries)}")
        check_entries(what, shape, entries, counts)
        tokens = entries.get("tokens")
        return {
            "dim": shape[0],
            "pooled": entries["pooled"][-1],
            "context": None if tokens is None else tokens[-1],
            "context_length": None if tokens is None else tokens[0],
        }

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        dim: int,
        pooled: int,
        context: int | None = None,
        context_length: int | None = None,
        width: int = 512,
        layers: int = 6,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        query: bool = True,
        pooled_norm: bool = False,
        norm_in: bool = False,
        time_width: int | None = None,
        time_act: str = "silu",
        time_scale: float = 1.0,
        out_dim: int | None = None,
        dropout_rate: float = 0.0,
        norm: str = "saved",
        scan: bool = False,
        remat: str | None = None,
        dtype: Any = jnp.float32,
    ) -> None:
        if width % 2:
            raise UserError(f"width {width} is not divided by 2, as the features of the time need")
        if (context is None) != (context_length is None):
            raise UserError(f"context {context} and context_length {context_length}: tokens have both, or neither")
        small = jax.nn.initializers.normal(0.02)
        self.dim, self.width, self.context_length = dim, width, context_length or 0
        self.time_scale, self.dtype = time_scale, dtype
        inner, drawn = width if time_width is None else time_width, dim if out_dim is None else out_dim
        self.enter = Linear(dim, width, rngs, dtype=dtype)
        self.time_in, self.time_act = Linear(width, inner, rngs, dtype=dtype), activation(time_act)
        self.time_out = Linear(inner, width, rngs, dtype=dtype)
        self.pooled_norm = LayerNorm(pooled, norm=norm, dtype=dtype) if pooled_norm else None
        self.pooled_in = Linear(pooled, width, rngs, dtype=dtype)
        self.context_in = None if context is None else Linear(context, width, rngs, dtype=dtype)
        self.query_embedding = nnx.Param(small(rngs.params(), (width,), jnp.float32)) if query else None
        places = self.context_length + 3 + query
        self.positional_embedding = nnx.Param(small(rngs.params(), (places, width), jnp.float32))
        self.norm_in = LayerNorm(width, norm=norm, dtype=dtype) if norm_in else None

        def block(rngs: nnx.Rngs) -> Block:
            return Block(
                width,
                heads,
                rngs,
                mlp_ratio=mlp_ratio,
                activation=gelu,
                attention_init={},
                mlp_init={},
                causal=True,
                dropout_rate=dropout_rate,
                norm=norm,
                dtype=dtype,
            )

        self.blocks = Stack(block, layers, rngs, scan=scan, remat=remat)
        self.norm_final = LayerNorm(width, norm=norm, dtype=dtype)
        self.final = Linear(width, drawn, rngs, kernel_init=_zeros, dtype=dtype)
        self.mean = nnx.Param(jnp.zeros((drawn,), jnp.float32))
        self.std = nnx.Param(jnp.ones((drawn,), jnp.float32))

    def __call__(
        self,
        xt: Float[Array, "batch ..."],
        t: Float[Array, " batch"],
        cond: dict[str, Array] | None = None,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch out"]:
        """The prediction, in whatever space the network is trained for.

        Raises UserError for vectors of another size, a condition that lacks an entry, and more tokens than `context_length`.
        """
        x, last = self.sequence(xt, t, cond)
        x = self.blocks(x, key=key, train=train)
        x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        return self.final(self.norm_final(x)).astype(jnp.float32)

    def sequence(self, xt: Array, t: Array, cond: dict[str, Array] | None) -> tuple[Array, Array]:
        """Of what `__call__` is given: (what enters the first block [batch, places, width], the answer's place [batch])."""
        if xt.shape[1:] != (self.dim,):
            raise UserError(f"this network draws vectors of {self.dim}; given {xt.shape[1:]} an example")
        pooled = entry(cond, "pooled")
        told = self.pooled_in(pooled if self.pooled_norm is None else self.pooled_norm(pooled))
        time = self.time_in(time_features(t * self.time_scale, self.width))
        parts = [told, self.time_out(self.time_act(time)), self.enter(xt)]
        if self.query_embedding is not None:
            parts.append(jnp.broadcast_to(self.query_embedding[...].astype(self.dtype), told.shape))
        x, positions = jnp.stack(parts, axis=1), self.positional_embedding[...].astype(self.dtype)[None]
        last = jnp.full(len(xt), len(parts) - 1)
        if self.context_in is None:
            x = x + positions
        else:
            tokens, length = entry(cond, "tokens"), entry(cond, "length")
            count = tokens.shape[1]
            if count > self.context_length:
                raise UserError(f"this network reads {self.context_length} tokens at most; given {count} an example")
            positions = jnp.concatenate([positions[:, :count], positions[:, self.context_length :]], axis=1)
            x = jnp.concatenate([self.context_in(tokens), x], axis=1) + positions
            length = jnp.clip(length, 0, count)
            x, last = jnp.take_along_axis(x, _order(length, count, len(parts))[..., None], axis=1), length + last
        return (x if self.norm_in is None else self.norm_in(x)), last

    def denormalize(
        self, x: Float[Array, "batch out"], *, key: Array | None = None, train: bool = False
    ) -> Float[Array, "batch out"]:
        """x std + mean: of what is drawn in the network's scale, embeddings."""
        return x * jax.lax.stop_gradient(self.std[...])[None] + jax.lax.stop_gradient(self.mean[...])[None]

    def normalize(
        self, x: Float[Array, "batch out"], *, key: Array | None = None, train: bool = False
    ) -> Float[Array, "batch out"]:
        """(x - mean) / std: of embeddings, what the network is trained on."""
        return (x - jax.lax.stop_gradient(self.mean[...])[None]) / jax.lax.stop_gradient(self.std[...])[None]


def _order(length: Array, tokens: int, others: int) -> Array:
    """Which of [tokens, others] stands at each place [batch, tokens + others] when the others follow the first `length`."""
    place, length = jnp.arange(tokens + others)[None], length[:, None]
    moved = jnp.where(place < length + others, place - length + tokens, place - others)
    return jnp.where(place < length, place, moved)
