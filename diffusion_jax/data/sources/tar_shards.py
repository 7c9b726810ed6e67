"""Pictures and captions in tar files (KEY.jpg beside KEY.txt or KEY.json), as a random-access source.

Each shard is read through once for where its members lie; the places are kept beside it (or in `index`) as
SHARD.index.json, with the size and the time of the shard that they belong to. From then on an item is two reads at an
offset, in any order.
"""

from __future__ import annotations

import dataclasses
import glob
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from diffusion_jax.data.sources.captioned import CAPTION_COLUMNS, setting, split_of, split_shares, texts_of
from diffusion_jax.data.sources.folders import IMAGE_ENDINGS, UNREAD_ENDINGS, hint, names_in, status
from diffusion_jax.data.sources.tar_index import Member, members
from diffusion_jax.data.text.text_files import decode, parse_json, shortened
from diffusion_jax.typing import UserError

__all__ = ["TarShards", "expand"]

MOST_SHARDS = 1_000_000


def expand(pattern: str) -> list[Path]:
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
            tars = [name for name in names_in(path) if re.search(r"\.tar$", name, re.IGNORECASE)]
            ending = os.path.splitext(tars[0])[1] if tars else ".tar"
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


@dataclasses.dataclass(frozen=True)
class TarShards:
    """The pictures of the shards that `path` names; item i is {"image": bytes, "captions", "name": KEY, "where"}.

    path: a pattern such as "shards/{00000..00031}.tar" or "shards/*.tar".
    index: the folder of the indices, beside the shards by default (they must then be writable).
    image_key: the ending of the pictures, such as "jpg" or "rgb.png", or several, "jpg;png", of which a key's first counts.
        By default any ending of a picture; a key with two pictures (a photograph and its mask) is then refused.
    caption_key: the key of the captions in KEY.json, a text or a list. What is named here is looked up there and
        nowhere else; by default KEY.txt counts, whole, or else of KEY.json the first known key, such as caption.
    split, validation, test: as of `CaptionFolder`, by the hash of SHARD/KEY.

    Raises UserError for shards that are missing, cut short or no tar (see `tar_index`), for pictures without a text,
    and at the item for one without a caption.
    """

    pictures: ClassVar[bool] = True  # to be prepared, rather than arrays in [-1, 1]
    path: str
    index: str | None = None
    image_key: str | None = None
    caption_key: str | None = None
    split: str | None = None
    validation: float = 0.001
    test: float = 0.0
    shards: tuple[Path, ...] = dataclasses.field(init=False, repr=False)
    names: tuple[str, ...] = dataclasses.field(init=False, repr=False)
    places: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shares = split_shares(self.split, self.validation, self.test)
        endings = None
        if self.image_key is not None:
            endings = tuple("." + key.strip().lstrip(".").lower() for key in self.image_key.split(";") if key.strip())
            wrong = [ending for ending in endings if os.path.splitext(f"x{ending}")[1] not in IMAGE_ENDINGS]
            if wrong or not endings:
                raise UserError(
                    f"image_key {self.image_key!r} is no ending of a picture; it ends in one of "
                    f"{', '.join(ending[1:] for ending in IMAGE_ENDINGS)}"
                )
        folder = None if self.index is None else Path(self.index)
        shards = expand(self.path)
        names, places = [], []
        for number, shard in enumerate(tqdm(shards, "reading shards", delay=2, leave=False)):
            held = members(shard, _wanted, folder, setting("index", "FOLDER"))
            for name, *place in _pairs(held, f"shard {str(shard)!r}", endings, self.caption_key is not None):
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
        try:
            handle = os.open(shard, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"shard {str(shard)!r} cannot be read: {error.strerror}") from error
        try:
            image = os.pread(handle, size, at)
            words = os.pread(handle, text_size, text_at)
        finally:
            os.close(handle)
        if len(image) != size or len(words) != text_size:
            raise UserError(f"{shard} was cut short after it was indexed: {name} is not whole")
        where = f"{shard}: {name}"
        return {"image": image, "captions": self._captions(words, bool(is_json), where), "name": name, "where": where}

    def _captions(self, words: bytes, is_json: bool, where: str) -> list[str]:
        text = decode(words, f"{where}.{'json' if is_json else 'txt'}")
        if not is_json:
            return texts_of(text, where)
        found = parse_json(text, f"{where}.json")
        if not isinstance(found, dict):
            raise UserError(f"{where}.json is not a JSON object")
        key = self.caption_key or next((key for key in CAPTION_COLUMNS if key in found), None)
        if key is None or key not in found:
            missing = "caption" if self.caption_key is None else f"key {self.caption_key!r}"
            keys = ", ".join(shortened(key, 40) for key in list(found)[:20]) or "none"
            raise UserError(f"{where}.json has no {missing}: its keys are {keys}; say {setting('caption_key', 'NAME')}")
        return texts_of(found[key], where)


