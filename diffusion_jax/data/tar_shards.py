"""Pictures and captions in tar files (KEY.jpg beside KEY.txt or KEY.json), as a random-access source.

Each shard is read through once for where its members lie; the places are kept beside it (or in `index`) as
SHARD.index.json, with the size and the time of the shard that they belong to. From then on an item is two reads at an
offset, in any order.
"""

from __future__ import annotations

import dataclasses
import glob
import itertools
import json
import os
import re
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffusion_jax.data.caption_folder import CAPTION_COLUMNS, IMAGE_ENDINGS, SPLITS, split_of
from diffusion_jax.typing import UserError, one_of

__all__ = ["TarShards", "expand"]


def expand(pattern: str) -> list[Path]:
    """The files of a path with {00..31}, {a,b} and *; in order. UserError when there are none."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices: list[list[str]] = []
    for place, part in enumerate(parts):
        if place % 2 == 0:
            choices.append([part])
        elif match := re.fullmatch(r"(\d+)\.\.(\d+)", part):
            low, high = match.groups()
            choices.append([str(n).zfill(len(low)) for n in range(int(low), int(high) + 1)])
        else:
            choices.append(part.split(","))
    names = ["".join(chosen) for chosen in itertools.product(*choices)]
    found = [Path(file) for name in names for file in (sorted(glob.glob(name)) if glob.has_magic(name) else [name])]
    missing = [path for path in found if not path.is_file()]
    if missing or not found:
        raise UserError(
            f"{len(missing) or 'no'} shards of {pattern!r} "
            + (f"do not exist, the first {str(missing[0])!r}" if missing else "exist")
        )
    return found


@dataclasses.dataclass(frozen=True)
class TarShards:
    """The pictures of the shards that `path` names; item i is {"image": bytes, "captions": [str, ...], "name": KEY}.

    path: a pattern such as "shards/{00000..00031}.tar" or "shards/*.tar".
    index: the folder of the indices, beside the shards by default (they must then be writable).
    caption_key: the key of the captions in KEY.json, a text or a list; by default the first known one, such as caption.
    split, validation, test: as of `CaptionFolder`, by the hash of SHARD/KEY.

    Raises UserError for shards that are missing, cut short or no tar, and for pictures without a caption (at the item).
    """

    path: str
    index: str | None = None
    caption_key: str | None = None
    split: str | None = None
    validation: float = 0.001
    test: float = 0.0
    shards: tuple[Path, ...] = dataclasses.field(init=False, repr=False)
    names: tuple[str, ...] = dataclasses.field(init=False, repr=False)
    places: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.split is not None:
            one_of("split", self.split, SPLITS)
        shares = {"train": 1 - self.validation - self.test, "validation": self.validation, "test": self.test}
        if min(shares.values()) < 0:
            raise UserError(
                f"shares validation {self.validation} and test {self.test} are not at least 0 with a sum below 1"
            )
        shards = expand(self.path)
        names, places = [], []
        for number, shard in enumerate(tqdm(shards, "reading shards", delay=2, leave=False)):
            for name, *place in _index(shard, None if self.index is None else Path(self.index)):
                if self.split in (None, split_of(f"{shard.name}/{name}", shares)):
                    names.append(name)
                    places.append((number, *place))
        if not names:
            raise UserError(
                f"no picture in {len(shards)} shards of {self.path!r}"
                + (f", split {self.split!r}" if self.split else "")
            )
        object.__setattr__(self, "shards", tuple(shards))
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "places", np.array(places, np.int64))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, at, size, text_at, text_size, is_json = (int(value) for value in self.places[index])
        shard, name = self.shards[number], self.names[index]
        # Opened for each item: an open file would not survive pickling, nor a thousand shards the limit on open files.
        handle = os.open(shard, os.O_RDONLY)
        try:
            image = os.pread(handle, size, at)
            words = os.pread(handle, text_size, text_at)
        finally:
            os.close(handle)
        if len(image) != size or len(words) != text_size:
            raise UserError(f"{shard} was cut short after it was indexed: {name} is not whole")
        return {"image": image, "captions": self._captions(words, bool(is_json), f"{shard}: {name}"), "name": name}

    def _captions(self, words: bytes, is_json: bool, where: str) -> list[str]:
        try:
            text: Any = words.decode("utf-8-sig")
            found = json.loads(text) if is_json else text
        except ValueError as error:
            raise UserError(f"{where} has a caption that cannot be read: {error}") from error
        if is_json:
            if not isinstance(found, dict):
                raise UserError(f"{where}.json is not a JSON object")
            keys = [self.caption_key] if self.caption_key else [key for key in CAPTION_COLUMNS if key in found]
            if not keys or keys[0] not in found:
                raise UserError(f"{where}.json has no caption: its keys are {', '.join(found)}; say caption_key=NAME")
            found = found[keys[0]]
        several = found if isinstance(found, list) else [found]
        captions = [text.strip() for text in several if isinstance(text, str) and text.strip()]
        if not captions:
            raise UserError(f"{where} has an empty caption")
        return captions


def _index(shard: Path, folder: Path | None) -> list[list[Any]]:
    """[name, offset, size, caption's offset, size, is JSON] of each picture of a shard, from its index or by reading it."""
    stat = shard.stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    file = (folder or shard.parent) / f"{shard.name}.index.json"
    try:
        kept = json.loads(file.read_text())
        if kept["stamp"] == stamp:
            return kept["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no index yet, or one of something else: it is made anew
    rows = _scan(shard)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "w") as out:
            json.dump({"stamp": stamp, "rows": rows}, out)
        os.replace(temporary, file)
    except OSError as error:
        raise UserError(f"the index {file} cannot be written ({error.strerror}): say index=FOLDER") from error
    return rows


def _scan(shard: Path) -> list[list[Any]]:
    pictures: dict[str, tuple[int, int]] = {}
    texts: dict[str, tuple[int, int, int]] = {}
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                name, ending = os.path.splitext(member.name)
                if member.offset_data + member.size > size:
                    raise UserError(f"shard {shard} is cut short: {member.name} is not whole")
                if ending.lower() in IMAGE_ENDINGS:
                    pictures[name] = (member.offset_data, member.size)
                elif ending in (".txt", ".json") and (ending == ".txt" or name not in texts):
                    texts[name] = (member.offset_data, member.size, int(ending == ".json"))
    except tarfile.TarError as error:
        raise UserError(f"shard {shard} is damaged or no tar file: {error}") from error
    without = [name for name in pictures if name not in texts]
    if without:
        raise UserError(
            f"shard {shard}: {len(without)} of {len(pictures)} pictures have no .txt or .json, the first {without[0]!r}"
        )
    return [[name, *place, *texts[name]] for name, place in pictures.items()]
