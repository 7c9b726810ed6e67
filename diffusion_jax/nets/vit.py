"""The vision transformers of CLIP (arXiv 2103.00020, section 2.4; ViT: arXiv 2010.11929) and of SigLIP (arXiv 2303.15343).

**CLIP** (`pool="class"`): patches without bias, a class token, learned positions, ln_pre, pre-norm blocks, ln_post on the
class token, and a projection without bias into the space that the two towers share.

**SigLIP** (`pool="map"`): patches with bias, no class token, no ln_pre, ln_post on all tokens, then attention pooling
(a learned query attends to the tokens, and an MLP with a residual follows; Set Transformer, arXiv 1810.00825, section 3.2).
The pooled feature is the embedding where `embed` equals the width.

**CLIPA** (arXiv 2305.07017; `pool="avg"`): as CLIP, but the feature is the mean over the patches. `norm_after_pool` says
whether ln_post follows the mean or goes before it, `pre_norm=False` leaves ln_pre out.

Initialisation `init="openai"`: class token, positions and projection N(0, 1/width); the blocks keep PyTorch's defaults.
`"glorot"`, SigLIP's: Glorot-uniform matrices, biases of the MLPs N(0, 1e-12), positions N(0, 1/width).

**Patch dropout** (FLIP, arXiv 2212.00794): in training each example keeps its own random subset of the patches, drawn from
its own key, so that the masks depend neither on the batch size nor on micro-batches.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.attention import Attention, Block, Mlp
from diffusion_jax.nets.functional import Stack
from diffusion_jax.nets.layers import (
    LayerNorm,
    Linear,
    Patchify,
    gelu,
    gelu_tanh,
    glorot_square,
    quick_gelu,
    scaled_uniform,
)
from diffusion_jax.typing import UserError, one_of

__all__ = ["ACTIVATIONS", "INITS", "AttentionPool", "TowerOutput", "VisionTransformer", "drop_patches"]

ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu, "gelu_tanh": gelu_tanh}
INITS = ("openai", "glorot")
_tiny = jax.nn.initializers.normal(1e-6)


class TowerOutput(NamedTuple):
    """What a tower says; nothing is normalised to length 1.

    `tokens`: per-token features, after ln_final in text towers and in SigLIP's, straight from the last block in CLIP's
    vision tower. `penultimate`: the hidden states before the last block, without a norm. `pooled`: the one feature
    of the input. `embedding`: `pooled` projected into the space that both towers share, float32.
    """

    tokens: Float[Array, "batch tokens width"]
    pooled: Float[Array, "batch width"]
    embedding: Float[Array, "batch embed"]
    penultimate: Float[Array, "batch states features"]


def glorot_blocks(width: int, hidden: int) -> dict[str, dict[str, Any]]:
    """The initialisers of a SigLIP block."""
    glorot = jax.nn.initializers.glorot_uniform()
    return {
        "attention_init": {"in_init": glorot_square(width), "out_init": glorot_square(width)},
        "mlp_init": {"fc_init": glorot, "fc_bias_init": _tiny, "proj_init": glorot, "proj_bias_init": _tiny},
    }


def torch_blocks(width: int, hidden: int) -> dict[str, dict[str, Any]]:
    """The initialisers of a block that keeps PyTorch's defaults."""
    return {
        # PyTorch's MultiheadAttention: Glorot over the fused [3 width, width] matrix, zero biases.
        "attention_init": {"in_init": jax.nn.initializers.glorot_uniform(), "out_init": scaled_uniform(width)},
        "mlp_init": {
            "fc_init": scaled_uniform(width),
            "fc_bias_init": scaled_uniform(width),
            "proj_init": scaled_uniform(hidden),
            "proj_bias_init": scaled_uniform(hidden),
        },
    }


def drop_patches(x: Float[Array, "batch patches width"], rate: float, key: Array) -> Float[Array, "batch kept width"]:
    """A random subset of each example's patches, in their order: max(1, int(patches (1 - rate))) of them.

    `key` is one key, folded with the row, or a [batch] array of keys, one an example.
    """
    batch, patches, _ = x.shape
    keep = max(1, int(patches * (1 - rate)))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch)) if key.ndim == 0 else key
    noise = jax.vmap(lambda k: jax.random.uniform(k, (patches,)))(keys)
    rows = jnp.sort(jnp.argsort(noise, axis=1)[:, :keep], axis=1)
    return jnp.take_along_axis(x, rows[:, :, None], axis=1)


class AttentionPool(nnx.Module):
    """SigLIP's head: a learned query attends to all tokens; then x + mlp(ln(x))."""

    def __init__(
        self, width: int, heads: int, hidden: int, rngs: nnx.Rngs, *, activation: str, eps: float, norm: str, dtype: Any
    ) -> None:
        inits = glorot_blocks(width, hidden)
        self.dtype = dtype
        self.probe = nnx.Param(jax.nn.initializers.glorot_uniform()(rngs.params(), (1, width), jnp.float32))
        self.attn = Attention(width, heads, rngs, context_width=width, dtype=dtype, **inits["attention_init"])
        self.ln = LayerNorm(width, eps=eps, norm=norm, dtype=dtype)
        self.mlp = Mlp(width, hidden, rngs, activation=ACTIVATIONS[activation], dtype=dtype, **inits["mlp_init"])

    def __call__(self, x: Array) -> Array:
        """[batch, tokens, width] -> [batch, width]."""
        query = jnp.broadcast_to(self.probe[...].astype(self.dtype)[None], (x.shape[0], 1, x.shape[2]))
        x = self.attn(query, x)
        return (x + self.mlp(self.ln(x)))[:, 0]


