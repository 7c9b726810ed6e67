"""Rules between our parameter tree and a checkpoint's flat names, each readable in both directions.

A checkpoint is a flat dict name -> array; ours is a nested dict whose repeated layers are stacked along the first axis. An
`Entry` says which arrays of the one make which arrays of the other, with the shapes they must have, so that a list of entries
is at once the reader, the writer and the check. Everything an entry does is a reshape, a transpose, a split or a
concatenation: reading and writing back gives the same bits.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffusion_jax.typing import Params, UserError

__all__ = [
    "Entry",
    "Rule",
    "conv",
    "flatten",
    "fused",
    "linear",
    "moved",
    "patches",
    "plain",
    "read",
    "same",
    "split",
    "write",
]

Arrays = list[np.ndarray]
MOST = 12  # names of a kind in an error


@dataclasses.dataclass(frozen=True)
class Rule:
    """Theirs to ours and back, on lists of arrays."""

    read: Callable[[Arrays], Arrays]
    write: Callable[[Arrays], Arrays]


@dataclasses.dataclass(frozen=True)
class Entry:
    """`theirs` (names and shapes in the checkpoint) <-> `ours` (paths joined by "/"); `layer` is the place in a stack."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    rule: Rule
    layer: int | None = None


def _one(read: Callable[[np.ndarray], np.ndarray], write: Callable[[np.ndarray], np.ndarray]) -> Rule:
    return Rule(lambda arrays: [read(arrays[0])], lambda arrays: [write(arrays[0])])


same = _one(lambda a: a, lambda a: a)
_transposed = _one(lambda a: a.T, lambda a: a.T)


def plain(ours: str, theirs: str, shape: Sequence[int], *, reshaped: Sequence[int] | None = None) -> Entry:
    """The same array, or one that has `reshaped` here and `shape` there."""
    there = tuple(shape)
    here = there if reshaped is None else tuple(reshaped)
    return Entry((ours,), (theirs,), (there,), _one(lambda a: a.reshape(here), lambda a: a.reshape(there)))


def linear(ours: str, theirs: str, features_in: int, features_out: int, *, bias: bool = True) -> list[Entry]:
    """A linear map: weight [out, in] there, kernel [in, out] here."""
    weight = Entry((f"{ours}/kernel",), (f"{theirs}.weight",), ((features_out, features_in),), _transposed)
    return [weight, plain(f"{ours}/bias", f"{theirs}.bias", (features_out,))] if bias else [weight]


