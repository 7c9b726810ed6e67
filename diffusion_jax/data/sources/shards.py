"""The files that a pattern names: shards of a data set."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from diffusion_jax.data.sources.folders import hint, names_in, status
from diffusion_jax.data.text.text_files import shortened
from diffusion_jax.typing import UserError

__all__ = ["expand"]

MOST_SHARDS = 1_000_000


def expand(pattern: str, ending: str = ".tar") -> list[Path]:
    """The files of a path with {00..31}, {a,b}, * and ?; in order. Brackets are letters, as people's folders have them.

    A path that is there as it is written is taken so. Raises UserError when there is none, and for one that comes twice.
    """
    pattern = str(pattern)
    if not os.path.lexists(pattern) and pattern.startswith("~"):
        pattern = os.path.expanduser(pattern)
    names = [pattern] if status(Path(pattern)) is not None else _names(pattern)
    found: list[Path] = []
    for name in names:
        if status(Path(name)) is None and re.search(r"[*?]", name):
            # Within a picture's own name "*" finds no hidden file, as in a shell.
            found += map(Path, sorted(glob.glob(name.replace("[", "[[]"))))
        else:
            found.append(Path(name))
    for path in found:
        if os.path.isdir(path):
            shards = [name for name in names_in(path) if name.lower().endswith(ending)]
            ending = os.path.splitext(shards[0])[1] if shards else ending
            raise UserError(f"{str(path)!r} is a folder; name its shards: {str(path / '*') + ending!r}")
    missing = [path for path in found if status(path) is None]
    if missing or not found:
        first = missing[0] if missing else Path(pattern)
        near = hint(first.name, names_in(first.parent))
        raise UserError(
            f"{len(missing) or 'no'} shards of {shortened(pattern, 200)} "
            + (f"do not exist, the first {shortened(str(missing[0]), 200)}{near}" if missing else f"exist{near}")
        )
    seen: dict[tuple[int, int], Path] = {}
    for path in found:
        stat = path.stat()
        if (stat.st_dev, stat.st_ino) in seen:
            first = seen[stat.st_dev, stat.st_ino]
            raise UserError(f"the shards of {pattern!r} have {str(path)!r} twice, the first time as {str(first)!r}")
        seen[stat.st_dev, stat.st_ino] = path
    return found


def _names(pattern: str) -> list[str]:
    """What the braces stand for: {00..31} and {a,b}; others are letters, as in a shell."""
    choices: list[Sequence[str]] = []
    count = 1
    for place, part in enumerate(re.split(r"\{([^{}]*)\}", pattern)):
        if place % 2 == 0:
            choices.append([part])
        elif match := re.fullmatch(r"([0-9]+)\.\.([0-9]+)", part):
            low, high = match.groups()
            count *= max(0, int(high) - int(low) + 1)
            if count > MOST_SHARDS:
                raise UserError(f"{shortened(pattern)} stands for {count} shards; the most are {MOST_SHARDS}")
            choices.append([str(n).zfill(len(low)) for n in range(int(low), int(high) + 1)])
        else:
            choices.append(part.split(",") if "," in part else [f"{{{part}}}"])
    return ["".join(chosen) for chosen in itertools.product(*choices)]
