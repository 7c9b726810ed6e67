"""scikit-learn's digits: 1,797 real handwritten scans of 8 x 8 pixels with 17 grey levels, what is measured on each, and
captions that say it.

With m(x, y) the ink of a pixel in [0, 1], x to the right and y downwards from the centre of mass:

- **ink** is the mean of m; for one digit it grows with the weight of the stroke;
- **slant** is -mu_11 / mu_02 = -sum m x y / sum m y^2, the shear that would set the scan upright: positive leans to
  the right, as italics do;
- **width** is 2 sqrt(mu_20 / mu_00), in pixels.

Words such as "bold" are relative to the digit (a one has less ink than an eight): a scan is thin, regular or bold by
the terciles of ink among the training scans of its digit, and leans left, stands upright or is slanted by those of
slant.

A caption names the digit, by word or numeral, and may say the weight of its stroke and how it leans, in several
phrasings and synonyms, and often leaves some of it unsaid, as people do. Every caption is true of its scan. The grammar is
pure: the captions of a scan are a function of its measures and its index.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from diffusion_jax.typing import UserError, one_of

__all__ = [
    "CLASS_NAMES",
    "PROMPTS",
    "SLANTS",
    "SPLITS",
    "TEMPLATES",
    "VOCABULARY",
    "WEIGHTS",
    "DigitsSource",
    "captions",
    "classify",
    "load_digits",
    "measure",
    "with_article",
]

SPLITS = {"train": 1257, "validation": 180, "test": 360}
CAPTIONS = 8  # phrasings of each scan

Images = Float[np.ndarray, "images 8 8 1"]

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


PROMPTS = tuple(with_article(f"a {name}") for name in CLASS_NAMES)
"""One prompt a digit, which says nothing but the digit."""


@dataclasses.dataclass(frozen=True, eq=False)
class DigitsSource:
    """The scans of one split: images [n, 8, 8, 1] in [-1, 1] (1 is ink), labels [n] and the classes of what is measured.

    What whoever trains on these has to know of them is said here, so that nothing else need know that they are digits.
    """

    images: np.ndarray
    labels: np.ndarray
    attributes: Mapping[str, np.ndarray]
    levels: int = 17  # of grey, equally spaced from -1 to 1

    prompts: ClassVar[tuple[str, ...]] = PROMPTS  # drawn at each evaluation of a training
    class_names: ClassVar[tuple[str, ...]] = CLASS_NAMES
    templates: ClassVar[tuple[str, ...]] = TEMPLATES  # of the class names, for zero-shot classification
    vocabulary: ClassVar[tuple[str, ...]] = VOCABULARY  # of every caption and prompt
    # "module:attribute" of what measures a run on these scans, and of what shows it, and which conditions' runs they are of.
    told: ClassVar[tuple[str, ...]] = ("text",)
    measures: ClassVar[str] = "experiments.digits.measures:measure"
    page: ClassVar[str] = "experiments.digits.page:write_page"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"scan {index} of {len(self)}")
        index %= len(self)
        weight, slant = (int(self.attributes[name][index]) for name in ("weight", "slant"))
        label = int(self.labels[index])
        return {
            "image": self.images[index],
            "label": label,
            "captions": captions(label, WEIGHTS[weight], SLANTS[slant], index, CAPTIONS),
            "attributes": {"weight": WEIGHTS[weight], "slant": SLANTS[slant]},
            "index": index,
        }

    def columns(self) -> dict[str, np.ndarray]:
        """All rows at once: `image`, `label`, `index`."""
        return {"image": self.images, "label": self.labels, "index": np.arange(len(self))}


def load_digits(split: str) -> DigitsSource:
    """The scans of "train" (1,257), "validation" (180) or "test" (360): fixed, stratified by digit, disjoint."""
    images, labels = _scans()
    rows = _split()[one_of("split", split, SPLITS)]
    found = classify(images[rows], labels[rows])
    return DigitsSource(images[rows], labels[rows], found)


@functools.cache
def _scans() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits as load

    raw = load()
    images = (raw.images / 8.0 - 1.0).astype(np.float32)[..., None]
    return images, raw.target.astype(np.int32)


@functools.cache
def _split() -> dict[str, np.ndarray]:
    from sklearn.model_selection import train_test_split

    labels = _scans()[1]
    rest, test = train_test_split(np.arange(len(labels)), test_size=SPLITS["test"], stratify=labels, random_state=0)
    train, validation = train_test_split(rest, test_size=SPLITS["validation"], stratify=labels[rest], random_state=0)
    return {"train": np.sort(train), "validation": np.sort(validation), "test": np.sort(test)}


def measure(images: Images) -> dict[str, Float[np.ndarray, " images"]]:
    """`ink` in [0, 1], `slant` (dimensionless, positive leans right) and `width` in pixels of each image.

    Values outside [-1, 1], as samples may have, are clipped first. An image without ink has slant and width 0.
    """
    ink = (np.clip(images[..., 0].astype(np.float64), -1, 1) + 1) / 2
    total = np.maximum(ink.sum(axis=(1, 2)), 1e-12)
    y, x = np.meshgrid(np.arange(ink.shape[1]), np.arange(ink.shape[2]), indexing="ij")
    centre_x, centre_y = ((ink * axis).sum(axis=(1, 2)) / total for axis in (x, y))
    dx, dy = x[None] - centre_x[:, None, None], y[None] - centre_y[:, None, None]
    mu_11, mu_02, mu_20 = ((ink * product).sum(axis=(1, 2)) for product in (dx * dy, dy * dy, dx * dx))
    return {
        "ink": ink.mean(axis=(1, 2)),
        "slant": -mu_11 / np.maximum(mu_02, 1e-12),
        "width": 2 * np.sqrt(mu_20 / total),
    }


@functools.cache
def _thresholds() -> dict[str, np.ndarray]:
    """[digits, 2] terciles of ink and slant among the training scans of each digit."""
    images, labels = _scans()
    rows = _split()["train"]
    found, digits = measure(images[rows]), labels[rows]
    return {
        name: np.stack([np.quantile(found[name][digits == digit], [1 / 3, 2 / 3]) for digit in range(10)])
        for name in ("ink", "slant")
    }


def classify(images: Images, labels: Int[np.ndarray, " labels"]) -> dict[str, Int[np.ndarray, " images"]]:
    """`weight` (index into WEIGHTS) and `slant` (into SLANTS) of each image as a drawing of the digit `labels` says.

    Raises UserError when there is not one label an image, and for a label that is not in 0 .. 9.
    """
    if len(images) != len(labels):
        raise UserError(f"{len(images)} images have {len(labels)} labels: each needs one")
    for label in labels[(labels < 0) | (labels > 9)]:
        raise UserError(f"label {label} is not in 0 .. 9; nearest: {min(max(label, 0), 9)}")
    found, limits = measure(images), _thresholds()
    classes = {}
    for name, measured in (("weight", "ink"), ("slant", "slant")):
        low, high = limits[measured][labels].T
        classes[name] = (found[measured] > low).astype(np.int32) + (found[measured] > high)
    return classes
