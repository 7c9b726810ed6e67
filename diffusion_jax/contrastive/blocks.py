"""The matrix of logits by blocks: each device has its own rows, and walks over all columns `chunk` at a time.

With image embeddings u_i, text embeddings w_j, scale s and bias c the logits are z_ij = s <u_i, w_j> + c. A device with
b of the B pairs gathers the B text embeddings ([B, embed], never logits) and sees one [b, chunk] block of z at a time.
A loss whose derivative in the logits is the matrix d_ij = dL/dz_ij has

    dL/du_i = s sum_j d_ij w_j,   dL/dw_j = s sum_i d_ij u_i,   dL/ds = sum_ij d_ij <u_i, w_j>,   dL/dc = sum_ij d_ij,

and each sum is one over blocks again: the backward pass recomputes a block of z, turns it into a block of d, and adds.
The sum of w_j's parts over the devices is a reduce-scatter. So a step costs one [B, embed] gather forward, one gather and
one reduce-scatter backward, four matrix products of 2 b B embed operations, and a few blocks of memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from diffusion_jax.typing import UserError, one_of

__all__ = ["Spread", "inner_products", "labels", "make_spread", "pull_back", "put", "sweep", "wide"]

Slope = Callable[[Array, Any, Any], Array]
"""(block of logits [rows, chunk], tree of [rows], tree of [chunk]) -> dL/dz of the block."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """How a batch lies: over which axes of which mesh (None: one device), and how many columns a block has. Static."""

    mesh: Mesh | None
    axes: tuple[str, ...]
    chunk: int

    def run(self, fn: Callable[..., Any], inputs: tuple[bool, ...], outputs: tuple[bool, ...]) -> Callable[..., Any]:
        """fn on every device's rows; True marks arguments and results [batch, ...], False whole copies (scalars)."""
        if self.mesh is None:
            return fn
        split, whole = PartitionSpec(self.axes), PartitionSpec()
        ins, outs = (tuple(split if rows else whole for rows in marks) for marks in (inputs, outputs))
        # Differentiation never enters: the gradient is written out. What is marked whole is a sum over the devices.
        return jax.shard_map(fn, mesh=self.mesh, in_specs=ins, out_specs=outs, check_vma=False)

    def gather(self, tree: Any) -> Any:
        """Each device's rows -> all rows, in the order of the batch."""
        return self._over(lambda x: jax.lax.all_gather(x, self.axes, tiled=True), tree)

    def sum(self, tree: Any) -> Any:
        """The sum over the devices."""
        return self._over(lambda x: jax.lax.psum(x, self.axes), tree)

    def max(self, tree: Any) -> Any:
        """The maximum over the devices."""
        return self._over(lambda x: jax.lax.pmax(x, self.axes), tree)

    def sum_own(self, tree: Any) -> Any:
        """The sum over the devices, of which each keeps its own rows."""
        return self._over(lambda x: jax.lax.psum_scatter(x, self.axes, scatter_dimension=0, tiled=True), tree)

    def own(self, tree: Any, rows: int) -> Any:
        """This device's `rows` rows of arrays that every device has whole."""
        return self._over(
            lambda x: jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(self.axes) * rows, rows, 0), tree
        )

    def _over(self, fn: Callable[[Array], Array], tree: Any) -> Any:
        return tree if self.mesh is None else jax.tree.map(fn, tree)


