"""The text transformers of CLIP (arXiv 2103.00020, section 2.4) and of SigLIP (arXiv 2303.15343).

**CLIP** (`pool="end"`): token and position embeddings, pre-norm blocks under a causal mask, ln_final; the feature of a text
stands at its end token, whose id is the largest of the row, and is projected without bias. Because the mask is causal,
what follows the end token cannot alter it. A vocabulary that grew past the end token (textual inversion) names it by
`end_token`: then the feature stands at its first place.

**SigLIP** (`pool="last"`): no mask, the feature stands at the last place of the row, padding included, and is projected
with bias.

Towers that mix the two (CLIPA: the last place, no mask, no bias) say `causal` and `proj_bias`; `pool="first"` takes the first
place, and `projected=False` (a SigLIP of open_clip) leaves the projection out: the width is then the embedding's.

Initialisation `init="openai"`: tokens N(0, .02^2), positions N(0, .01^2), in_proj width^-1/2, out_proj and c_proj
width^-1/2 (2 layers)^-1/2, c_fc (2 width)^-1/2, projection width^-1/2 (standard deviations). `"glorot"`: tokens N(0, 1/width),
positions N(0, .02^2), Glorot-uniform matrices.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from diffusion_jax.nets.attention import Block
from diffusion_jax.nets.functional import Stack
from diffusion_jax.nets.layers import LayerNorm, Linear, scaled_uniform
from diffusion_jax.nets.vit import ACTIVATIONS, INITS, TowerOutput, glorot_blocks
from diffusion_jax.typing import UserError, one_of

__all__ = ["TextTransformer"]


class TextTransformer(nnx.Module):
    """Token ids [batch, context] -> TowerOutput; `tokens` are the features after ln_final. `embed=None`: no projection.

    `causal` and `proj_bias` are those of the family that `pool` stands for when None. Raises UserError for names that are not
    known and for a tower without a projection whose width is not `embed`.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        vocabulary_size: int = 49408,
        context_length: int = 77,
        width: int = 512,
        layers: int = 12,
        heads: int = 8,
        embed: int | None = 512,
        mlp_ratio: float = 4.0,
        pool: str = "end",
        end_token: int | None = None,
        causal: bool | None = None,
        proj_bias: bool | None = None,
        projected: bool = True,
        activation: str = "quick_gelu",
        init: str = "openai",
        eps: float = 1e-5,
        norm: str = "saved",
        scan: bool = False,
        remat: str | None = None,
        dtype: Any = jnp.float32,
    ) -> None:
        act = ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)]
        normal = jax.nn.initializers.normal
        openai = one_of("init", init, INITS) == "openai"
        hidden = round(width * mlp_ratio)
        tokens, positions = (0.02, 0.01) if openai else (width**-0.5, 0.02)
        self.token_embedding = nnx.Param(normal(tokens)(rngs.params(), (vocabulary_size, width), jnp.float32))
        self.positional_embedding = nnx.Param(normal(positions)(rngs.params(), (context_length, width), jnp.float32))
        inits: dict[str, Any] = _openai_blocks(width, hidden, layers) if openai else glorot_blocks(width, hidden)
        self.pool, self.end_token = one_of("pool", pool, ("end", "first", "last")), end_token
        self.causal = pool == "end" if causal is None else causal
        if not projected and embed not in (None, width):
            raise UserError(f"a text tower of width {width} without a projection gives {width} features, not {embed}")

        def block(rngs: nnx.Rngs) -> Block:
            return Block(
                width,
                heads,
                rngs,
                mlp_ratio=mlp_ratio,
                activation=act,
                causal=self.causal,
                norm=norm,
                eps=eps,
                dtype=dtype,
                **inits,
            )

        self.dtype = dtype
        self.blocks = Stack(block, layers, rngs, scan=scan, remat=remat)
        self.ln_final = LayerNorm(width, eps=eps, norm=norm, dtype=dtype)
        biased = pool == "last" if proj_bias is None else proj_bias
        bias = jax.nn.initializers.zeros if biased else None
        projection = {"kernel_init": normal(width**-0.5), "bias_init": bias, "dtype": dtype}
        self.proj = Linear(width, embed, rngs, **projection) if projected and embed is not None else None

    def __call__(
        self, tokens: Int[Array, "batch context"], *, key: Array | None = None, train: bool = False
    ) -> TowerOutput:
        """Encode a batch of token rows; with `pool="end"` each row holds the end token."""
        x, before = self.blocks.last_two(self.embed(tokens), train=train)
        x = self.ln_final(x)
        if self.pool == "end":
            pooled = jnp.take_along_axis(x, self._end(tokens), axis=1)[:, 0]
        else:
            pooled = x[:, -1 if self.pool == "last" else 0]
        embedding = pooled if self.proj is None else self.proj(pooled)
        return TowerOutput(x, pooled, embedding.astype(jnp.float32), before)

    def embed(self, tokens: Int[Array, "batch context"]) -> Array:
        """What enters the first block: token embeddings with positions, [batch, context, width].

        CLIP's rows may be shorter than the context. Raises UserError for rows that are longer, and for any other length where
        the feature stands at the last place or no mask hides the padding, as in SigLIP.
        """
        most, length = self.positional_embedding[...].shape[0], tokens.shape[1]
        if length > most or (length != most and (self.pool == "last" or not self.causal)):
            raise UserError(f"token rows of length {length}: this tower takes {most}")
        x = self.token_embedding[...].astype(self.dtype)[tokens]
        return x + self.positional_embedding[...].astype(self.dtype)[None, :length]

    def states(self, tokens: Int[Array, "batch context"], *, key: Array | None = None, train: bool = False) -> Array:
        """Every hidden state, [layers + 1, batch, context, width], before ln_final: what enters, then each block's output."""
        return self.blocks.states(self.embed(tokens), train=train)

    def normed(self, x: Array, *, key: Array | None = None, train: bool = False) -> Array:
        """ln_final of hidden states [batch, context, width]: what a text that is read some blocks earlier goes through."""
        return self.ln_final(x)

    def _end(self, tokens: Array) -> Array:
        """The place of each row's end token, [batch, 1, 1]."""
        at = tokens if self.end_token is None else tokens == self.end_token
        return jnp.argmax(at, axis=-1)[:, None, None]


def _openai_blocks(width: int, hidden: int, layers: int) -> dict[str, dict[str, Any]]:
    normal = jax.nn.initializers.normal
    narrow = normal(width**-0.5 * (2 * layers) ** -0.5)
    return {
        "attention_init": {"in_init": normal(width**-0.5), "out_init": narrow},
        "mlp_init": {
            "fc_init": normal((2 * width) ** -0.5),
            "fc_bias_init": scaled_uniform(width),
            "proj_init": narrow,
            "proj_bias_init": scaled_uniform(hidden),
        },
    }
