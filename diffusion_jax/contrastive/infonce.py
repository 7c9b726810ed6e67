"""The symmetric InfoNCE loss of CLIP (arXiv 2103.00020, figure 3; InfoNCE: arXiv 1807.03748).

With unit-norm embeddings u_i (image) and w_j (text) and s = exp(logit_scale), the logits are l_ij = s <u_i, w_j> and

    loss_i = 1/2 (logsumexp_j l_ij - l_ii) + 1/2 (logsumexp_j l_ji - l_ii).

The negatives are the whole global batch: under `jax.jit` with the batch sharded over a mesh, the same lines gather the
embeddings across devices, and the result does not depend on how many there are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["infonce", "logits"]


def logits(
    image: Float[Array, "batch embed"], text: Float[Array, "others embed"], scale: Float[Array, ""]
) -> Float[Array, "batch others"]:
    """scale <image_i, text_j>, in float32."""
    return jnp.asarray(scale, jnp.float32) * jnp.matmul(image, text.T, preferred_element_type=jnp.float32)


def infonce(
    image: Float[Array, "batch embed"], text: Float[Array, "batch embed"], scale: Float[Array, ""]
) -> Float[Array, " batch"]:
    """The loss of each pair in nats; row i of `image` belongs to row i of `text`. Its mean is CLIP's loss.

    Both embeddings are unit-norm; `scale` is exp(logit_scale). A batch of one gives 0: there is no negative.
    """
    scores = logits(image, text, scale)
    positive = jnp.diagonal(scores)
    return 0.5 * (jax.nn.logsumexp(scores, axis=1) + jax.nn.logsumexp(scores, axis=0)) - positive
