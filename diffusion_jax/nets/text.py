"""CLIP's text transformer (arXiv 2103.00020, section 2.4).

Token and position embeddings, pre-norm blocks under a causal mask, ln_final; the feature of a text stands at its end
token, whose id is the largest of the row, and is projected without bias. Because the mask is causal, what follows the
end token cannot alter it. Initialisation as OpenAI's: tokens N(0, .02^2), positions N(0, .01^2), in_proj
width^-1/2, out_proj and c_proj width^-1/2 (2 layers)^-1/2, c_fc (2 width)^-1/2, projection width^-1/2 (standard
deviations).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from diffusion_jax.nets.attention import Block
from diffusion_jax.nets.functional import Stack
from diffusion_jax.nets.layers import LayerNorm, Linear, scaled_uniform
from diffusion_jax.nets.vit import ACTIVATIONS, TowerOutput
from diffusion_jax.typing import one_of

__all__ = ["TextTransformer"]


class TextTransformer(nnx.Module):
    """Token ids [batch, context] -> TowerOutput; `tokens` are the features after ln_final, valid up to the end token."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        vocabulary_size: int = 49408,
        context_length: int = 77,
        width: int = 512,
        layers: int = 12,
        heads: int = 8,
        embed: int = 512,
        activation: str = "quick_gelu",
        norm: str = "saved",
        scan: bool = False,
        remat: str | None = None,
        dtype: Any = jnp.float32,
    ) -> None:
        act = ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)]
        normal = jax.nn.initializers.normal
        self.token_embedding = nnx.Param(normal(0.02)(rngs.params(), (vocabulary_size, width), jnp.float32))
        self.positional_embedding = nnx.Param(normal(0.01)(rngs.params(), (context_length, width), jnp.float32))
        narrow = normal(width**-0.5 * (2 * layers) ** -0.5)

        def block(rngs: nnx.Rngs) -> Block:
            return Block(
                width,
                heads,
                rngs,
                activation=act,
                attention_init={"in_init": normal(width**-0.5), "out_init": narrow},
                mlp_init={
                    "fc_init": normal((2 * width) ** -0.5),
                    "fc_bias_init": scaled_uniform(width),
                    "proj_init": narrow,
                    "proj_bias_init": scaled_uniform(4 * width),
                },
                causal=True,
                norm=norm,
                dtype=dtype,
            )

        self.dtype = dtype
        self.blocks = Stack(block, layers, rngs, scan=scan, remat=remat)
        self.ln_final = LayerNorm(width, norm=norm, dtype=dtype)
        self.proj = Linear(width, embed, rngs, kernel_init=normal(width**-0.5), bias_init=None, dtype=dtype)

    def __call__(
        self, tokens: Int[Array, "batch context"], *, key: Array | None = None, train: bool = False
    ) -> TowerOutput:
        """Encode a batch of token rows; each row holds the end token, the largest id of the vocabulary."""
        x = self.token_embedding[...].astype(self.dtype)[tokens]
        x = x + self.positional_embedding[...].astype(self.dtype)[None, : tokens.shape[1]]
        x = self.ln_final(self.blocks(x, key=key, train=train))
        end = jnp.argmax(tokens, axis=-1)
        pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        return TowerOutput(x, pooled, self.proj(pooled).astype(jnp.float32))
