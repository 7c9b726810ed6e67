"""Pictures in tar files (KEY.jpg beside KEY.txt, KEY.json or KEY.cls), as a random-access source.

Each shard is read through once for where its members lie; the places are kept beside it (or in `index`) as
SHARD.index.json, with the size and the time of the shard that they belong to. From then on an item is two reads at an
offset, in any order. Labels are read at the start.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from diffusion_jax.data.sources.captioned import CAPTION_COLUMNS, setting, split_of, split_shares, texts_of
from diffusion_jax.data.sources.classes import class_names_of, numbered
from diffusion_jax.data.sources.folders import IMAGE_ENDINGS
from diffusion_jax.data.sources.shards import expand
from diffusion_jax.data.sources.tar_index import members
from diffusion_jax.data.sources.tar_pairs import Pair, pairs, wanted
from diffusion_jax.data.text.text_files import decode, parse_json, shortened
from diffusion_jax.typing import UserError

__all__ = ["PictureShards", "TarShards"]


@dataclasses.dataclass(frozen=True)
class TarShards:
    """The pictures of the shards that `path` names; item i is {"image": bytes, "captions", "label", "name": KEY, "where"}.

    path: a pattern such as "shards/{00000..00031}.tar" or "shards/*.tar".
    index: the folder of the indices, beside the shards by default (they must then be writable).
    image_key: the ending of the pictures, such as "jpg" or "rgb.png", or several, "jpg;png", of which a key's first counts.
        By default any ending of a picture; a key with two pictures (a photograph and its mask) is then refused.
    caption_key: the key of the captions in KEY.json, a text or a list. What is named here is looked up there and
        nowhere else; by default KEY.txt counts, whole, or else of KEY.json the first known key, such as caption.
    label_key: the key of the label in KEY.json, a number or a name; by default it is what KEY.cls says, where there is one.
    class_names: the names of the classes in the order of their numbers, or a file of them (`classes.class_names_of`).
    split, validation, test: as of `CaptionFolder`, by the hash of SHARD/KEY.

    Raises UserError for shards that are missing, cut short or no tar (see `tar_index`), for pictures without a text, unless
    each of a shard has a label in place of one, for a label that is none, and at the item for a picture without a caption.
    """

    pictures: ClassVar[bool] = True  # to be prepared, rather than arrays in [-1, 1]
    levels: ClassVar[int] = 256
    needs_captions: ClassVar[bool] = True
    path: str
    index: str | None = None
    image_key: str | None = None
    caption_key: str | None = None
    label_key: str | None = None
    class_names: str | Sequence[str] | None = None
    split: str | None = None
    validation: float = 0.001
    test: float = 0.0
    shards: tuple[Path, ...] = dataclasses.field(init=False, repr=False)
    names: tuple[str, ...] = dataclasses.field(init=False, repr=False)
    places: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)
    labels: np.ndarray | None = dataclasses.field(init=False, repr=False, compare=False)
    captioned: bool = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        shares = split_shares(self.split, self.validation, self.test)
        endings = _endings(self.image_key)
        folder = None if self.index is None else Path(self.index)
        shards = expand(self.path)
        found: list[tuple[int, Pair]] = []
        bare: list[Path] = []
        for number, shard in enumerate(tqdm(shards, "reading shards", delay=2, leave=False)):
            held = members(shard, wanted, folder, setting("index", "FOLDER"))
            here = pairs(held, f"shard {str(shard)!r}", endings, self.caption_key is not None, self.needs_captions)
            found += [(number, pair) for pair in here]
            bare += [shard] if here and here[0].text[1] < 0 else []
        if bare and any(pair.text[1] >= 0 for _, pair in found):
            raise UserError(
                f"the pictures of {len(bare)} of {len(shards)} shards have no text and others have one, the first "
                f"{str(bare[0])!r}"
            )
        labels, names = self._labelled(shards, found)
        chosen = [
            row
            for row, (number, pair) in enumerate(found)
            if self.split in (None, split_of(f"{shards[number].name}/{pair.key}", shares))
        ]
        if not chosen:
            raise UserError(
                f"no picture in {len(shards)} shards of {self.path!r}"
                + (f", split {self.split!r}" if self.split else "")
            )
        kept = [found[row] for row in chosen]
        places = [(number, *pair.picture, *pair.text, pair.is_json) for number, pair in kept]
        object.__setattr__(self, "shards", tuple(shards))
        object.__setattr__(self, "names", tuple(pair.key for _, pair in kept))
        object.__setattr__(self, "places", np.array(places, np.int64))
        object.__setattr__(self, "labels", None if labels is None else labels[chosen])
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "captioned", not bare and self._has_captions(labels is not None))

    def _labelled(
        self, shards: Sequence[Path], found: Sequence[tuple[int, Pair]]
    ) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """(the label of every picture or None, the names of the classes)."""
        said = None if self.class_names is None else class_names_of(self.class_names)
        key = self.label_key
        place = (lambda pair: pair.json) if key is not None else (lambda pair: pair.label)
        without = [(number, pair) for number, pair in found if place(pair)[1] < 0]
        if key is None and len(without) == len(found):
            if said is not None:
                raise UserError(
                    f"class_names are given, and no picture of {self.path!r} has a .cls: say label_key=NAME"
                )
            return None, ()
        if without:
            number, pair = without[0]
            kind = "json, where label_key is looked up" if key is not None else "cls, as others have"
            raise UserError(
                f"shard {str(shards[number])!r}: {len(without)} of {len(found)} pictures have no .{kind}, the first "
                f"{pair.key!r}"
            )
        values = []
        for number, pair in tqdm(found, "reading labels", delay=2, leave=False):
            where = f"{shards[number]}: {pair.key}"
            (words,) = _read(shards[number], where, place(pair))
            values.append(decode(words, f"{where}.cls").strip() if key is None else _value(words, key, where))
        return numbered(values, said, f"shards {self.path!r}")

    def _has_captions(self, labelled: bool) -> bool:
        """Whether captions are given: not of a JSON that holds other things, where they are not asked for."""
        number, _, _, text_at, text_size, is_json = (int(value) for value in self.places[0])
        if not is_json or self.caption_key is not None or (self.needs_captions and not labelled):
            return True
        where = f"{self.shards[number]}: {self.names[0]}"
        (words,) = _read(self.shards[number], where, (text_at, text_size))
        return any(key in _object(words, where) for key in CAPTION_COLUMNS)

    @property
    def uncaptioned(self) -> str:
        """What is to be said where captions are asked for and the shards have none."""
        return (
            f"no captions in the shards of {self.path!r}: neither KEY.txt nor a known key in KEY.json beside KEY.jpg; say "
            + (setting("caption_key", "NAME"))
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, at, size, text_at, text_size, is_json = (int(value) for value in self.places[index])
        shard, name = self.shards[number], self.names[index]
        where = f"{shard}: {name}"
        item: dict[str, Any] = {"name": name, "where": where}
        if self.captioned:
            item["image"], words = _read(shard, where, (at, size), (text_at, text_size))
            item["captions"] = self._captions(words, bool(is_json), where)
        else:
            (item["image"],) = _read(shard, where, (at, size))
        if self.labels is not None:
            item["label"] = int(self.labels[index])
        return item

    def _captions(self, words: bytes, is_json: bool, where: str) -> list[str]:
        if not is_json:
            return texts_of(decode(words, f"{where}.txt"), where)
        found = _object(words, where)
        key = self.caption_key or next((key for key in CAPTION_COLUMNS if key in found), None)
        if key is None or key not in found:
            missing = "caption" if self.caption_key is None else f"key {self.caption_key!r}"
            raise UserError(f"{where}.json has no {missing}: {_keys(found)}; say {setting('caption_key', 'NAME')}")
        return texts_of(found[key], where)


@dataclasses.dataclass(frozen=True)
class PictureShards(TarShards):
    """The same, where captions may be missing: of pictures alone, or with a KEY.json of other things."""

    needs_captions: ClassVar[bool] = False


def _endings(image_key: str | None) -> tuple[str, ...] | None:
    if image_key is None:
        return None
    endings = tuple("." + key.strip().lstrip(".").lower() for key in image_key.split(";") if key.strip())
    wrong = [ending for ending in endings if os.path.splitext(f"x{ending}")[1] not in IMAGE_ENDINGS]
    if wrong or not endings:
        raise UserError(
            f"image_key {image_key!r} is no ending of a picture; it ends in one of "
            f"{', '.join(ending[1:] for ending in IMAGE_ENDINGS)}"
        )
    return endings


def _read(shard: Path, where: str, *places: tuple[int, int]) -> list[bytes]:
    """What lies at each (offset, size) of a shard."""
    # Opened for each item: an open file would not survive pickling, nor a thousand shards the limit on open files.
    try:
        handle = os.open(shard, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"shard {str(shard)!r} cannot be read: {error.strerror}") from error
    try:
        found = [os.pread(handle, size, at) for at, size in places]
    finally:
        os.close(handle)
    if any(len(part) != size for part, (_, size) in zip(found, places, strict=True)):
        raise UserError(f"{shard} was cut short after it was indexed: {where.rpartition(': ')[2]} is not whole")
    return found


def _object(words: bytes, where: str) -> Mapping[str, Any]:
    found = parse_json(decode(words, f"{where}.json"), f"{where}.json")
    if not isinstance(found, dict):
        raise UserError(f"{where}.json is not a JSON object")
    return found


def _value(words: bytes, key: str, where: str) -> int | str:
    """The label in a KEY.json."""
    found = _object(words, where)
    if key not in found:
        raise UserError(f"{where}.json has no key {key!r}: {_keys(found)}; say {setting('label_key', 'NAME')}")
    if not isinstance(found[key], int | str):
        raise UserError(f"{where}.json: the label {shortened(found[key], 40)} is neither a number nor a name")
    return found[key]


def _keys(found: Mapping[str, Any]) -> str:
    return "its keys are " + (", ".join(shortened(key, 40) for key in list(found)[:20]) or "none")
