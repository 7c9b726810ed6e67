"""Which keys of a config say what is learned, and which may change when a run is gone on with.

`CHANGES` and a system's own `changes` hold every key, by itself or by its group (the longest that fits counts), with the
reason; one that a system of one's own says nothing of is FIXED. FIXED keys decide
the numbers of training: another value is another run. FREE ones do not, or by the rounding of float32 alone, as another
number of devices does; a change of theirs is said. MOVED ones name files, which may lie
elsewhere when their contents are the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.build.key_ranges import whole_of
from diffusion_jax.build.keys import REQUIRED
from diffusion_jax.config import changes, flatten, to_dict
from diffusion_jax.data.sources.shards import expand
from diffusion_jax.systems.system import FIXED, FREE, MOVED
from diffusion_jax.systems.table import keys, system_of
from diffusion_jax.typing import UserError

__all__ = [
    "CHANGES",
    "FIXED",
    "FREE",
    "MOVED",
    "changes_of",
    "contents_of",
    "differences",
    "kind_of",
    "vocabulary_files",
]

CHANGES: dict[str, tuple[str, str]] = {
    "system": (FIXED, "another model"),
    "workdir": (FREE, "where the run lies"),
    "seed": (FIXED, "draws other weights and batches"),
    "steps": (FREE, "how long the run goes on; the rate's fall is stretched to it"),
    "batch_size": (FIXED, "another gradient"),
    "log_every": (FREE, "what is written, not what is learned"),
    "eval_every": (FREE, "what is measured, not what is learned"),
    "checkpoint_every": (FREE, "what is kept, not what is learned"),
    "locked": (FIXED, "other parameters train"),
    "data": (FIXED, "other examples, or the same ones altered otherwise"),
    "data.path": (MOVED, "the same pictures elsewhere"),
    "data.data_dir": (FREE, "the same dataset elsewhere: its name and version are in data.path"),
    "data.index": (FREE, "where the places within the shards are noted"),
    "data.on_error": (FREE, "only what a picture that cannot be read does"),
    "data.error_share": (FREE, "only when too many cannot be read"),
    "data.workers": (FREE, "how many pictures are read at once: the batches are the same"),
    "data.eval_pairs": (FREE, "what is measured, not what is learned"),
    "model": (FIXED, "another network"),
    "model.scan": (FREE, "the same layers in a loop or one by one"),
    "model.remat": (FREE, "what is kept for the gradient and what is computed again"),
    "loss": (FIXED, "another loss"),
    "optimizer": (FIXED, "other steps from the same gradient"),
    "ema": (FIXED, "another average"),
    "mesh": (FREE, "where the same numbers are computed"),
}


def changes_of(config: ConfigDict) -> dict[str, tuple[str, str]]:
    """What may change of a config of its system, and what is common to all."""
    return CHANGES | dict(system_of(config).changes)


def kind_of(key: str, table: Mapping[str, tuple[str, str]]) -> str:
    """FIXED, FREE or MOVED. KeyError for a key that neither stands in the table nor its group.

    Of a part of several a key is what it is of a whole.
    """
    key = whole_of(key)
    while key not in table:
        group, dot, _ = key.rpartition(".")
        if not dot:
            raise KeyError(key)
        key = group
    return table[key][0]


def differences(old: ConfigDict, new: ConfigDict) -> dict[str, list[str]]:
    """What differs between the config of a run and that which is to go on with it: {kind: ["key: old -> new", ...]}.

    A key that is absent is what it is by default, and one that nothing reads any more (of an older run) is FREE.
    """
    read, table = keys(new).keys() | keys(old).keys(), changes_of(new)
    table = {key.partition(".")[0]: (FIXED, "not said to be free") for key in read} | table
    found: dict[str, list[str]] = {FIXED: [], FREE: [], MOVED: []}
    for line in changes(_with_defaults(old), _with_defaults(new)):
        key = line.partition(": ")[0]
        found[kind_of(key, table) if key in read else FREE].append(line)
    return found


def _with_defaults(config: ConfigDict) -> dict[str, Any]:
    """The keys as they are and, in the groups that there are, those that are absent; a preset says itself what a model is.

    A group that is absent is of the name that is its default, such as the space `pixels`.
    """
    flat = flatten(to_dict(config))
    groups = {"mesh", *(key.rpartition(".")[0] for key in flat)}
    preset = bool(flat.get("model.preset"))
    for key, known in keys(config).items():
        group = key.rpartition(".")[0]
        if (
            key not in flat
            and known.default is not REQUIRED
            and (group in groups or ("." not in group and key == f"{group}.name"))
            and not (preset and group.startswith("model"))
        ):
            flat[key] = tuple(known.default) if isinstance(known.default, list) else known.default
    return flat


def contents_of(config: ConfigDict) -> dict[str, str]:
    """A digest of what lies at each MOVED key of a config, without what cannot be read.

    Of pictures the names and sizes of their files, relative to the folder or of the shards; of a vocabulary its bytes.
    """
    flat, known, found = flatten(to_dict(config)), keys(config), {}
    for key, digest in (("data.path", _pictures), ("tokenizer.path", _vocabulary)):
        path = flat.get(key)
        if key in known and known[key].range.path and isinstance(path, str) and path:
            try:
                found[key] = digest(path)
            except (OSError, UserError):
                continue
    return {key: digest for key, digest in found.items() if digest}


def _pictures(path: str) -> str:
    """The names and sizes of all files below a folder, or of the shards of a pattern; of one file of arrays its bytes.

    "" where there is none of these.
    """
    if Path(path).is_file() and not path.lower().endswith((".tar", ".parquet")):
        return _digest([_bytes(Path(path))])
    if Path(path).is_dir():
        return _digest(f"{Path(name).as_posix()} {size}" for name, size in sorted(_files(path)))
    return _digest(f"{shard.name} {shard.stat().st_size}" for shard in expand(path))


def _bytes(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _files(folder: str) -> Iterable[tuple[str, int]]:
    for root, _, names in os.walk(folder):
        for name in names:
            if not name.startswith("."):
                file = os.path.join(root, name)
                yield os.path.relpath(file, folder), os.stat(file).st_size


def vocabulary_files(path: str | Path) -> list[Path]:
    """The file of a vocabulary, and its other half beside it, or those in a folder that a tokenizer may read."""
    file, pair = Path(path), ("vocab.json", "merges.txt")
    if file.is_file():
        both = [file.with_name(name) for name in pair] if file.name.lower() in pair else [file]
        return [part for part in both if part.is_file()]
    kinds = (*pair, "tokenizer.json", "*.model", "bpe*.gz")
    found = sorted(part for kind in kinds for part in file.glob(kind))
    return found or sorted(part for kind in kinds for part in (file / "tokenizer").glob(kind))


def _vocabulary(path: str) -> str:
    files = vocabulary_files(path)
    return _digest(hashlib.sha256(found.read_bytes()).hexdigest() for found in files) if files else ""


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:16]