def _wanted(name: str) -> bool:
    if os.path.basename(name).startswith("."):  # "._a.jpg", which macOS' tar adds
        return False
    return os.path.splitext(name)[1].lower() in (*IMAGE_ENDINGS, *UNREAD_ENDINGS, ".txt", ".json")


def _pairs(
    held: Sequence[Member], said: str, endings: tuple[str, ...] | None, needs_json: bool
) -> list[tuple[str, int, int, int, int, int]]:
    """(key, offset, size, the caption's offset, size, is JSON) of every picture of a shard."""
    pictures: dict[str, tuple[int, str, int, int]] = {}  # key -> (its ending's place in `endings`, name, offset, size)
    texts: dict[str, tuple[str, int, int, int]] = {}
    for name, at, size in held:
        stem, ending = os.path.splitext(name)
        if ending.lower() in (".txt", ".json"):
            is_json = ending.lower() == ".json"
            if needs_json and not is_json:
                continue
            other = texts.get(stem)
            if other is not None and other[3] == is_json:
                raise UserError(f"{said}: {other[0]!r} and {name!r} are texts of one picture")
            if other is None or other[3]:  # the text before the JSON
                texts[stem] = (name, at, size, int(is_json))
            continue
        rank = 0
        if endings is None and ending.lower() in UNREAD_ENDINGS:
            raise UserError(
                f"{said}: {name!r} is a picture of a kind that is not read; leave such out by {setting('image_key', 'jpg')}"
            )
        if endings is not None:
            ranked = [place for place, own in enumerate(endings) if name.lower().endswith(own)]
            if not ranked:
                continue
            rank = ranked[0]
            stem = name[: -len(endings[rank])]
        before = pictures.get(stem)
        if before is not None and before[0] == rank:
            keys = [os.path.splitext(n)[1][1:] for n in (before[1], name)]
            raise UserError(
                f"{said}: {stem!r} has two pictures, {before[1]!r} and {name!r}; say which it is by "
                f"{setting('image_key', keys[0])} or image_key={keys[1]}"
            )
        if before is None or rank < before[0]:
            pictures[stem] = (rank, name, at, size)
    without = [stem for stem in pictures if stem not in texts]
    if endings is not None:
        # Asked for "jpg", KEY.mask.jpg is not KEY.jpg.
        others = {stem for stem in without if any(stem[:dot] in texts for dot in _dots(stem))}
        pictures = {stem: place for stem, place in pictures.items() if stem not in others}
        without = [stem for stem in without if stem not in others]
    if without:
        first = pictures[without[0]][1]
        advice = ""
        if endings is None and len(without) < len(pictures):
            kept = next(name for stem, (_, name, _, _) in pictures.items() if stem in texts)
            advice = f"; if they are masks or the like, say {setting('image_key', os.path.splitext(kept)[1][1:])}"
        wanted = ".json, where caption_key is looked up" if needs_json else ".txt or .json"
        raise UserError(
            f"{said}: {len(without)} of {len(pictures)} pictures have no {wanted}, the first {without[0]!r} ({first}){advice}"
        )
    return [(stem, at, size, *texts[stem][1:]) for stem, (_, _, at, size) in pictures.items()]


def _dots(stem: str) -> list[int]:
    """Where dots stand in the last part of a key."""
    return [place for place in range(stem.rfind("/") + 1, len(stem)) if stem[place] == "."]