def make_spread(image: Array, text: Array, mesh: Mesh | None, axes: tuple[str, ...], chunk: int | None) -> Spread:
    """The `Spread` of a batch of pairs; `chunk=None` is one block of all columns.

    Raises UserError for embeddings that are not pairs, a chunk below 1, an axis that the mesh has not, and a batch that
    the devices do not divide.
    """
    if image.shape != text.shape or image.ndim != 2:
        raise UserError(
            f"embeddings {image.shape} and {text.shape} are not pairs: both are [batch, embed], of one shape"
        )
    batch = image.shape[0]
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise UserError(f"chunk {chunk!r} is not a number of columns, 1 or more; nearest: {batch} (one block)")
    if mesh is not None:
        for axis in axes:
            one_of("mesh axis", axis, mesh.axis_names)
        count = math.prod(mesh.shape[axis] for axis in axes)
        below = batch // count * count
        if batch != below or batch == 0:
            nearest = " or ".join(str(size) for size in (below, below + count) if size > 0)
            raise UserError(
                f"batch {batch} is not divided by the {count} devices of the mesh axes {', '.join(axes)}; "
                f"nearest: {nearest}"
            )
    return Spread(mesh, tuple(axes), min(chunk or batch, batch))


def labels(identity: Array | None, batch: int) -> Array:
    """Which pairs are one another's positives: those of equal labels. Without an identity each pair is its own."""
    if identity is None:
        return jnp.arange(batch)
    if identity.shape != (batch,) or not jnp.issubdtype(identity.dtype, jnp.integer):
        raise UserError(f"identity is {identity.dtype}{list(identity.shape)}; it is one integer a pair, [{batch}]")
    return identity


def wide(x: Array) -> Any:
    """The dtype of sums over x: float32, or float64 where x is."""
    return jnp.promote_types(x.dtype, jnp.float32)


def inner_products(image: Array, text: Array) -> Array:
    """<u_i, w_j>, [rows, columns], summed in float32."""
    return jnp.matmul(image, text.T, preferred_element_type=wide(image))


def put(array: Array, block: Array, start: Array) -> Array:
    """`array` with `block` in place of its rows from `start` on."""
    return jax.lax.dynamic_update_slice_in_dim(array, block, start, 0)


def sweep(chunk: int, step: Callable[..., Any], carry: Any, columns: Any) -> Any:
    """carry = step(carry, start, fresh, block) for each `chunk` rows of the tree `columns`, the last carry.

    Where the chunk does not divide, the last block begins early and overlaps the one before: `fresh` [chunk] marks what
    no earlier block had. So no padded copy of the columns is made.
    """
    count = jax.tree.leaves(columns)[0].shape[0]

    def body(carry: Any, first: Array) -> tuple[Any, None]:
        start = jnp.minimum(first, count - chunk)
        block = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, chunk, 0), columns)
        return step(carry, start, start + jnp.arange(chunk) >= first, block), None

    return jax.lax.scan(body, carry, jnp.arange(0, count, chunk))[0]


def pull_back(
    spread: Spread, slope: Slope, image: Array, text: Array, scale: Array, bias: Array, rows: Any, columns: Any
) -> tuple[Array, Array, Array, Array]:
    """The gradients of (image, text, scale, bias), on one device's rows inside `Spread.run`.

    `rows` and `columns` are trees of [local] arrays of the own images and texts, which `slope` is handed by block.
    """
    dtype = wide(image)
    others = spread.gather((text, columns))
    own = image.astype(dtype)
    batch = others[0].shape[0]

    def step(carry: Any, start: Array, fresh: Array, block: Any) -> Any:
        d_image, d_text, d_scale, d_bias = carry
        words, stats = block
        inner = inner_products(image, words)
        d = jnp.where(fresh[None, :], slope(scale * inner + bias, rows, stats), 0.0)
        d_image = d_image + d @ words.astype(dtype)
        d_words = jax.lax.dynamic_slice_in_dim(d_text, start, spread.chunk, 0) + d.T @ own
        return d_image, put(d_text, d_words, start), d_scale + jnp.sum(d * inner), d_bias + jnp.sum(d)

    zero = jnp.zeros((), dtype)
    carry = (jnp.zeros(image.shape, dtype), jnp.zeros((batch, image.shape[1]), dtype), zero, zero)
    d_image, d_text, d_scale, d_bias = sweep(spread.chunk, step, carry, others)
    d_text = scale * spread.sum_own(d_text)
    return (scale * d_image).astype(image.dtype), d_text.astype(text.dtype), spread.sum(d_scale), spread.sum(d_bias)
