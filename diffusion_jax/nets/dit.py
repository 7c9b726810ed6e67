"""The diffusion transformer with adaLN-Zero and cross-attention to text (DiT: arXiv 2212.09748, section 3.2).

The sum c of the embeddings of the time and of what else is one vector an example gives each block six vectors: a shift, a
scale and a gate for attention and for the MLP,

    x <- x + gate_1 attention(norm(x) (1 + scale_1) + shift_1)
    x <- x + cross(norm(x), text tokens)
    x <- x + gate_2 mlp(norm(x) (1 + scale_2) + shift_2).

All six come from a zero-initialised map, cross-attention ends in one, and so does the final layer: at the start each
block is the identity and the network's output is 0. Cross-attention stands between the two, ungated, as in PixArt
(arXiv 2310.00426, section 2.3).

The condition is a dict of any of these entries; without any (`cond=None`) the network is unconditional.

- Added to c: `pooled` [batch, features], of a text, and `embedding` [batch, features], of a picture, each by a map of its own;
  `label` [batch], whole numbers, by a table whose last row stands for no label (section 3.2 there); `level` [batch] in [0, 1],
  the noise of what is joined, by features and an MLP like the time's (arXiv 2106.15282, section 3); `augment` [batch, k],
  by a map without a bias, so that zeros say nothing (arXiv 2206.00364, appendix F.2).
- Attended to: `tokens` [batch, keys, features] with `length` [batch], the number of valid ones; with `image_tokens` as many
  tokens more, a linear map of `embedding`, before them or alone (unCLIP's decoder: arXiv 2204.06125, section 2.1).
- Joined to the noised image by channels: `image` [batch, height, width, channels] (arXiv 2104.07636, section 2.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.attention import Attention, Mlp
from diffusion_jax.nets.entries import check_entries
from diffusion_jax.nets.functional import Stack
from diffusion_jax.nets.layers import (
    LayerNorm,
    Linear,
    Patchify,
    dropout,
    gelu_tanh,
    sincos_positions,
    time_features,
    unpatchify,
)
from diffusion_jax.typing import UserError

__all__ = ["DiT", "DiTBlock"]

_zeros = jax.nn.initializers.zeros


def _modulate(x: Array, shift: Array, scale: Array) -> Array:
    return x * (1.0 + scale[:, None]) + shift[:, None]


class DiTBlock(nnx.Module):
    """One block; see the module's docstring for what it computes."""

    def __init__(
        self,
        width: int,
        heads: int,
        rngs: nnx.Rngs,
        *,
        mlp_ratio: float,
        context_width: int | None,
        dropout_rate: float,
        eps: float,
        norm: str,
        dtype: Any,
    ) -> None:
        self.norm_1 = LayerNorm(width, eps=1e-6, affine=False, norm=norm, dtype=dtype)
        self.attn = Attention(width, heads, rngs, dtype=dtype)
        self.norm_2 = LayerNorm(width, eps=eps, affine=False, norm=norm, dtype=dtype)
        self.mlp = Mlp(width, round(width * mlp_ratio), rngs, activation=gelu_tanh, dtype=dtype)
        self.modulation = Linear(width, 6 * width, rngs, kernel_init=_zeros, dtype=dtype)
        self.dropout_rate = dropout_rate
        self.norm_cross = None if context_width is None else LayerNorm(width, eps=1e-6, norm=norm, dtype=dtype)
        self.cross = (
            None
            if context_width is None
            else Attention(width, heads, rngs, context_width=context_width, out_init=_zeros, dtype=dtype)
        )

    def __call__(
        self,
        x: Array,
        c: Array,
        context: Array | None,
        length: Array | None,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Array:
        """x [batch, tokens, width], c [batch, width] (after SiLU) -> x."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(self.modulation(c), 6, axis=-1)
        x = x + gate_1[:, None] * self.attn(_modulate(self.norm_1(x), shift_1, scale_1))
        if self.cross is not None and self.norm_cross is not None:
            x = x + self.cross(self.norm_cross(x), context, length=length)
        y = self.mlp(_modulate(self.norm_2(x), shift_2, scale_2))
        return x + gate_2[:, None] * dropout(y, self.dropout_rate, key, train)


class DiT(nnx.Module):
    """Noised images [batch, size, size, channels], time [batch], condition -> the network's prediction, float32.

    `pooled`, `context` and `embedding` are the feature sizes of the condition's entries (of `tokens` for `context`), `image`
    and `augment` how many channels and numbers those have, None where the condition has none; `classes` are the rows of the
    table of labels, the one for no label among them; `level` says whether there is one. `time_scale` multiplies the time before
    its features (1 for times in [0, 1000], as DiT's), whose frequencies end one step later with `time_shift` 1 (as diffusers').
    `out_channels` are twice the channels where variances are learned, and `eps` is that of the norm before the MLP. `reads` are
    the entries of the condition that it can read; an object reads those it has sizes for.
    """

    reads: ClassVar[tuple[str, ...]] = (
        "pooled", "tokens", "length", "label", "embedding", "image", "level", "augment",
    )  # fmt: skip

    @staticmethod
    def sizes(
        shape: tuple[int, ...],
        entries: Mapping[str, tuple[int, ...]],
        counts: Mapping[str, int] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """The keywords that follow from an example's `shape` and from the `entries` of its condition, their shapes.

        `counts` says of those that are indices how many there are, {"label": classes + 1}, the null's among them.

        Raises UserError for examples that are no square pictures, for tokens without their length, for an image of another
        size than the example's, and for labels of unknown number.
        """
        if len(shape) != 3 or shape[0] != shape[1]:
            raise UserError(f"a DiT draws square pictures [size, size, channels], not arrays {tuple(shape)}")
        if ("tokens" in entries) != ("length" in entries):
            raise UserError(f"a DiT reads 'tokens' with their 'length'; the condition has {', '.join(entries)}")
        check_entries("a DiT", shape, entries, counts)
        last = {name: shape[-1] for name, shape in entries.items() if shape}
        return {
            "image_size": shape[0],
            "channels": shape[2],
            "pooled": last.get("pooled"),
            "context": last.get("tokens"),
            "classes": counts["label"] if "label" in entries else None,
            "embedding": last.get("embedding"),
            "image": last.get("image"),
            "level": "level" in entries,
            "augment": last.get("augment"),
        }

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        image_size: int,
        channels: int,
        patch: int = 2,
        width: int = 384,
        layers: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        pooled: int | None = None,
        context: int | None = None,
        classes: int | None = None,
        embedding: int | None = None,
        image: int | None = None,
        level: bool = False,
        augment: int | None = None,
        image_tokens: int = 0,
        out_channels: int | None = None,
        time_scale: float = 1.0,
        time_shift: float = 0.0,
        eps: float = 1e-6,
        dropout_rate: float = 0.0,
        norm: str = "saved",
        scan: bool = False,
        remat: str | None = None,
        dtype: Any = jnp.float32,
    ) -> None:
        if image_size % patch:
            raise UserError(f"image_size {image_size} is not divided by patch {patch}")
        if width % 4:
            raise UserError(f"width {width} is not divided by 4, as the two-dimensional positions need")
        if image_tokens and embedding is None:
            raise UserError(
                f"image_tokens {image_tokens} are made of a picture's embedding, and the condition has none"
            )
        attended = width if context is None and image_tokens else context
        small = jax.nn.initializers.normal(0.02)
        self.patch, self.image_size, self.time_scale, self.time_shift = patch, image_size, time_scale, time_shift
        drawn = channels if out_channels is None else out_channels
        self.channels, self.joined = channels, image
        self.patchify = Patchify(patch, channels + (image or 0), width, rngs, dtype=dtype)
        self.time_in = Linear(256, width, rngs, kernel_init=small, dtype=dtype)
        self.time_out = Linear(width, width, rngs, kernel_init=small, dtype=dtype)
        self.pooled = None if pooled is None else Linear(pooled, width, rngs, kernel_init=small, dtype=dtype)
        self.context_norm = None if context is None else LayerNorm(context, norm=norm, dtype=dtype)

        def block(rngs: nnx.Rngs) -> DiTBlock:
            return DiTBlock(
                width,
                heads,
                rngs,
                mlp_ratio=mlp_ratio,
                context_width=attended,
                dropout_rate=dropout_rate,
                eps=eps,
                norm=norm,
                dtype=dtype,
            )

        self.blocks = Stack(block, layers, rngs, scan=scan, remat=remat)
        self.norm_final = LayerNorm(width, eps=1e-6, affine=False, norm=norm, dtype=dtype)
        self.modulation = Linear(width, 2 * width, rngs, kernel_init=_zeros, dtype=dtype)
        self.final = Linear(width, patch * patch * drawn, rngs, kernel_init=_zeros, dtype=dtype)

        # Last, so that what a network without them begins with stays what it was.
        def added(features: int | None, **given: Any) -> Linear | None:
            return None if features is None else Linear(features, width, rngs, kernel_init=small, dtype=dtype, **given)

        self.label = None if classes is None else nnx.Param(small(rngs.params(), (classes, width), jnp.float32))
        self.embedding, self.augment = added(embedding), added(augment, bias_init=None)
        self.image_tokens = image_tokens
        made = image_tokens * (attended or 0)
        self.tokens_in = Linear(embedding or 0, made, rngs, kernel_init=small, dtype=dtype) if made else None
        self.level_in = added(256 if level else None)
        self.level_out = Linear(width, width, rngs, kernel_init=_zeros, dtype=dtype) if level else None

    def __call__(
        self,
        xt: Float[Array, "batch ..."],
        t: Float[Array, " batch"],
        cond: dict[str, Array] | None = None,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch size size channels"]:
        """The prediction, in whatever space the network is trained for. UserError for images of another shape."""
        drawn = (self.image_size, self.image_size, self.channels)
        if xt.shape[1:] != drawn:
            raise UserError(
                f"this network draws {drawn}; given {xt.shape[1:]} an example, of [batch, height, width, channels]"
            )
        x = self.patchify(xt if self.joined is None else self._join(xt, _entry(cond, "image")))
        grid = self.image_size // self.patch
        x = x + jnp.asarray(sincos_positions(grid, grid, x.shape[-1]), x.dtype)[None]
        c = self.time_out(jax.nn.silu(self.time_in(time_features(t * self.time_scale, 256, shift=self.time_shift))))
        context = length = None
        for name, added in (("pooled", self.pooled), ("embedding", self.embedding), ("augment", self.augment)):
            if added is not None:
                c = c + added(_entry(cond, name))
        if self.label is not None:
            c = c + self.label[...].astype(c.dtype)[_entry(cond, "label")]
        if self.level_in is not None and self.level_out is not None:
            c = c + self.level_out(jax.nn.silu(self.level_in(time_features(1000.0 * _entry(cond, "level"), 256))))
        if self.context_norm is not None:
            context, length = self.context_norm(_entry(cond, "tokens")), _entry(cond, "length")
        if self.tokens_in is not None:
            picture = self.tokens_in(_entry(cond, "embedding")).reshape(len(xt), self.image_tokens, -1)
            # The picture's first, so that a length hides the text's end.
            context = picture if context is None else jnp.concatenate([picture, context], axis=1)
            length = None if length is None else length + self.image_tokens
        c = jax.nn.silu(c)
        x = self.blocks(x, c, context, length, key=key, train=train)
        shift, scale = jnp.split(self.modulation(c), 2, axis=-1)
        x = self.final(_modulate(self.norm_final(x), shift, scale))
        return unpatchify(x.astype(jnp.float32), self.patch, self.image_size, self.image_size)

    def _join(self, xt: Array, image: Array) -> Array:
        """The noised image with the condition's behind its channels. UserError for one of another shape."""
        joined = (self.image_size, self.image_size, self.joined)
        if image.shape[1:] != joined:
            raise UserError(f"this network joins an 'image' of {joined} an example; given {image.shape[1:]}")
        return jnp.concatenate([xt, image.astype(xt.dtype)], axis=-1)


def _entry(cond: dict[str, Array] | None, name: str) -> Array:
    if cond is None or name not in cond:
        given = "None" if cond is None else ", ".join(sorted(cond))
        raise ValueError(f"this network needs a condition with {name!r}; it was given {given}")
    return cond[name]
