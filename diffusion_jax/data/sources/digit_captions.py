"""Captions of handwritten digits: a small grammar over what is measured on a scan.

A caption names the digit, by word or numeral, and may say the weight of its stroke and how it leans, in several
phrasings and synonyms, and often leaves some of it unsaid, as people do. Every caption is true of its scan. The
grammar is pure: the captions of a scan are a function of its measures and its index.
"""

from __future__ import annotations

import itertools
import re

import numpy as np

from diffusion_jax.typing import UserError, one_of

__all__ = ["CLASS_NAMES", "SLANTS", "TEMPLATES", "VOCABULARY", "WEIGHTS", "captions", "with_article"]

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WEIGHTS = ("thin", "regular", "bold")
SLANTS = ("backward", "upright", "slanted")

WEIGHT_WORDS = {"thin": ("thin", "light", "fine"), "regular": ("regular", "medium"), "bold": ("bold", "heavy", "thick")}
SLANT_WORDS = {
    "backward": ("backward", "left-leaning"),
    "upright": ("upright", "straight"),
    "slanted": ("slanted", "tilted"),
}
SLANT_PHRASES = {"backward": ("leaning left",), "upright": ("standing upright",), "slanted": ("leaning right",)}

TEMPLATES = ("{}", "a {}", "the digit {}", "the number {}", "a handwritten {}", "a scan of a {}")

# {d} digit, {w} weight, {s} slant as an adjective, {p} slant as a phrase.
FULL = (
    "a {w} {s} {d}",
    "a {s} {w} {d}",
    "a {w} {d} {p}",
    "the digit {d}, {w} and {s}",
    "a handwritten {d}, {w}, {p}",
    "a scan of a {w} {s} {d}",
    "{w} {s} {d}",
)
WEIGHT_ONLY = ("a {w} {d}", "the digit {d}, {w}", "a scan of a {w} {d}", "a {d} in {w} strokes", "a {w} digit {d}")
SLANT_ONLY = ("a {s} {d}", "a {d} {p}", "the number {d}, {s}", "a handwritten {s} {d}", "a {s} digit {d}")
DIGIT_ONLY = ("a {d}", "the digit {d}", "a handwritten {d}", "the number {d}", "{d}", "a scan of a {d}")
# How often a caption says both, the weight, the lean, or the digit alone.
KINDS = ((FULL, 0.45), (WEIGHT_ONLY, 0.2), (SLANT_ONLY, 0.2), (DIGIT_ONLY, 0.15))


def _words() -> tuple[str, ...]:
    phrases = itertools.chain(
        CLASS_NAMES,
        (str(digit) for digit in range(10)),
        *WEIGHT_WORDS.values(),
        *SLANT_WORDS.values(),
        *SLANT_PHRASES.values(),
        TEMPLATES,
        *(kind for kind, _ in KINDS),
    )
    words = (word.strip(",") for phrase in phrases for word in phrase.split())
    return tuple(dict.fromkeys(word for word in ("a", "an", *words) if not word.startswith("{")))


VOCABULARY = _words()
"""Every word that a caption can say, each once."""


def captions(digit: int, weight: str, slant: str, index: int, count: int = 8) -> tuple[str, ...]:
    """`count` different captions of a scan, the first of which says everything; the same for the same arguments.

    digit 0 .. 9, weight one of WEIGHTS, slant one of SLANTS. Raises UserError for anything else, and for a count that
    is not in 1 .. 16.
    """
    if not 0 <= digit <= 9:
        raise UserError(f"digit {digit} is not in 0 .. 9; nearest: {min(max(digit, 0), 9)}")
    if not 1 <= count <= 16:
        raise UserError(f"count {count} of captions is not in 1 .. 16; nearest: {min(max(count, 1), 16)}")
    one_of("weight", weight, WEIGHTS)
    one_of("slant", slant, SLANTS)
    rng = np.random.default_rng([index, digit])
    found: dict[str, None] = {}
    while len(found) < count:
        kind = FULL if not found else KINDS[rng.choice(len(KINDS), p=[share for _, share in KINDS])][0]
        found[_say(kind, digit, weight, slant, rng)] = None
    return tuple(found)


def _say(kind: tuple[str, ...], digit: int, weight: str, slant: str, rng: np.random.Generator) -> str:
    name = CLASS_NAMES[digit] if rng.random() < 0.7 else str(digit)
    options = (WEIGHT_WORDS[weight], SLANT_WORDS[slant], SLANT_PHRASES[slant], kind)
    *words, template = (of[int(rng.integers(len(of)))] for of in options)
    return with_article(template.format(d=name, **dict(zip("wsp", words, strict=True))))


def with_article(text: str) -> str:
    """`text` with "a" made "an" before "eight", "8" and "upright"."""
    return re.sub(r"\ba (?=(eight|8|upright)\b)", "an ", text)
