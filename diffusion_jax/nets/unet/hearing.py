"""What a U-Net hears: time and condition become one embedding, and a text, for its blocks (see `embedding` for the parts).

    e = post(time_mlp(features(t) + guidance)) + label + level + embedding + pooled + ids + augment + pool(tokens)

With `joins` the label's or embedding's part stands beside the time's instead; with `final` the sum goes through an activation.
With `before` label and augmentation are added to the time's features, before the MLP (score SDEs as EDM sets them, arXiv
2206.00364, table 7): there the label is one-hot times the square root of the number of classes, and no label all zeros.

Tokens are mapped to the width that is attended to by "text" (a linear map), "image" (`image_tokens` tokens from `embedding`) or
both.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.entries import entry
from diffusion_jax.nets.layers import LayerNorm, Linear
from diffusion_jax.nets.unet.blocks import activation
from diffusion_jax.nets.unet.convolution import Conv
from diffusion_jax.nets.unet.embedding import EmbeddingMlp, TimeFeatures, VectorEmbedding, guidance_features, sinusoids
from diffusion_jax.nets.unet.levels import Told
from diffusion_jax.typing import UserError, one_of

__all__ = ["Hearing"]

PROJECTIONS = (None, "text", "image", "text_image")
HINT = ((16, 1), (16, 1), (32, 2), (32, 1), (96, 2), (96, 1), (256, 2), (4, 1))  # width and stride of each convolution
HINT_CHANNELS = 4


class TokenPool(nnx.Module):
    """Tokens [batch, keys, features] -> [batch, width]: a norm, attention of the mean to all, a linear map, a norm.

    The pooling of DeepFloyd IF: the query is the mean of the tokens and a learned vector, which stands first among the keys.
    """

    def __init__(
        self, features: int, width: int, heads: int, rngs: nnx.Rngs, *, norm: str = "saved", dtype: Any = jnp.float32
    ) -> None:
        if features % heads:
            raise UserError(f"{features} features of tokens are not divided by {heads} heads of their pooling")
        self.heads = heads
        self.norm1 = LayerNorm(features, norm=norm, dtype=dtype)
        draw = jax.nn.initializers.normal(features**-0.5)
        self.position = nnx.Param(draw(rngs.params(), (features,), jnp.float32))
        self.q, self.k, self.v = (Linear(features, features, rngs, dtype=dtype) for _ in range(3))
        self.proj = Linear(features, width, rngs, dtype=dtype)
        self.norm2 = LayerNorm(width, norm=norm, dtype=dtype)

    def __call__(self, tokens: Array) -> Array:
        """All tokens count."""
        x = self.norm1(tokens)
        b, _, c = x.shape
        first = x.mean(1, keepdims=True) + jnp.broadcast_to(self.position[...].astype(x.dtype), (b, 1, c))
        x = jnp.concatenate([first, x], axis=1)
        q, k, v = (each.reshape(*each.shape[:-1], self.heads, -1) for each in (self.q(first), self.k(x), self.v(x)))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32) * (c // self.heads) ** -0.5
        y = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)
        return self.norm2(self.proj(y.reshape(b, c)))


class ImageTokens(nnx.Module):
    """An embedding [batch, features] -> [batch, count, context] by a linear map, and a norm where `normed`."""

    def __init__(
        self, features: int, count: int, context: int, rngs: nnx.Rngs, *, normed: bool, norm: str, dtype: Any
    ) -> None:
        self.count = count
        self.linear = Linear(features, count * context, rngs, dtype=dtype)
        self.norm = LayerNorm(context, norm=norm, dtype=dtype) if normed else None

    def __call__(self, x: Array) -> Array:
        """The tokens."""
        y = self.linear(x).reshape(x.shape[0], self.count, -1)
        return y if self.norm is None else self.norm(y)


class Hearing(nnx.Module):
    """(time, condition) -> (Told, what of the condition joins the picture or None).

    `base` is the width of the finest level: the time has so many features, and e `width` numbers, by default four times as
    many. `classes` are rows of the label's table, `embedding`, `pooled`, `augment` and `tokens` sizes of those entries, None
    where the condition has none; `embedding_by` and `pooled_by` are kinds of `VectorEmbedding`, None for an embedding that
    tokens alone are made of. `ids` are how many, each of `id_features`.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        base: int,
        width: int | None = None,
        time: str = "positional",
        time_features: int | None = None,
        time_scale: float = 1.0,
        cosine_first: bool = True,
        shift: float = 0.0,
        fourier_scale: float = 16.0,
        fourier_log: bool = False,
        steps: int | None = None,
        post: str | None = None,
        final: str | None = None,
        guidance: int | None = None,
        classes: int | None = None,
        level: bool = False,
        embedding: int | None = None,
        embedding_by: str | None = "mlp",
        joins: bool = False,
        pooled: int | None = None,
        pooled_by: str = "linear",
        ids: int | None = None,
        id_features: int = 256,
        augment: int | None = None,
        before: bool = False,
        tokens: int | None = None,
        context: int | None = None,
        tokens_by: str | None = None,
        image_tokens: int = 32,
        pool_heads: int | None = None,
        hint: bool = False,
        act: str = "silu",
        norm: str = "saved",
        dtype: Any = jnp.float32,
    ) -> None:
        inner = 4 * base if width is None else width
        self.width = 2 * inner if joins else inner
        self.time_scale, self.joins, self.before = time_scale, joins, before
        self.cosine_first, self.shift, self.reads_tokens = cosine_first, shift, tokens is not None
        self.hint_channels = HINT_CHANNELS if hint else 0
        features = base if time_features is None else time_features
        self.features = TimeFeatures(
            time, features, rngs,
            cosine_first=cosine_first, shift=shift, scale=fourier_scale, log=fourier_log, steps=steps,
        )  # fmt: skip
        common = {"norm": norm, "dtype": dtype}
        self.time_mlp = EmbeddingMlp(features, inner, rngs, act=act, post=post, guidance=guidance, dtype=dtype)
        self.guidance = guidance
        self.final = None if final is None else activation(final)
        small = jax.nn.initializers.normal(0.02)
        into = features if before else inner
        rows = (classes or 0) - before  # the null, the last, is all zeros where it is told before
        self.label = None if classes is None else nnx.Param(small(rngs.params(), (rows, into), jnp.float32))
        self.label_bias = nnx.Param(jnp.zeros((into,), jnp.float32)) if before and classes is not None else None
        self.level = EmbeddingMlp(features, inner, rngs, act=act, dtype=dtype) if level else None
        self.augment = None if augment is None else Linear(augment, into, rngs, bias_init=None, dtype=dtype)
        added = embedding is not None and embedding_by is not None
        self.embedding = VectorEmbedding(str(embedding_by), embedding or 0, inner, rngs, **common) if added else None
        self.ids, self.id_features = ids, id_features
        joined = None if ids is None else (pooled or 0) + ids * id_features
        self.ids_mlp = None if joined is None else EmbeddingMlp(joined, inner, rngs, dtype=dtype)
        alone = joined is None and pooled is not None
        self.pooled = VectorEmbedding(pooled_by, pooled or 0, inner, rngs, **common) if alone else None
        self.reads_pooled = pooled is not None
        pools = pool_heads is not None
        self.pool = TokenPool(_known("tokens", tokens), inner, pool_heads or 0, rngs, **common) if pools else None
        one_of("tokens_by", str(tokens_by), [str(kind) for kind in PROJECTIONS])
        maps_text, maps_image = tokens_by in ("text", "text_image"), tokens_by in ("image", "text_image")
        wide = _known("context", context) if maps_text or maps_image else 0
        self.text_map = Linear(_known("tokens", tokens), wide, rngs, dtype=dtype) if maps_text else None
        self.image_map = (
            ImageTokens(_known("embedding", embedding), image_tokens, wide, rngs, normed=tokens_by == "image", **common)
            if maps_image
            else None
        )
        widths = [3, *[out for out, _ in HINT]]
        convs = [Conv(widths[i], out, 3, rngs, stride=by, dtype=dtype) for i, (out, by) in enumerate(HINT) if hint]
        self.hint = nnx.List(convs) if hint else None

    def __call__(
        self, t: Float[Array, " batch"], cond: dict[str, Array] | None
    ) -> tuple[Told, Float[Array, "batch height width 4"] | None]:
        """`t` in the network's own unit. UserError for a condition that lacks an entry."""
        x, guided = self.features(t * self.time_scale), None
        if self.before:
            x = self._told_before(x, cond)
        if self.guidance is not None:
            guided = guidance_features(entry(cond, "guidance"), self.guidance)
        e = self.time_mlp(x, guided)
        if self.label is not None and not self.before:
            e = self._with(e, jnp.take(self.label[...].astype(e.dtype), entry(cond, "label"), axis=0))
        if self.level is not None:
            e = self._with(e, self.level(self.features(entry(cond, "level"))))
        if self.embedding is not None:
            e = self._with(e, self.embedding(entry(cond, "embedding")))
        if self.augment is not None and not self.before:
            e = e + self.augment(entry(cond, "augment"))
        if self.pooled is not None:
            e = e + self.pooled(entry(cond, "pooled"))
        if self.ids_mlp is not None:
            ids = entry(cond, "ids")
            told = sinusoids(ids.reshape(-1), self.id_features, cosine_first=self.cosine_first, shift=self.shift)
            parts = [entry(cond, "pooled")] if self.reads_pooled else []
            e = e + self.ids_mlp(jnp.concatenate([*parts, told.reshape(len(ids), -1)], axis=-1))
        if self.pool is not None:
            e = e + self.pool(entry(cond, "tokens"))
        e = e if self.final is None else self.final(e)
        text, length = self._text(cond)
        return Told(e, text, length), self._hint(cond)

    def _with(self, e: Array, part: Array) -> Array:
        return jnp.concatenate([e, part], axis=-1) if self.joins else e + part

    def _told_before(self, x: Array, cond: dict[str, Array] | None) -> Array:
        if self.label is not None and self.label_bias is not None:
            table = self.label[...]
            rows = jax.nn.one_hot(entry(cond, "label"), len(table)) @ table * len(table) ** 0.5
            x = x + rows + jnp.broadcast_to(self.label_bias[...], x.shape)
        return x if self.augment is None else x + self.augment(entry(cond, "augment"))

    def _text(self, cond: dict[str, Array] | None) -> tuple[Array | None, Array | None]:
        """The tokens that are attended to, and how many of them count."""
        text = length = None
        if self.reads_tokens:
            text, length = entry(cond, "tokens"), None if cond is None else cond.get("length")
            text = text if self.text_map is None else self.text_map(text)
        if self.image_map is None:
            return text, length
        picture = self.image_map(entry(cond, "embedding"))
        if text is None:
            return picture, None
        # The picture's first, so that a length hides the text's end.
        return jnp.concatenate([picture, text], axis=1), None if length is None else length + picture.shape[1]

    def _hint(self, cond: dict[str, Array] | None) -> Array | None:
        if self.hint is None:
            return None
        x = entry(cond, "hint")
        for i, conv in enumerate(self.hint):
            x = conv(x if i == 0 else jax.nn.silu(x))
        return x


def _known(what: str, size: int | None) -> int:
    if size is None:
        raise UserError(f"this way to hear needs the size of {what!r}, which is None")
    return size