def conv(ours: str, theirs: str, features_in: int, features_out: int, size: int) -> Entry:
    """A convolution: [out, in, rows, columns] there, [rows, columns, in, out] here."""
    rule = _one(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
    return Entry((f"{ours}/kernel",), (f"{theirs}.weight",), ((features_out, features_in, size, size),), rule)


def patches(ours: str, theirs: str, channels: int, features: int, patch: int) -> Entry:
    """A patch convolution: [out, in, rows, columns] there, [rows columns in, out] here."""
    rule = _one(
        lambda a: a.transpose(2, 3, 1, 0).reshape(patch * patch * channels, features),
        lambda a: a.reshape(patch, patch, channels, features).transpose(3, 2, 0, 1),
    )
    return Entry((f"{ours}/kernel",), (theirs,), ((features, channels, patch, patch),), rule)


def fused(ours: str, theirs: Sequence[str], width: int) -> list[Entry]:
    """Several [width, width] maps there, one with their outputs side by side here."""
    parts = len(theirs)
    return [
        Entry(
            (f"{ours}/kernel",),
            tuple(f"{name}.weight" for name in theirs),
            ((width, width),) * parts,
            Rule(
                lambda arrays: [np.concatenate([a.T for a in arrays], axis=1)],
                lambda arrays: [a.T for a in np.split(arrays[0], parts, axis=1)],
            ),
        ),
        Entry(
            (f"{ours}/bias",),
            tuple(f"{name}.bias" for name in theirs),
            ((width,),) * parts,
            Rule(lambda arrays: [np.concatenate(arrays)], lambda arrays: np.split(arrays[0], parts)),
        ),
    ]


def split(ours: Sequence[tuple[str, int]], weight: str, bias: str, width: int) -> list[Entry]:
    """One map with several outputs side by side there ([n width, width]), several here: (path, how many of the n)."""
    total = sum(count for _, count in ours)
    cuts = np.cumsum([count * width for _, count in ours])[:-1]
    return [
        Entry(
            tuple(f"{name}/kernel" for name, _ in ours),
            (weight,),
            ((total * width, width),),
            Rule(
                lambda arrays: [a.T for a in np.split(arrays[0], cuts)],
                lambda arrays: [np.concatenate([a.T for a in arrays])],
            ),
        ),
        Entry(
            tuple(f"{name}/bias" for name, _ in ours),
            (bias,),
            ((total * width,),),
            Rule(lambda arrays: np.split(arrays[0], cuts), lambda arrays: [np.concatenate(arrays)]),
        ),
    ]


def moved(entries: Sequence[Entry], ours: str = "", theirs: str = "") -> list[Entry]:
    """The entries with `ours` before every path here and `theirs` before every name there: a part of something larger."""
    return [
        dataclasses.replace(
            entry,
            ours=tuple(f"{ours}{path}" for path in entry.ours),
            theirs=tuple(f"{theirs}{name}" for name in entry.theirs),
        )
        for entry in entries
    ]


def read(
    entries: Sequence[Entry], tensors: Mapping[str, np.ndarray], where: str, ignored: Callable[[str], bool]
) -> Params:
    """Our parameters, float32, from a checkpoint's tensors.

    Raises UserError, one line, with the missing, extra and misshapen names (the first `MOST` of each); `ignored` names may
    be there or not.
    """
    wanted = {name: shape for entry in entries for name, shape in zip(entry.theirs, entry.shapes)}
    missing = [name for name in wanted if name not in tensors]
    extra = [name for name in tensors if name not in wanted and not ignored(name)]
    misshapen = [
        f"{name} {list(tensors[name].shape)} (should be {list(shape)})"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    found = [
        f"{len(names)} {what}: {_listed(_folded(names))}"
        for what, names in (("missing", missing), ("extra", extra), ("misshapen", misshapen))
        if names
    ]
    if found:
        raise UserError(f"{where} does not fit: {'; '.join(found)}")
    leaves: dict[str, Any] = {}
    for entry in entries:
        arrays = entry.rule.read([np.asarray(tensors[name]).astype(np.float32) for name in entry.theirs])
        for path, array in zip(entry.ours, arrays):
            if entry.layer is None:
                leaves[path] = np.asarray(array, order="C")
            else:
                leaves.setdefault(path, {})[entry.layer] = array
    tree: Params = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = np.stack([leaf[i] for i in range(len(leaf))]) if isinstance(leaf, dict) else leaf
    return tree


def _listed(names: Sequence[str]) -> str:
    """The first of many, so that a model of another kind is still one line that can be read."""
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")


def _folded(names: Sequence[str]) -> list[str]:
    """Names that differ in the number of their layer alone as one: `a.{0,1,2}.b`."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        match = re.search(r"\.(\d+)\.", name)
        head, number, tail = (name[: match.start(1)], match[1], name[match.end(1) :]) if match else (name, "", "")
        groups.setdefault((head, tail), []).append(number)
    return [
        f"{head}{numbers[0] if len(numbers) == 1 else '{' + ','.join(numbers) + '}'}{tail}"
        for (head, tail), numbers in groups.items()
    ]


def write(entries: Sequence[Entry], params: Params, where: str) -> dict[str, np.ndarray]:
    """A checkpoint's tensors from our parameters. UserError with every path that is missing or left over."""
    flat = dict(flatten(params))
    wanted = {path for entry in entries for path in entry.ours}
    missing, extra = sorted(wanted - flat.keys()), sorted(flat.keys() - wanted)
    if missing or extra:
        told = [f"{len(n)} {what}: {', '.join(n)}" for what, n in (("missing", missing), ("extra", extra)) if n]
        raise UserError(f"the parameters do not fit {where}: {'; '.join(told)}")
    tensors: dict[str, np.ndarray] = {}
    wrong = []
    for entry in entries:
        arrays = [np.asarray(flat[path]) for path in entry.ours]
        try:
            made = entry.rule.write(arrays if entry.layer is None else [array[entry.layer] for array in arrays])
        except (ValueError, IndexError):  # numpy's own word for a shape that does not fit
            wrong.append(entry.ours[0])
            continue
        for name, array, shape in zip(entry.theirs, made, entry.shapes):
            if array.shape != shape:
                wrong.append(f"{entry.ours[0]} (as {name} {list(array.shape)}, should be {list(shape)})")
            tensors[name] = np.asarray(array, order="C")  # ascontiguousarray makes a vector of a scalar
    if wrong:
        raise UserError(f"the parameters do not fit {where}: {len(wrong)} misshapen: {', '.join(dict.fromkeys(wrong))}")
    return tensors


def flatten(tree: Params, prefix: str = "") -> list[tuple[str, Any]]:
    """(path joined by "/", leaf) of a tree of parameters."""
    found = []
    for name, value in tree.items():
        found += flatten(value, f"{prefix}{name}/") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found
