"""Which parameter is split along which mesh axis: rules from path patterns to PartitionSpecs.

A leaf's path is its keys joined by "/": `blocks/mlp/kernel` in a tree of parameters, `params/blocks/mlp/kernel` in a
training state, `opt_state/0/mu/blocks/mlp/kernel` in the optimizer's. Since parameters are nested dicts, the run of
dictionary keys at the end of a path is the path of the parameter that a leaf belongs to, whatever holds it. Rules are
matched against that, so that one rule splits a parameter, its average and its moments alike.
"""

from __future__ import annotations

import math
import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from diffusion_jax.typing import PyTree, UserError, one_of

__all__ = ["Rules", "parameter_path", "path_of", "shardings", "split_over_mesh"]

KERNELS = ("kernel", "unit_kernel")
ENDS = ("out", "out_proj", "proj_out", "conv2", "narrow", "c_proj", "ff_out", "linear_2", "time_out", "level_out")
Rules = tuple[tuple[str, PartitionSpec], ...]


def _name(key: Any) -> str:
    match key:
        case DictKey() | FlattenedIndexKey():
            return str(key.key)
        case GetAttrKey():
            return key.name
        case SequenceKey():
            return str(key.idx)
    return str(key)


def path_of(key_path: tuple[Any, ...]) -> str:
    """A key path of `jax.tree_util` as text: dictionary keys, field names and indices joined by "/"."""
    return "/".join(_name(key) for key in key_path)


def parameter_path(key_path: tuple[Any, ...]) -> str:
    """The path within the tree of parameters: the dictionary keys at the end of `key_path`, or all of it if none."""
    start = len(key_path)
    while start > 0 and isinstance(key_path[start - 1], DictKey):
        start -= 1
    return path_of(key_path[start:] or key_path)


def shardings(tree: PyTree, rules: Rules, mesh: Mesh) -> PyTree:
    """A NamedSharding for each leaf of `tree` (arrays or ShapeDtypeStructs), by the first rule whose pattern matches.

    Patterns are regular expressions searched for in `parameter_path`; a leaf that none matches is replicated. A spec
    longer than the leaf's shape is trimmed (factored moments and counters have fewer axes than their parameter), and an
    axis of the leaf that its mesh axes do not divide stays whole. Raises `UserError` for a pattern that is no
    regular expression and for a mesh axis that does not exist.
    """
    compiled = []
    for pattern, spec in rules:
        try:
            compiled.append((re.compile(pattern), spec))
        except re.error as error:
            raise UserError(f"sharding rule {pattern!r} is not a regular expression: {error}") from error
        for entry in spec:
            for axis in _axes(entry):
                one_of(f"sharding rule {pattern!r}: mesh axis", axis, mesh.axis_names)

    def place(key_path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        path = parameter_path(key_path)
        for pattern, spec in compiled:
            if pattern.search(path):
                return NamedSharding(mesh, _fit(spec, leaf.shape, mesh))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, tree)


def split_over_mesh(params: PyTree, mesh: Mesh, least: int = 2**12) -> Rules:
    """A rule for each parameter of at least `least` elements, where "fsdp" or "tensor" has more than one device.

    "fsdp" splits the longest axis that it divides. "tensor" splits the kernels [..., in, out] of layers by their outputs, and
    of those that end a pair (`ENDS`: out of an attention, the second of two convolutions, down in a feed-forward) by their
    inputs, so that what lies between the two stays split (Megatron-LM, arXiv 1909.08053, section 3), if it divides them; the
    rest is whole. The optimizer's state and the average follow their parameter.
    """
    rules: list[tuple[str, PartitionSpec]] = []
    tensor = mesh.shape.get("tensor", 1)
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = parameter_path(key_path)
        if leaf.size < least:
            continue
        if tensor > 1:
            *_, layer, last = ("", *path.split("/"))
            fit = [leaf.ndim - (2 if layer in ENDS else 1)] if last in KERNELS and leaf.ndim > 1 else []
            name, size = "tensor", tensor
        else:
            name, size, fit = "fsdp", mesh.shape["fsdp"], list(range(leaf.ndim))
        fit = [axis for axis in fit if leaf.shape[axis] % size == 0]
        if size > 1 and fit:
            longest = max(fit, key=lambda axis: leaf.shape[axis])
            spec = PartitionSpec(*[name if axis == longest else None for axis in range(longest + 1)])
            rules.append((f"^{re.escape(path)}$", spec))
    return tuple(rules)


def _axes(entry: Any) -> tuple[str, ...]:
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def _fit(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    kept = [
        entry if size % math.prod(mesh.shape[axis] for axis in _axes(entry)) == 0 else None
        for entry, size in zip(tuple(spec), shape)
    ]
    return PartitionSpec(*kept)
