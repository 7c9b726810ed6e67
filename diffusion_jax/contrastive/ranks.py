"""Who finds whom in the global batch: top-1 retrieval among the batch, by the blocks of `contrastive.blocks`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from diffusion_jax.contrastive.blocks import Spread, inner_products, labels, make_spread, put, sweep, wide

__all__ = ["found"]


def found(
    image: Float[Array, "batch embed"],
    text: Float[Array, "batch embed"],
    *,
    identity: Int[Array, " batch"] | None = None,
    mesh: Mesh | None = None,
    axes: tuple[str, ...] = ("data", "fsdp"),
    chunk: int | None = None,
) -> tuple[Bool[Array, " batch"], Bool[Array, " batch"]]:
    """(whether no text scores above image i's own, whether no image scores above text i's own), both [batch].

    A tie counts as found. With `identity`, the best of a pair's positives is its own. No gradient passes. One matrix
    product of the whole batch; `mesh`, `axes`, `chunk` and what is raised as for `infonce`.
    """
    spread = make_spread(image, text, mesh, axes, chunk)
    same = labels(identity, image.shape[0])
    run = spread.run(functools.partial(_found, spread), (True,) * 3, (True, True))
    return run(jax.lax.stop_gradient(image), jax.lax.stop_gradient(text), same)


def _found(spread: Spread, image: Array, text: Array, same: Array) -> tuple[Array, Array]:
    rows = image.shape[0]
    others = spread.gather((text, same))

    def step(carry: Any, start: Array, fresh: Array, block: Any) -> Any:
        (best, mine), columns = carry
        words, theirs = block
        z = inner_products(image, words)
        own = jnp.where(same[:, None] == theirs[None, :], z, -jnp.inf)
        # A maximum does not mind that the last block overlaps the one before it.
        across = jnp.maximum(best, z.max(axis=1)), jnp.maximum(mine, own.max(axis=1))
        down = z.max(axis=0), own.max(axis=0)
        return across, tuple(put(whole, part, start) for whole, part in zip(columns, down, strict=True))

    low = functools.partial(jnp.full, fill_value=-jnp.inf, dtype=wide(image))
    carry = (low((rows,)), low((rows,))), (low(others[1].shape), low(others[1].shape))
    (best, mine), columns = sweep(spread.chunk, step, carry, others)
    best_image, own_image = spread.own(spread.max(columns), rows)
    return mine >= best, own_image >= best_image
