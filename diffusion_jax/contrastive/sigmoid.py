"""SigLIP's loss: every image and every text of the batch is a pair or is none (arXiv 2303.15343, eq. 1 and algorithm 1).

With unit-norm embeddings u_i and w_j, t = exp(logit_scale), c = logit_bias and y_ij = +1 for positives, -1 for the rest,

    loss_i = -sum_j log sigmoid(y_ij (t <u_i, w_j> + c)),

whose mean over i is the paper's sum over all pairs divided by the batch. No sum ties a row together, so that the blocks of
`contrastive.blocks` need no logsumexp; with the cotangent g of the losses and the logits z,

    dL/dz_ij = -g_i y_ij sigmoid(-y_ij z_ij).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from diffusion_jax.contrastive.blocks import Spread, inner_products, labels, make_spread, pull_back, sweep, wide

__all__ = ["sigmoid_loss"]


def sigmoid_loss(
    image: Float[Array, "batch embed"],
    text: Float[Array, "batch embed"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    identity: Int[Array, " batch"] | None = None,
    mesh: Mesh | None = None,
    axes: tuple[str, ...] = ("data", "fsdp"),
    chunk: int | None = None,
) -> Float[Array, " batch"]:
    """The loss of each image in nats, summed over the texts of the global batch. Its mean is SigLIP's loss.

    Both embeddings are unit-norm (float32 or bfloat16; sums are in float32); `scale` is exp(logit_scale), 10 at the start,
    and `bias` is logit_bias, -10 at the start. The rest, and what is raised, as for `infonce`: pairs of equal `identity`
    are positives of one another, `mesh` and `chunk` keep [batch, batch] logits away and are for reverse mode alone.
    """
    spread = make_spread(image, text, mesh, axes, chunk)
    same = labels(identity, image.shape[0])
    scale, bias = (jnp.asarray(value, wide(image)) for value in (scale, bias))
    if mesh is not None or chunk is not None:
        return _in_blocks(spread, image, text, scale, bias, same)
    z = scale * inner_products(image, text) + bias
    return jnp.sum(jax.nn.softplus(-_sign(same, same, z) * z), axis=1)


def _sign(rows: Array, columns: Array, z: Array) -> Array:
    return jnp.where(rows[:, None] == columns[None, :], 1.0, -1.0).astype(z.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_blocks(spread: Spread, image: Array, text: Array, scale: Array, bias: Array, same: Array) -> Array:
    return _forward(spread, image, text, scale, bias, same)[0]


def _forward(
    spread: Spread, image: Array, text: Array, scale: Array, bias: Array, same: Array
) -> tuple[Array, tuple[Array, ...]]:
    run = spread.run(functools.partial(_losses, spread), (True, True, False, False, True), (True,))
    return run(image, text, scale, bias, same)[0], (image, text, scale, bias, same)


def _backward(spread: Spread, saved: Any, g: Array) -> tuple[Array, Array, Array, Array, None]:
    run = spread.run(
        functools.partial(_gradients, spread), (True, True, False, False, True, True), (True, True, False, False)
    )
    return (*run(*saved, g), None)


_in_blocks.defvjp(_forward, _backward)


def _losses(spread: Spread, image: Array, text: Array, scale: Array, bias: Array, same: Array) -> tuple[Array]:
    def step(loss: Array, start: Array, fresh: Array, block: Any) -> Array:
        words, theirs = block
        z = scale * inner_products(image, words) + bias
        terms = jnp.where(fresh[None, :], jax.nn.softplus(-_sign(same, theirs, z) * z), 0.0)
        return loss + jnp.sum(terms, axis=1)

    start = jnp.zeros((image.shape[0],), wide(image))
    return (sweep(spread.chunk, step, start, spread.gather((text, same))),)


def _gradients(
    spread: Spread, image: Array, text: Array, scale: Array, bias: Array, same: Array, g: Array
) -> tuple[Array, Array, Array, Array]:
    def slope(z: Array, row: Any, column: Any) -> Array:
        (same_i, g_i), same_j = row, column
        sign = _sign(same_i, same_j, z)
        return -g_i[:, None] * sign * jax.nn.sigmoid(-sign * z)

    return pull_back(spread, slope, image, text, scale, bias, (same, g), same)
