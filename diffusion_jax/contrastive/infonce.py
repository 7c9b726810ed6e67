"""The symmetric InfoNCE loss of CLIP (arXiv 2103.00020, figure 3; InfoNCE: arXiv 1807.03748).

With unit-norm embeddings u_i (image) and w_j (text) and s = exp(logit_scale), the logits are z_ij = s <u_i, w_j>. Let p_ij
be the target: 1 / n_i for the n_i positives of i (pairs of equal identity; i alone where there is none), 0 elsewhere. Then

    loss_i = 1/2 (logsumexp_j z_ij - sum_j p_ij z_ij) + 1/2 (logsumexp_j z_ji - sum_j p_ij z_ji),

the two cross-entropies of pair i against p_i. Its least value is log n_i, the entropy of p_i. (With several positives
this is the supervised contrastive loss whose sum stands outside of the logarithm: arXiv 2004.11362, eq. 2.)

**In blocks** (`contrastive.blocks`). Going over the columns, row i keeps the maximum m_i and l_i = sum_j exp(z_ij - m_i),
rescaled when the maximum grows (arXiv 1805.02867, algorithm 3): logsumexp = m_i + log l_i. Column j lies over all devices:
each has the maximum and the sum of its own rows, and two reductions of [batch] numbers join them. The derivative needs the
two logsumexps alone, with g the cotangent of the losses (p is symmetric, as pairs of one identity share their n):

    dL/dz_ij = 1/2 g_i exp(z_ij - lse_i) + 1/2 g_j exp(z_ij - lse'_j) - 1/2 (g_i + g_j) p_ij.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from diffusion_jax.contrastive.blocks import Spread, inner_products, labels, make_spread, pull_back, put, sweep, wide

__all__ = ["infonce", "logits"]


def logits(
    image: Float[Array, "batch embed"], text: Float[Array, "others embed"], scale: Float[Array, ""]
) -> Float[Array, "batch others"]:
    """scale <image_i, text_j>, in float32 (float64 where the embeddings are)."""
    return jnp.asarray(scale, wide(image)) * inner_products(image, text)


def infonce(
    image: Float[Array, "batch embed"],
    text: Float[Array, "batch embed"],
    scale: Float[Array, ""],
    *,
    identity: Int[Array, " batch"] | None = None,
    mesh: Mesh | None = None,
    axes: tuple[str, ...] = ("data", "fsdp"),
    chunk: int | None = None,
) -> Float[Array, " batch"]:
    """The loss of each pair in nats; row i of `image` belongs to row i of `text`. Its mean is CLIP's loss.

    Both embeddings are unit-norm (float32 or bfloat16; sums are in float32); `scale` is exp(logit_scale). A batch of one
    gives 0: there is no negative. `identity`: pairs of equal numbers are one another's positives. The negatives are
    always the whole global batch:

    - as it stands, the plain formula: [batch, batch] logits, both modes of differentiation. Under `jax.jit` with the
      batch spread over devices, XLA gathers what it needs.
    - `mesh`: each device has its own rows of the logits; `axes` are those over which the batch is spread.
    - `chunk` (with or without a mesh): at most `chunk` columns of them at a time, in both passes. Any number of 1 or more.

    With a mesh or a chunk the gradient is written out, for reverse mode alone and once: `jax.jvp` raises TypeError.
    Raises UserError for embeddings of unequal shapes, a chunk below 1, an axis that the mesh has not, a batch that its
    devices do not divide, and an identity that is not one integer a pair.
    """
    spread = make_spread(image, text, mesh, axes, chunk)
    same = labels(identity, image.shape[0])
    scale = jnp.asarray(scale, wide(image))
    if mesh is not None or chunk is not None:
        return _in_blocks(spread, image, text, scale, same)
    scores = logits(image, text, scale)
    if identity is None:
        rows = columns = jnp.diagonal(scores)
    else:
        target = _target(same, scores.dtype)
        rows, columns = jnp.sum(target * scores, axis=1), jnp.sum(target * scores, axis=0)
    return 0.5 * (jax.nn.logsumexp(scores, axis=1) - rows) + 0.5 * (jax.nn.logsumexp(scores, axis=0) - columns)


def _target(same: Array, dtype: Any) -> Array:
    own = (same[:, None] == same[None, :]).astype(dtype)
    return own / jnp.sum(own, axis=1, keepdims=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_blocks(spread: Spread, image: Array, text: Array, scale: Array, same: Array) -> Array:
    return _forward(spread, image, text, scale, same)[0]


def _forward(spread: Spread, image: Array, text: Array, scale: Array, same: Array) -> tuple[Array, Any]:
    run = spread.run(functools.partial(_losses, spread), (True, True, False, True), (True,) * 4)
    loss, *stats = run(image, text, scale, same)
    return loss, (image, text, scale, same, *stats)


def _backward(spread: Spread, saved: Any, g: Array) -> tuple[Array, Array, Array, None]:
    run = spread.run(functools.partial(_gradients, spread), (True, True, False, *(True,) * 5), (True, True, False))
    return (*run(*saved, g), None)


_in_blocks.defvjp(_forward, _backward)


def _losses(spread: Spread, image: Array, text: Array, scale: Array, same: Array) -> tuple[Array, Array, Array, Array]:
    """(loss, logsumexp over texts, logsumexp over images, number of positives) of this device's pairs."""
    dtype, rows = wide(image), image.shape[0]
    others = spread.gather((text, same))
    batch = others[0].shape[0]

    def step(carry: Any, start: Array, fresh: Array, block: Any) -> Any:
        (high, total, positive, count), columns = carry
        words, theirs = block
        z = scale * inner_products(image, words)
        own = same[:, None] == theirs[None, :]
        new = jnp.where(fresh[None, :], z, -jnp.inf)
        higher = jnp.maximum(high, new.max(axis=1))
        total = total * jnp.exp(high - higher) + jnp.sum(jnp.exp(new - higher[:, None]), axis=1)
        mine = own & fresh[None, :]
        positive = positive + jnp.sum(jnp.where(mine, z, 0.0), axis=1)
        count = count + jnp.sum(mine, axis=1, dtype=dtype)
        top = z.max(axis=0)
        # A column of the overlap is written twice, with the same numbers.
        stats = (top, jnp.sum(jnp.exp(z - top[None, :]), axis=0), jnp.sum(jnp.where(own, z, 0.0), axis=0))
        columns = tuple(put(whole, part, start) for whole, part in zip(columns, stats, strict=True))
        return (higher, total, positive, count), columns

    zeros, every = jnp.zeros((rows,), dtype), jnp.zeros((batch,), dtype)
    carry = ((jnp.full((rows,), -jnp.inf, dtype), zeros, zeros, zeros), (every,) * 3)
    (high, total, positive, count), columns = sweep(spread.chunk, step, carry, others)
    top, below, theirs = columns
    highest = spread.max(top)
    below, theirs = spread.sum((below * jnp.exp(top - highest), theirs))
    over_texts = high + jnp.log(total)
    over_images, of_texts = spread.own((highest + jnp.log(below), theirs), rows)
    loss = 0.5 * (over_texts - positive / count) + 0.5 * (over_images - of_texts / count)
    return loss, over_texts, over_images, count


def _gradients(
    spread: Spread,
    image: Array,
    text: Array,
    scale: Array,
    same: Array,
    over_texts: Array,
    over_images: Array,
    count: Array,
    g: Array,
) -> tuple[Array, Array, Array]:
    """The gradients of this device's embeddings, and of the scale."""

    def slope(z: Array, row: Any, column: Any) -> Array:
        (same_i, lse_i, count_i, g_i), (same_j, lse_j, g_j) = row, column
        positive = jnp.where(same_i[:, None] == same_j[None, :], (g_i[:, None] + g_j[None, :]) / count_i[:, None], 0.0)
        softmaxes = g_i[:, None] * jnp.exp(z - lse_i[:, None]) + g_j[None, :] * jnp.exp(z - lse_j[None, :])
        return 0.5 * (softmaxes - positive)

    rows, columns = (same, over_texts, count, g), (same, over_images, g)
    return pull_back(spread, slope, image, text, scale, jnp.zeros_like(scale), rows, columns)[:3]
