"""Multi-head attention: softmax(q k^T / sqrt(d)) v (arXiv 1706.03762, eq. 1), and the pre-norm block built on it.

Shapes are [batch, tokens, heads, head_dim] outside; the plain path computes in [batch, heads, tokens, head_dim], which
XLA on the CPU prefers. On a GPU in bfloat16 or float16 with a head size that cuDNN takes, its fused kernel is used.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from diffusion_jax.nets.layers import LayerNorm, Linear, dropout
from diffusion_jax.typing import UserError

__all__ = ["Attention", "Block", "Mlp", "attend"]

_log = logging.getLogger(__name__)


@functools.cache
def _log_once(message: str) -> None:
    _log.info(message)


def _cudnn_takes(q: Array) -> bool:
    if jax.default_backend() != "gpu":
        return False
    most = 256 if float(jax.devices()[0].compute_capability) >= 9 else 128
    fits = q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] <= most and q.shape[-1] % 8 == 0
    if not fits:
        _log_once(
            f"attention in plain XLA: cuDNN's needs bf16/f16 and head size 8k <= {most}, not {q.dtype} {q.shape[-1]}"
        )
    return fits


def _fused(q: Array, k: Array, v: Array, length: Array | None, causal: bool) -> Array:
    """cuDNN's kernel. JAX takes its derivative for even lengths alone: a query or key that nobody sees makes them even."""
    queries, keys = q.shape[1], k.shape[1]
    if keys % 2 and length is None:
        length = jnp.full(q.shape[:1], keys, jnp.int32)
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
    y = jax.nn.dot_product_attention(q, k, v, is_causal=causal, key_value_seq_lengths=length, implementation="cudnn")
    return y[:, :queries]


def attend(
    q: Float[Array, "batch queries heads dim"],
    k: Float[Array, "batch keys heads dim"],
    v: Float[Array, "batch keys heads dim"],
    *,
    length: Int[Array, " batch"] | None = None,
    causal: bool = False,
) -> Float[Array, "batch queries heads dim"]:
    """Attention of each query to the first `length` keys (all when None), to itself and its past only when `causal`.

    The softmax is in float32. A row must have at least one key to see: `length` >= 1.
    """
    if _cudnn_takes(q):
        return _fused(q, k, v, length, causal)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q / math.sqrt(q.shape[-1]), k).astype(jnp.float32)
    queries, keys = scores.shape[-2:]
    visible = jnp.ones((1, 1, queries, keys), bool)
    if causal:
        visible = visible & (jnp.arange(keys)[None, :] <= jnp.arange(queries)[:, None])[None, None]
    if length is not None:
        visible = visible & (jnp.arange(keys)[None, :] < length[:, None])[:, None, None, :]
    if causal or length is not None:
        scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


class Attention(nnx.Module):
    """Self-attention over x, or cross-attention from x to `context`. One fused projection for q, k, v (k, v)."""

    def __init__(
        self,
        width: int,
        heads: int,
        rngs: nnx.Rngs,
        *,
        context_width: int | None = None,
        in_init: Callable[..., Array] | None = None,
        out_init: Callable[..., Array] | None = None,
        dtype: Any = jnp.float32,
    ) -> None:
        if width % heads:
            raise UserError(f"width {width} is not divided by {heads} heads")
        self.heads, self.cross = heads, context_width is not None
        if context_width is None:
            self.in_proj = Linear(width, 3 * width, rngs, kernel_init=in_init, dtype=dtype)
        else:
            self.q_proj = Linear(width, width, rngs, kernel_init=in_init, dtype=dtype)
            self.kv_proj = Linear(context_width, 2 * width, rngs, kernel_init=in_init, dtype=dtype)
        self.out_proj = Linear(width, width, rngs, kernel_init=out_init, dtype=dtype)

    def __call__(
        self, x: Array, context: Array | None = None, *, length: Array | None = None, causal: bool = False
    ) -> Array:
        """x [batch, tokens, width], context [batch, keys, context_width] -> [batch, tokens, width].

        `length` [batch] counts the visible keys: of the context in cross-attention, of x itself otherwise.
        """
        if self.cross:
            if context is None:
                raise ValueError("cross-attention needs a context")
            q, (k, v) = self.q_proj(x), jnp.split(self.kv_proj(context), 2, axis=-1)
        else:
            q, k, v = jnp.split(self.in_proj(x), 3, axis=-1)
        q, k, v = (a.reshape(*a.shape[:-1], self.heads, -1) for a in (q, k, v))
        y = attend(q, k, v, length=length, causal=causal)
        return self.out_proj(y.reshape(x.shape))


class Mlp(nnx.Module):
    """Two linear maps with an activation between them."""

    def __init__(
        self,
        width: int,
        hidden: int,
        rngs: nnx.Rngs,
        *,
        activation: Callable[[Array], Array],
        fc_init: Callable[..., Array] | None = None,
        proj_init: Callable[..., Array] | None = None,
        fc_bias_init: Callable[..., Array] = jax.nn.initializers.zeros,
        proj_bias_init: Callable[..., Array] = jax.nn.initializers.zeros,
        dtype: Any = jnp.float32,
    ) -> None:
        self.activation = activation
        self.c_fc = Linear(width, hidden, rngs, kernel_init=fc_init, bias_init=fc_bias_init, dtype=dtype)
        self.c_proj = Linear(hidden, width, rngs, kernel_init=proj_init, bias_init=proj_bias_init, dtype=dtype)

    def __call__(self, x: Array) -> Array:
        """[..., width] -> [..., width]."""
        return self.c_proj(self.activation(self.c_fc(x)))


class Block(nnx.Module):
    """Pre-norm transformer block: x + attention(ln_1(x)), then x + dropout(mlp(ln_2(x))). CLIP's residual block."""

    def __init__(
        self,
        width: int,
        heads: int,
        rngs: nnx.Rngs,
        *,
        mlp_ratio: float = 4.0,
        activation: Callable[[Array], Array],
        attention_init: dict[str, Any],
        mlp_init: dict[str, Any],
        causal: bool = False,
        dropout_rate: float = 0.0,
        norm: str = "saved",
        eps: float = 1e-5,
        dtype: Any = jnp.float32,
    ) -> None:
        self.causal, self.dropout_rate = causal, dropout_rate
        self.ln_1 = LayerNorm(width, eps=eps, norm=norm, dtype=dtype)
        self.attn = Attention(width, heads, rngs, dtype=dtype, **attention_init)
        self.ln_2 = LayerNorm(width, eps=eps, norm=norm, dtype=dtype)
        self.mlp = Mlp(width, round(width * mlp_ratio), rngs, activation=activation, dtype=dtype, **mlp_init)

    def __call__(self, x: Array, *, key: Array | None = None, train: bool = False) -> Array:
        """[batch, tokens, width] -> the same; deterministic but for dropout in training."""
        x = x + self.attn(self.ln_1(x), causal=self.causal)
        return x + dropout(self.mlp(self.ln_2(x)), self.dropout_rate, key, train)
