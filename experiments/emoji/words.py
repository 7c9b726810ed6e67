"""What each emoji is called: names and tags, from the npm package emojibase-data or from the PyPI package emoji.

An emoji is a sequence of code points, written here in lower-case hexadecimal, joined by hyphens, without the selectors fe0e and
fe0f, which say how it is shown and not what it is. Five code points say skin tones; without them a sequence is the
**subject**, which has the name. Names that tell a man from a woman alone (or twins of one name) are a **family**: what is
held out is held out with its family, since whoever has seen a fire fighter has seen half of the other one.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.typing import UserError

__all__ = ["TONES", "Word", "emojibase_words", "family", "package_words", "plain_code", "read_members", "without_tone"]

TONES = {
    "1f3fb": "light skin tone",
    "1f3fc": "medium-light skin tone",
    "1f3fd": "medium skin tone",
    "1f3fe": "medium-dark skin tone",
    "1f3ff": "dark skin tone",
}
SELECTORS = ("fe0e", "fe0f")
COMPONENTS = "components"
HAIR = ("1f9b0", "1f9b1", "1f9b2", "1f9b3")  # components too, which the package emoji does not say
FLAG = re.compile(r"1f1(e[6-9a-f]|f[0-9a-f])(-1f1(e[6-9a-f]|f[0-9a-f]))")
PEOPLE = re.compile(r"\b(man|woman|person|men|women|people|boy|girl|mr|mrs)\b")


@dataclasses.dataclass(frozen=True)
class Word:
    """The name of a subject, other words for it, and the group it is in, "" where that is not known; lower-case."""

    name: str
    tags: tuple[str, ...] = ()
    group: str = ""


def plain_code(code: str) -> str:
    """A sequence as it is written here: "270B-FE0F" is "270b", "0023-20E3" is "23-20e3"."""
    points = (point.lstrip("0") for point in code.lower().split("-"))
    return "-".join(point for point in points if point not in SELECTORS)


def without_tone(code: str) -> tuple[str, tuple[str, ...]]:
    """(the subject of a sequence, the different skin tones that it says, as in `TONES`)."""
    points = plain_code(code).split("-")
    tones = tuple(dict.fromkeys(point for point in points if point in TONES))
    return "-".join(point for point in points if point not in TONES), tones


def family(name: str) -> str:
    """The name without what tells a man from a woman; the name itself where nothing else is in it."""
    rest = " ".join(PEOPLE.sub(" ", name).replace(",", " ").split())
    return rest or name


def emojibase_words(tarball: Path) -> dict[str, Word]:
    """subject -> its words, from the tarball of the npm package emojibase-data. UserError where it is none."""
    found = read_members(
        tarball, ("package/en/data.json", "package/en/messages.json"), "the npm package emojibase-data"
    )
    groups = {group["order"]: group["message"].lower() for group in found["package/en/messages.json"]["groups"]}
    words = {}
    for entry in found["package/en/data.json"]:
        group = groups.get(entry.get("group"))
        if group is not None and group != COMPONENTS:
            tags = tuple(dict.fromkeys(_told(tag) for tag in entry.get("tags", ())))
            words[plain_code(entry["hexcode"])] = Word(_told(entry["label"]), tags, group)
    return words


def package_words(data: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Word]:
    """subject -> its words, from the PyPI package emoji, or from `data` in its layout. UserError where it is not installed."""
    words: dict[str, Word] = {}
    for text, entry in (_package() if data is None else data).items():
        subject, tones = without_tone("-".join(f"{ord(letter):x}" for letter in text))
        name = _told(entry["en"].strip(":").replace("_", " "))
        if tones or not subject or subject in words or subject in HAIR:
            continue
        if FLAG.fullmatch(subject):
            name = f"flag of {name}"
        tags = dict.fromkeys(_told(alias.strip(":").replace("_", " ")) for alias in entry.get("alias", ()))
        words[subject] = Word(name, tuple(tag for tag in tags if tag != name))
    return words


def _package() -> Mapping[str, Mapping[str, Any]]:
    try:
        from emoji import EMOJI_DATA
    except ImportError as error:
        raise UserError(
            "names of emoji need the package emoji: pip install -e '.[emoji]', or give --words, the tarball of the "
            "npm package emojibase-data"
        ) from error
    return EMOJI_DATA


def _told(text: str) -> str:
    """A label as a caption says it: "flag: Japan" is "flag of japan", "woman: red hair" is "woman, red hair"."""
    text = re.sub(r"[“”\"]", "", text).replace("’", "'").lower()
    return " ".join(re.sub(r"^flag: ", "flag of ", text).replace("keycap: ", "keycap ").replace(": ", ", ").split())


def read_members(tarball: Path, names: tuple[str, ...], what: str, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON files of these names in a tarball; those `optional` only where they are there.

    UserError where the tarball is missing, is none, or lacks one of them, which says `what` was asked for.
    """
    if not tarball.is_file():
        raise UserError(f"there is no file {str(tarball)!r}: give the tarball of {what} (npm pack writes one)")
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(tarball.read_bytes())) as archive:
            for member in archive:
                if member.name in (*names, *optional) and (file := archive.extractfile(member)) is not None:
                    found[member.name] = json.load(file)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{tarball} is not a whole tarball of {what}: {error}") from error
    for name in names:
        if name not in found:
            raise UserError(f"{tarball} is not the tarball of {what}: it has no {name}")
    return found
