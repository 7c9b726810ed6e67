"""A mesh of devices with the axes ("data", "fsdp", "tensor"), and batches spread over it.

The first two carry examples: a batch is split over all data x fsdp devices. Along "fsdp" the parameters and the optimizer's
state may be split too, along "tensor" the channels of each layer (`parallel.rules`); along "data" they are copies. XLA inserts
the collectives: the axes are of type Auto, so that one program serves one device and a pod.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from diffusion_jax.typing import Batch, UserError

__all__ = ["AXES", "batch_devices", "batch_sharding", "check_batch", "make_mesh", "put_batch", "replicated"]

AXES = ("data", "fsdp")
"""Those that examples are split over."""


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A data x fsdp x tensor mesh over `devices` (default: all); one of the first two may be -1, which takes what is left.

    Raises `UserError` when the sizes do not multiply to the number of devices, for a tensor axis that would reach over two
    processes (its devices see the same examples, and exchange the most), and for fsdp and tensor both above 1: where all three
    split, XLA's partitioner was seen to give wrong numbers (jax 0.10.2 and 0.12.0, simulated devices).
    """
    count = len(jax.devices() if devices is None else devices)
    asked = f"mesh data={data}, fsdp={fsdp}" + (f", tensor={tensor}" if tensor != 1 else "")
    if (data, fsdp) == (-1, -1) or any(size < 1 and size != -1 for size in (data, fsdp)) or tensor < 1:
        raise UserError(f"{asked}: each size is at least 1, and at most one of data and fsdp is -1")
    here = jax.local_device_count() if jax.process_count() > 1 else count
    if here % tensor:
        whose = "devices of a process" if here != count else "devices"
        raise UserError(f"{asked}: {tensor} does not divide the {here} {whose}; nearest: {_divisor(tensor, here)}")
    left = count // tensor
    if -1 in (data, fsdp):
        given = fsdp if data == -1 else data
        if left % given:
            raise UserError(f"{asked}: {given} does not divide the {left} devices; nearest: {_divisor(given, left)}")
        data, fsdp = (left // given, given) if data == -1 else (given, left // given)
    if fsdp > 1 and tensor > 1:
        raise UserError(
            f"{asked}: fsdp and tensor do not go together (XLA gives wrong numbers where all three axes split); "
            f"nearest: fsdp={fsdp * tensor}, tensor=1 or fsdp=1, tensor={tensor}"
        )
    if data * fsdp != left:
        fit = _divisor(fsdp, left)
        raise UserError(
            f"{asked} is {data * fsdp * tensor} devices, there are {count}; nearest: data={left // fit}, fsdp={fit}"
        )
    return jax.make_mesh((data, fsdp, tensor), (*AXES, "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices)


def _divisor(near: int, count: int) -> int:
    """The divisor of `count` that is nearest to `near`."""
    return min((d for d in range(1, count + 1) if count % d == 0), key=lambda d: abs(d - near))


def batch_devices(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises `UserError` unless the mesh's devices that examples are split over divide the global `batch_size`."""
    parts = batch_devices(mesh)
    below = batch_size // parts * parts
    if batch_size < 1 or batch_size != below:
        nearest = [str(size) for size in (below, below + parts) if size > 0]
        raise UserError(
            f"batch_size {batch_size} is not divided by the {parts} devices of the mesh; "
            f"nearest: {' or '.join(nearest)}"
        )


def put_batch(batch: Batch, mesh: Mesh) -> dict[str, Any]:
    """Host arrays [rows, ...] by name (nested dicts too) -> global arrays split over the mesh along the rows.

    On a mesh over several processes each gives its own rows, and the global batch is their concatenation. The arrays may be
    used in place: do not write to them afterwards. Raises `UserError` for a leaf that is no array of numbers (text, an
    object, None, a scalar), and for arrays that differ in their rows: nothing is left out silently.
    """
    sharding = batch_sharding(mesh)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(dict(batch), is_leaf=lambda x: x is None)
    rows: dict[str, int] = {}
    for path, leaf in leaves:
        name = "batch" + jax.tree_util.keystr(path)
        if not isinstance(leaf, np.ndarray | jax.Array):
            raise UserError(f"{name} is of type {type(leaf).__name__}; a batch holds arrays only")
        if leaf.ndim == 0:
            raise UserError(f"{name} is a scalar; a batch holds arrays [batch, ...]")
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "OSUMm":
            raise UserError(f"{name} has dtype {leaf.dtype}; a batch holds numbers and booleans only")
        rows[name] = leaf.shape[0]
    if len(set(rows.values())) > 1:
        raise UserError(
            "arrays of one batch differ in their first axis: " + ", ".join(f"{k} {v}" for k, v in rows.items())
        )
    if sharding.is_fully_addressable:
        for size in set(rows.values()):
            check_batch(size, mesh)
        placed = [jax.device_put(leaf, sharding) for _, leaf in leaves]
    else:
        placed = [jax.make_array_from_process_local_data(sharding, np.asarray(leaf)) for _, leaf in leaves]
    return jax.tree_util.tree_unflatten(treedef, placed)