class VisionTransformer(nnx.Module):
    """Images [batch, image_size, image_size, channels], normalised as in training -> TowerOutput.

    Where there is a class token (all but `pool="map"`) it stands first. `patch_dropout` in [0, 1) acts in training alone.
    `trim` lets the right and lower edges go that no whole patch covers (SigLIP's 384 pixels with patches of 14). Raises
    UserError for sizes that do not fit and for images of another shape.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        image_size: int = 224,
        channels: int = 3,
        patch: int = 32,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        embed: int = 512,
        mlp_ratio: float = 4.0,
        pool: str = "class",
        pre_norm: bool = True,
        norm_after_pool: bool = False,
        activation: str = "quick_gelu",
        init: str = "openai",
        eps: float = 1e-5,
        patch_dropout: float = 0.0,
        trim: bool = False,
        norm: str = "saved",
        scan: bool = False,
        remat: str | None = None,
        dtype: Any = jnp.float32,
    ) -> None:
        if image_size % patch and not trim:
            near = max(1, round(image_size / patch)) * patch
            raise UserError(f"image_size {image_size} is not divided by patch {patch}; nearest: {near}")
        if not 0 <= patch_dropout < 1:
            raise UserError(f"patch_dropout {patch_dropout} is not in [0, 1); usual are 0, 0.5 and 0.75")
        self.shape, self.patch_dropout = (image_size, image_size, channels), patch_dropout
        self.pool, self.norm_after_pool = one_of("pool", pool, ("avg", "class", "map")), norm_after_pool
        act = ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)]
        mapped = pool == "map"
        normal = jax.nn.initializers.normal(width**-0.5)
        fan, hidden = patch * patch * channels, round(width * mlp_ratio)
        openai = one_of("init", init, INITS) == "openai"
        inits: dict[str, Any] = torch_blocks(width, hidden) if openai else glorot_blocks(width, hidden)
        self.patchify = Patchify(
            patch,
            channels,
            width,
            rngs,
            kernel_init=scaled_uniform(fan),
            bias_init=jax.nn.initializers.zeros if mapped else None,
            dtype=dtype,
        )
        self.class_embedding = None if mapped else nnx.Param(normal(rngs.params(), (width,), jnp.float32))
        self.side = image_size // patch
        tokens = self.side**2 + (not mapped)
        self.positional_embedding = nnx.Param(normal(rngs.params(), (tokens, width), jnp.float32))
        self.ln_pre = None if mapped or not pre_norm else LayerNorm(width, eps=eps, norm=norm, dtype=dtype)

        def block(rngs: nnx.Rngs) -> Block:
            return Block(
                width, heads, rngs, mlp_ratio=mlp_ratio, activation=act, norm=norm, eps=eps, dtype=dtype, **inits
            )

        self.blocks = Stack(block, layers, rngs, scan=scan, remat=remat)
        self.ln_post = LayerNorm(width, eps=eps, norm=norm, dtype=dtype)
        self.head = (
            AttentionPool(width, heads, hidden, rngs, activation=activation, eps=eps, norm=norm, dtype=dtype)
            if mapped
            else None
        )
        projected = not mapped or embed != width
        self.proj = Linear(width, embed, rngs, kernel_init=normal, bias_init=None, dtype=dtype) if projected else None

    def __call__(self, images: Array, *, key: Array | None = None, train: bool = False) -> TowerOutput:
        """Encode a batch of images; `key` (one, or one an example) is needed for patch dropout in training."""
        x, before = self.blocks.last_two(self.embed(images, key=key, train=train), train=train)
        if self.head is not None:
            x = self.ln_post(x)
            pooled = self.head(x)
        elif self.pool == "avg":
            patches = x[:, 1:]
            after = self.norm_after_pool
            pooled = self.ln_post(patches.mean(axis=1)) if after else self.ln_post(patches).mean(axis=1)
        else:
            pooled = self.ln_post(x[:, 0])
        embedding = pooled if self.proj is None else self.proj(pooled)
        return TowerOutput(x, pooled, embedding.astype(jnp.float32), before)

    def embed(self, images: Array, *, key: Array | None = None, train: bool = False) -> Array:
        """What enters the first block: patches with positions, [batch, tokens, width]."""
        if images.shape[1:] != self.shape:
            raise UserError(f"images of shape {images.shape[1:]}: this tower takes {self.shape}")
        size = self.side * self.patchify.patch
        x = self.patchify(images[:, :size, :size])
        positions = self.positional_embedding[...].astype(x.dtype)
        first = 0 if self.class_embedding is None else 1
        x = x + positions[None, first:]
        if train and self.patch_dropout:
            if key is None:
                raise ValueError("patch dropout in training needs a key")
            x = drop_patches(x, self.patch_dropout, key)
        if self.class_embedding is not None:
            token = self.class_embedding[...].astype(x.dtype) + positions[0]
            x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, x.shape[2])), x], axis=1)
        return x if self.ln_pre is None else self.ln_pre(x)

    def states(self, images: Array, *, key: Array | None = None, train: bool = False) -> Array:
        """Every hidden state, [layers + 1, batch, tokens, width]: what enters the first block, then each one's output."""
        return self.blocks.states(self.embed(images, key=key, train=train), train=train)
