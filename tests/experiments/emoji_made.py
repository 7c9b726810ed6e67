"""Emoji made up in the test: sets of three styles without a renderer, and the tarballs that they might have come from."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.emoji.pictures import Pictures, save
from experiments.emoji.words import Word

STYLES = ("openmoji", "noto", "fluent flat")
SUBJECTS = 90
KINDS = ("cat", "boat", "hat", "tree", "cup", "star")


def made_pictures(styles: int = 3, size: int = 32) -> Pictures:
    """90 subjects of names in their own family but for twins of man and woman, a third with tones, 3 styles."""
    rng = np.random.default_rng(0)
    words, rows = {}, []
    for number in range(SUBJECTS):
        code = f"1f{number:03x}"
        name = (
            f"{('man ', 'woman ')[number % 2] if number < 20 else ''}{KINDS[number % 6]} {chr(97 + number // 2 % 26)}"
            + (f"{chr(97 + number // 52)}" if number < 20 else f"{number}")
        )
        words[code] = Word(name, ("tag", KINDS[number % 6], f"word{number}"), "objects")
        for tone in range(6 if number % 3 == 0 else 1):
            rows += [(code, tone, style) for style in range(styles)]
    rows.sort(key=lambda row: row[2])
    images = rng.integers(0, 256, (len(rows), size, size, 3)).astype(np.uint8)
    images[..., 0] = np.array([style for _, _, style in rows], np.uint8)[:, None, None] * 100
    subjects, tones, places = zip(*rows, strict=True)
    return Pictures(
        images,
        np.array(subjects),
        np.array(tones, np.int32),
        np.array(places, np.int32),
        STYLES[:styles],
        words,
        tuple(f"{name}, by hand" for name in STYLES[:styles]),
        "fingerprint",
    )


def made_file(folder: Path, styles: int = 3) -> Path:
    return save(folder / f"pictures-{styles}.npz", made_pictures(styles))


def tarball(file: Path, members: dict[str, object]) -> Path:
    """A tarball as npm packs one, of JSON files."""
    with tarfile.open(file, "w:gz") as archive:
        for name, value in members.items():
            data = json.dumps(value).encode()
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def icons(prefix: str, names: dict[str, str], **more: object) -> dict[str, object]:
    """The files of an Iconify set: {code: name}."""
    body = {
        name: {"body": f'<rect width="8" height="8" fill="#{i:02x}0000"/>'} for i, name in enumerate(names.values())
    }
    return {
        "icons.json": {"prefix": prefix, "icons": body, "width": 8, "height": 8, **more},
        "chars.json": names,
        "info.json": {"name": prefix.title(), "author": {"name": "A. N. Other"}, "license": {"title": "MIT"}},
    }


def emojibase(file: Path) -> Path:
    """Three subjects, one with a tone, a component and one without a group."""
    data = [
        {"label": "grinning cat", "hexcode": "1F63A", "tags": ["cat", "smile"], "group": 0},
        {"label": "flag: Japan", "hexcode": "1F1EF-1F1F5", "tags": ["JP"], "group": 9},
        {"label": "keycap: 1", "hexcode": "0031-FE0F-20E3", "group": 8},
        {"label": "raised hand", "hexcode": "270B", "tags": ["hand"], "group": 1, "skins": [{"hexcode": "270B-1F3FB"}]},
        {"label": "red hair", "hexcode": "1F9B0", "group": 2},
        {"label": "regional indicator A", "hexcode": "1F1E6"},
    ]
    names = {0: "smileys & emotion", 1: "people & body", 2: "components", 8: "symbols", 9: "flags"}
    groups = [{"key": name, "message": name, "order": order} for order, name in names.items()]
    return tarball(file, {"en/data.json": data, "en/messages.json": {"groups": groups}})


def png(*, svg_string: str, background: str, skip_system_fonts: bool, width: int = 0, height: int = 0) -> bytes:
    """A renderer's stand-in: a black picture, half as high as wide or half as wide as high; a body "broken" is refused."""
    if "broken" in svg_string:
        raise ValueError("not a valid svg")
    size = (width, width // 2) if width else (height // 2, height)
    out = io.BytesIO()
    Image.new("RGB", size, "black").save(out, "PNG")
    return out.getvalue()
