"""CLIP's vision transformer (arXiv 2103.00020, section 2.4; ViT: arXiv 2010.11929).

Patches without bias, a class token, learned positions, ln_pre, pre-norm blocks, ln_post on the class token, and a
projection without bias into the space that the two towers share. Initialisation as OpenAI's: class token, positions and
projection N(0, 1/width); the blocks keep PyTorch's defaults.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.attention import Block
from diffusion_jax.nets.functional import Stack
from diffusion_jax.nets.layers import LayerNorm, Linear, Patchify, gelu, quick_gelu, scaled_uniform
from diffusion_jax.typing import UserError, one_of

__all__ = ["ACTIVATIONS", "TowerOutput", "VisionTransformer"]

ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu}


class TowerOutput(NamedTuple):
    """What a tower says: per-token features, the pooled feature, and its projection (not normalised)."""

    tokens: Float[Array, "batch tokens width"]
    pooled: Float[Array, "batch width"]
    embedding: Float[Array, "batch embed"]


class VisionTransformer(nnx.Module):
    """Images [batch, size, size, channels] in [-1, 1] (or CLIP-normalised) -> TowerOutput; the class token stands first."""

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
        activation: str = "quick_gelu",
        norm: str = "saved",
        scan: bool = False,
        remat: str | None = None,
        dtype: Any = jnp.float32,
    ) -> None:
        if image_size % patch:
            raise UserError(f"image_size {image_size} is not divided by patch {patch}")
        act = ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)]
        normal = jax.nn.initializers.normal(width**-0.5)
        fan = patch * patch * channels
        self.patchify = Patchify(
            patch, channels, width, rngs, kernel_init=scaled_uniform(fan), bias_init=None, dtype=dtype
        )
        self.class_embedding = nnx.Param(normal(rngs.params(), (width,), jnp.float32))
        tokens = (image_size // patch) ** 2 + 1
        self.positional_embedding = nnx.Param(normal(rngs.params(), (tokens, width), jnp.float32))
        self.ln_pre = LayerNorm(width, norm=norm, dtype=dtype)
        hidden = round(width * mlp_ratio)

        def block(rngs: nnx.Rngs) -> Block:
            return Block(
                width,
                heads,
                rngs,
                mlp_ratio=mlp_ratio,
                activation=act,
                # PyTorch's MultiheadAttention: Glorot over the fused [3 width, width] matrix, zero biases.
                attention_init={"in_init": jax.nn.initializers.glorot_uniform(), "out_init": scaled_uniform(width)},
                mlp_init={
                    "fc_init": scaled_uniform(width),
                    "fc_bias_init": scaled_uniform(width),
                    "proj_init": scaled_uniform(hidden),
                    "proj_bias_init": scaled_uniform(hidden),
                },
                norm=norm,
                dtype=dtype,
            )

        self.blocks = Stack(block, layers, rngs, scan=scan, remat=remat)
        self.ln_post = LayerNorm(width, norm=norm, dtype=dtype)
        self.proj = Linear(width, embed, rngs, kernel_init=normal, bias_init=None, dtype=dtype)

    def __call__(self, images: Array, *, key: Array | None = None, train: bool = False) -> TowerOutput:
        """Encode a batch of images."""
        x = self.patchify(images)
        first = jnp.broadcast_to(self.class_embedding[...].astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        x = jnp.concatenate([first, x], axis=1) + self.positional_embedding[...].astype(x.dtype)[None]
        x = self.blocks(self.ln_pre(x), key=key, train=train)
        pooled = self.ln_post(x[:, 0])
        return TowerOutput(x, pooled, self.proj(pooled).astype(jnp.float32))
