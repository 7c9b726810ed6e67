"""Which members of a tar file are one example: KEY.jpg with KEY.txt or KEY.json, and KEY.cls."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from diffusion_jax.data.sources.captioned import setting
from diffusion_jax.data.sources.folders import IMAGE_ENDINGS, UNREAD_ENDINGS
from diffusion_jax.data.sources.tar_index import Member
from diffusion_jax.typing import UserError

__all__ = ["Pair", "pairs", "wanted"]

BESIDE = (".txt", ".json", ".cls")


def wanted(name: str) -> bool:
    """Whether a member of that name is part of an example."""
    if os.path.basename(name).startswith("."):  # "._a.jpg", which macOS' tar adds
        return False
    return os.path.splitext(name)[1].lower() in (*IMAGE_ENDINGS, *UNREAD_ENDINGS, *BESIDE)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A picture of a shard and what lies beside it: (offset, size) each, the size -1 of what is not there."""

    key: str
    picture: tuple[int, int]
    text: tuple[int, int]
    is_json: bool  # whether the text is
    json: tuple[int, int]
    label: tuple[int, int]


def pairs(
    held: Sequence[Member], said: str, endings: tuple[str, ...] | None, needs_json: bool, needs_text: bool
) -> list[Pair]:
    """Every picture of a shard, of which either each has a text or, where none is needed or each has a KEY.cls, none.

    Raises UserError, beginning with `said`, for a picture of two files, for two texts of one, and for one without a text.
    """
    pictures: dict[str, tuple[int, str, int, int]] = {}  # key -> (its ending's place in `endings`, name, offset, size)
    texts: dict[str, tuple[str, int, int, int]] = {}
    jsons: dict[str, tuple[int, int]] = {}
    labels: dict[str, tuple[int, int]] = {}
    for name, at, size in held:
        stem, ending = os.path.splitext(name)
        if ending.lower() == ".cls":
            labels[stem] = (at, size)
            continue
        if ending.lower() == ".json":
            jsons[stem] = (at, size)
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
        beside = texts.keys() | labels.keys()
        others = {stem for stem in without if any(stem[:dot] in beside for dot in _dots(stem))}
        pictures = {stem: place for stem, place in pictures.items() if stem not in others}
        without = [stem for stem in without if stem not in others]
    none = len(without) == len(pictures) and (not needs_text or all(stem in labels for stem in without))
    if without and not none:
        first = pictures[without[0]][1]
        advice = ""
        if endings is None and len(without) < len(pictures):
            kept = next(name for stem, (_, name, _, _) in pictures.items() if stem in texts)
            advice = f"; if they are masks or the like, say {setting('image_key', os.path.splitext(kept)[1][1:])}"
        wanted = ".json, where caption_key is looked up" if needs_json else ".txt or .json"
        raise UserError(
            f"{said}: {len(without)} of {len(pictures)} pictures have no {wanted}, the first {without[0]!r} ({first}){advice}"
        )
    missing = (0, -1)
    found = []
    for stem, (_, _, at, size) in pictures.items():
        _, text_at, text_size, as_json = texts.get(stem, ("", *missing, 0))
        beside_it = jsons.get(stem, missing), labels.get(stem, missing)
        found.append(Pair(stem, (at, size), (text_at, text_size), bool(as_json), *beside_it))
    return found


def _dots(stem: str) -> list[int]:
    """Where dots stand in the last part of a key."""
    return [place for place in range(stem.rfind("/") + 1, len(stem)) if stem[place] == "."]
