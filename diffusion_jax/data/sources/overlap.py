"""Pictures that stand in two sets, where one is to judge what was learned from the other.

The same file by another name, through a link or as a copy: files of equal size are compared by a hash of their bytes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from diffusion_jax.typing import UserError

__all__ = ["check_apart", "same_files"]


def same_files(one: Sequence[Path], other: Sequence[Path], *, contents: bool = True) -> list[tuple[Path, Path]]:
    """The pairs of a file of `other` and the first of `one` that is the same, in the order of `other`.

    `contents=False` compares where files lie alone, links followed, and reads none. What is not there is in no pair.
    """
    places = {place: path for path, place in reversed(list(_places(one)))}
    sizes: dict[int, list[Path]] = defaultdict(list)
    if contents:
        for path, place in _places(one):
            sizes[place.stat().st_size].append(path)
    digests: dict[int, dict[bytes, Path]] = {}
    found = []
    for path, place in _places(other):
        twin = places.get(place)
        size = place.stat().st_size if twin is None and contents else -1
        if size in sizes:
            if size not in digests:
                digests[size] = {_digest(file): file for file in reversed(sizes[size])}
            twin = digests[size].get(_digest(path))
        if twin is not None:
            found.append((path, twin))
    return found


def check_apart(train: Sequence[Path], test: Sequence[Path], what: str) -> None:
    """UserError where a picture of `test` is among those of `train`: what is learned by heart is no measure."""
    both = same_files(train, test)
    if both:
        path, twin = both[0]
        raise UserError(
            f"{len(both)} of the {len(test)} pictures that {what} is tested on are among those it learns from, the first "
            f"{str(path)!r} as {str(twin)!r}: give a folder of others"
        )


def _places(paths: Iterable[Path]) -> Iterable[tuple[Path, Path]]:
    """(path, where it really lies) of those that are files."""
    return ((path, path.resolve()) for path in paths if path.is_file())


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
