"""What a U-Net is told besides pixels: the embedding e of time and condition, and the tokens that it attends to.

e is the sum of the time's embedding and of one for each entry of the condition that the network reads:

- time, by sines and cosines (arXiv 2006.11239; the frequencies are 10000^(-i / (half - shift)), i = 0 .. half - 1), by random
  frequencies ("fourier", arXiv 2006.10739; of ln t in score SDEs, arXiv 2011.13456) or by a table ("learned"); then an MLP;
- `label`, a table; `level`, a number, features as the time's and an MLP of its own;
- `embedding`, a vector: added as it is, by a linear map, by that and a layer norm, or by an MLP;
- `pooled`, the embedding of a text, by a linear map and a layer norm; `ids`, sizes and crops, as features, joined with `pooled`
  and through an MLP (SDXL, arXiv 2307.01952, section 2.2);
- `augment`, by a map without a bias (EDM, arXiv 2206.00364, appendix F.2);
- `guidance`, a scale w, as features of 1000 (w - 1) that a map without a bias adds to the time's (distilled models, arXiv
  2210.03142; LCM, arXiv 2310.04378).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.layers import LayerNorm, Linear
from diffusion_jax.nets.unet.blocks import activation
from diffusion_jax.typing import one_of

__all__ = ["EmbeddingMlp", "TimeFeatures", "VectorEmbedding", "sinusoids"]

VECTOR = ("identity", "linear", "linear_norm", "mlp")


def sinusoids(
    t: Float[Array, " batch"], features: int, *, cosine_first: bool = True, shift: float = 0.0
) -> Float[Array, "batch features"]:
    """Sines and cosines of t at frequencies 10000^(-i / (half - shift)), half = features // 2; an odd number ends in zeros."""
    half = features // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - shift))
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    parts = [jnp.cos(angles), jnp.sin(angles)] if cosine_first else [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate([*parts, jnp.zeros((len(t), features % 2), jnp.float32)], axis=-1)


class TimeFeatures(nnx.Module):
    """The features of a time [batch] -> [batch, width].

    `kind` is "positional"; "fourier", of t by `width` / 2 frequencies drawn from N(0, scale^2), of ln t where `log`; or
    "learned", a table of `steps` rows, which takes whole numbers.
    """

    def __init__(
        self,
        kind: str,
        width: int,
        rngs: nnx.Rngs,
        *,
        cosine_first: bool = True,
        shift: float = 0.0,
        scale: float = 16.0,
        log: bool = False,
        steps: int | None = None,
    ) -> None:
        self.kind = one_of("time", kind, ("positional", "fourier", "learned"))
        self.width, self.cosine_first, self.shift, self.log = width, cosine_first, shift, log

        def drawn(*shape: int) -> nnx.Param:
            return nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32))

        self.frequencies = nnx.Param(scale * drawn(width // 2)[...]) if kind == "fourier" else None
        self.table = drawn(steps or 0, width) if kind == "learned" else None

    def __call__(self, t: Float[Array, " batch"]) -> Float[Array, "batch width"]:
        """float32, whatever the network computes in."""
        if self.table is not None:
            return jnp.take(self.table[...], t.astype(jnp.int32), axis=0)
        if self.frequencies is None:
            return sinusoids(t, self.width, cosine_first=self.cosine_first, shift=self.shift)
        t = jnp.log(t.astype(jnp.float32)) if self.log else t.astype(jnp.float32)
        # Random, and not trained: the gradient stops here.
        angles = 2 * math.pi * t[:, None] * jax.lax.stop_gradient(self.frequencies[...])[None]
        parts = (jnp.cos(angles), jnp.sin(angles)) if self.cosine_first else (jnp.sin(angles), jnp.cos(angles))
        return jnp.concatenate(parts, axis=-1)


class EmbeddingMlp(nnx.Module):
    """linear_2(act(linear_1(x + added))), [batch, features] -> [batch, width]; `added` of `guidance` numbers by a map."""

    def __init__(
        self,
        features: int,
        width: int,
        rngs: nnx.Rngs,
        *,
        act: str = "silu",
        post: str | None = None,
        guidance: int | None = None,
        dtype: Any = jnp.float32,
    ) -> None:
        self.act, self.post = activation(act), None if post is None else activation(post)
        self.linear_1 = Linear(features, width, rngs, dtype=dtype)
        self.linear_2 = Linear(width, width, rngs, dtype=dtype)
        self.guidance = None if guidance is None else Linear(guidance, features, rngs, bias_init=None, dtype=dtype)

    def __call__(self, x: Array, guided: Array | None = None) -> Array:
        """`guided` [batch, guidance] are the features of a guidance scale."""
        if self.guidance is not None and guided is not None:
            x = x + self.guidance(guided)
        y = self.linear_2(self.act(self.linear_1(x)))
        return y if self.post is None else self.post(y)


class VectorEmbedding(nnx.Module):
    """A vector [batch, features] -> [batch, width]: by "identity", "linear", "linear_norm" or "mlp"."""

    def __init__(
        self, kind: str, features: int, width: int, rngs: nnx.Rngs, *, norm: str = "saved", dtype: Any = jnp.float32
    ) -> None:
        self.kind = one_of("embedding", kind, VECTOR)
        self.linear = Linear(features, width, rngs, dtype=dtype) if kind in ("linear", "linear_norm") else None
        self.norm = LayerNorm(width, norm=norm, dtype=dtype) if kind == "linear_norm" else None
        self.mlp = EmbeddingMlp(features, width, rngs, dtype=dtype) if kind == "mlp" else None

    def __call__(self, x: Array) -> Array:
        """The vector's part of e."""
        if self.mlp is not None:
            return self.mlp(x)
        y = x if self.linear is None else self.linear(x)
        return y if self.norm is None else self.norm(y)


def guidance_features(scale: Float[Array, " batch"], features: int) -> Float[Array, "batch features"]:
    """Sines, then cosines, of 1000 (w - 1) at frequencies 10000^(-i / (half - 1)) (arXiv 2310.04378's code)."""
    return sinusoids(1000.0 * (scale.astype(jnp.float32) - 1.0), features, cosine_first=False, shift=1.0)
