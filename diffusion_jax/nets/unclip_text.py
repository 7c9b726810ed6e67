"""What unCLIP's decoder hears of a picture's embedding and of a text (arXiv 2204.06125, section 2.1; sizes of Karlo's weights).

With z the embedding of the picture, y that of the text and s its tokens,

    embedding = A y + B z,   added to that of the time,
    tokens = [C_1 z, ..., C_k z, norm(D s_1), ..., norm(D s_n)],   attended to.

Without a picture a learned vector stands for z, as classifier-free guidance wants.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from diffusion_jax.nets.layers import LayerNorm, Linear
from diffusion_jax.typing import UserError

__all__ = ["TextProjection"]


class TextProjection(nnx.Module):
    """(picture's embedding or None, text's embedding, text's tokens, length) -> the condition of a decoder.

    `embedding` is the size of both embeddings, `tokens` the features of a token; `width` is that of the decoder's embedding of
    the time, `context` the features that it attends to, `count` how many tokens the picture makes.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        embedding: int,
        tokens: int,
        width: int,
        context: int,
        count: int = 4,
        norm: str = "saved",
        dtype: Any = jnp.float32,
    ) -> None:
        small = jax.nn.initializers.normal(0.02)
        self.embedding, self.tokens, self.count = embedding, tokens, count
        self.null_embedding = nnx.Param(small(rngs.params(), (embedding,), jnp.float32))
        self.text = Linear(embedding, width, rngs, dtype=dtype)
        self.image = Linear(embedding, width, rngs, dtype=dtype)
        self.image_tokens = Linear(embedding, count * context, rngs, dtype=dtype)
        self.text_tokens = Linear(tokens, context, rngs, dtype=dtype)
        self.norm_text = LayerNorm(context, norm=norm, dtype=dtype)

    def __call__(
        self,
        image: Float[Array, "batch of_image"] | None,
        text: Float[Array, "batch of_text"],
        tokens: Float[Array, "batch n features"],
        length: Int[Array, " batch"],
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> dict[str, Array]:
        """{"embedding" [batch, width], "tokens" [batch, count + n, context], "length" [batch]}, float32.

        The picture's tokens stand first, so that `length` + count hides the text's end. Raises UserError for embeddings and
        tokens of another size.
        """
        for what, given, size in (("embedding", text, self.embedding), ("tokens", tokens, self.tokens)):
            if given.shape[-1] != size:
                raise UserError(f"this projection reads {what} of {size} features; given {given.shape[-1]}")
        if image is None:
            image = jnp.broadcast_to(self.null_embedding[...], text.shape)
        elif image.shape != text.shape:
            raise UserError(f"the embeddings of picture and text have one shape; given {image.shape} and {text.shape}")
        # One token's features lie `count` apart, as in the published weights.
        own = jnp.swapaxes(self.image_tokens(image).reshape(len(text), -1, self.count), 1, 2)
        said = self.norm_text(self.text_tokens(tokens))
        return {
            "embedding": (self.text(text) + self.image(image)).astype(jnp.float32),
            "tokens": jnp.concatenate([own, said], axis=1).astype(jnp.float32),
            "length": length + self.count,
        }
