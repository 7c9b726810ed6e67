"""Large contrastive batches in little memory: encode by micro-batches, compare all (GradCache, arXiv 2101.06983).

A contrastive loss is a function of all embeddings e = (e_1, ..., e_B), so averaging the gradients of small batches gives
another loss, with fewer negatives. The chain rule splits at the embeddings (ibid., section 3): with de_i = dL/de_i,

    dL/dparams = sum over micro-batches k of (d e_k / d params)^T de_k.

First all embeddings are made, a micro-batch at a time and without keeping activations; then the loss and de of the whole
batch; then each micro-batch is encoded again and pulls its de_k back. In JAX these passes are what differentiating a
`lax.map` over a rematerialised encoder does. Parameters of the loss itself (logit_scale) are no part of the encoder: their
gradient is counted once. Dropout: both passes and the undivided run draw the same, for each example has its own key.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["in_micro_batches"]


def in_micro_batches(
    encode: Callable[..., Any],
    count: int,
    *,
    mesh: Mesh | None = None,
    axes: tuple[str, ...] = ("data", "fsdp"),
) -> Callable[..., Any]:
    """`encode`, in `count` micro-batches one after the other, whose gradient is exactly that of one pass.

    encode(params, *inputs, key=None, train=False) -> a tree of [batch, ...]; the inputs are trees of [batch, ...] too, and
    the result has the same signature. An example's output may depend on its own row and key alone (no batch
    statistics). `encode` is handed a [batch / count] array of keys, one an example: `key` is either such an array of
    [batch] keys or one key, of which example i has fold_in(key, i).

    Memory: the activations of one micro-batch and the outputs of all. Time: one more forward pass. Micro-batch k takes
    every count-th row from k on, so that with the batch spread over devices in the usual order each micro-batch is
    spread over all of them and no data moves; `mesh` and `axes` hold XLA to that.

    Raises UserError for a count below 1 or one that does not divide the batch (of each device), and for an old-style
    key of two integers.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"micro_batches {count!r} is not a number of micro-batches, 1 or more; nearest: 1")
    devices = 1
    for axis in axes if mesh is not None else ():
        assert mesh is not None
        devices *= mesh.shape[one_of("mesh axis", axis, mesh.axis_names)]

    def divided(x: Array) -> Array:
        x = jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)
        if mesh is None:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, axes)))

    def joined(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])
        if mesh is None:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(axes)))

    def encode_all(params: Params, *inputs: Any, key: Array | None = None, train: bool = False) -> Any:
        batch = jax.tree.leaves(inputs)[0].shape[0]
        _check(batch, count, devices)
        keys = None if key is None else example_keys(key, batch)
        if count == 1:
            return encode(params, *inputs, key=keys, train=train)

        # In a loop XLA cannot merge the second encoding with the first, so the barrier against that is not needed.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def one(params: Params, part: Any) -> Any:
            return encode(params, *part[0], key=part[1], train=train)

        parts = jax.tree.map(divided, (jax.tree.map(jnp.asarray, inputs), keys))
        return jax.tree.map(joined, jax.lax.map(lambda part: one(params, part), parts))

    return encode_all


def example_keys(key: Array, batch: int) -> Array:
    """[batch] keys: `key` itself if it is such an array, else fold_in(key, i) for example i."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise UserError(f"key is {key.dtype}{list(key.shape)}, an old-style key; make it with jax.random.key(seed)")
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise UserError(f"key has shape {list(key.shape)}; it is one key, or one an example, [{batch}]")
    return key


def _check(batch: int, count: int, devices: int) -> None:
    rows = batch // devices
    if batch % devices or rows % count or rows == 0:
        fit = max((n for n in range(1, min(count, max(rows, 1)) + 1) if rows % n == 0), default=1)
        where = f" on {devices} devices" if devices > 1 else ""
        raise UserError(f"micro_batches {count} does not divide a batch of {batch}{where}; nearest: {fit}")
