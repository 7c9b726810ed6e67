"""A source of one's own, "experiments.emoji.source:Emoji": the emoji that `pictures` has drawn, with captions, some held out.

What is held out, by a hash that depends on nothing else:

- **families** of subjects (`words.family`), in no style and no skin tone trained on: `test` (retrieval of what was never seen)
  and `validation` (the losses on the way);
- of the other subjects that are there in several styles a share, `pairs`, in one of their styles, with all skin tones: the
  model has seen the subject, and the style, and not the two together. They are the split "pairs".

Most pictures of people differ by skin tone alone: of the five tones of a subject `tones` are kept, the same in every style.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool

from diffusion_jax.typing import UserError, one_of
from experiments.emoji import captions as grammar
from experiments.emoji.pictures import TONE_NAMES, Pictures, load
from experiments.emoji.words import family

__all__ = ["SPLITS", "Emoji", "held_pairs", "split_of"]

SPLITS = ("train", "validation", "test", "pairs")


class Emoji:
    """The emoji of one split ("train", "validation", "test" or "pairs"): items {"image": uint8 [32, 32, 3], "label": the style,
    "captions", "name", "where"}.

    path: the file that `pictures.drawn` wrote; fingerprint: that of the file, where it has to be a certain one.
    tones: how many of the five skin tones of a subject are kept, beside none.
    validation, test: shares of the families; pairs: of the subjects with several styles. captions: how many a picture.

    Raises UserError for another split, a file that is missing, damaged or of another fingerprint, numbers that are not in their
    range, and a split that is empty.
    """

    pictures: ClassVar[bool] = True

    def __init__(
        self,
        path: str,
        split: str,
        *,
        fingerprint: str | None = None,
        tones: int = 2,
        validation: float = 0.05,
        test: float = 0.1,
        pairs: float = 0.3,
        captions: int = 5,
    ) -> None:
        one_of("split", split, SPLITS)
        for name, share in (("validation", validation), ("test", test), ("pairs", pairs)):
            if not 0 <= share < 1:
                raise UserError(f"config key 'data.{name}' is {share}; it is a share from 0 to below 1")
        if not 0 <= tones <= 5:
            raise UserError(f"config key 'data.tones' is {tones}; it is a whole number from 0 to 5")
        self.all = _loaded(path, Path(path).stat().st_mtime_ns if Path(path).is_file() else 0)
        if fingerprint is not None and self.all.fingerprint != fingerprint:
            raise UserError(
                f"{path} was drawn from other inputs ({self.all.fingerprint}) than config key 'data.fingerprint' says "
                f"({fingerprint}): draw it from those, or begin another run"
            )
        of_family = {subject: split_of(family(word.name), validation, test) for subject, word in self.all.words.items()}
        found = np.array([of_family[subject] for subject in self.all.subjects])
        found[held_pairs(self.all, pairs) & (found == "train")] = "pairs"
        self.rows = np.flatnonzero((found == split) & _kept_tones(self.all, tones))
        if not len(self.rows):
            why = ": it needs several styles" if split == "pairs" else ""
            raise UserError(f"the split {split!r} of the emoji in {path} is empty{why}")
        self.count = captions
        self._said: dict[int, tuple[str, ...]] = {}  # the captions of those that were asked for
        self.class_names = self.all.style_names
        self.labels = self.all.styles[self.rows]
        self.subjects, self.tones = self.all.subjects[self.rows], self.all.tones[self.rows]

    @property
    def prompts(self) -> list[str]:
        """Drawn at each evaluation of a training: four subjects that it has, each in two styles where there are two."""
        subjects = list(dict.fromkeys(self.subjects[self.tones == 0]))
        chosen = [subjects[round(place)] for place in np.linspace(0, len(subjects) - 1, 6)[1:5]]
        styles = (self.class_names[0], self.class_names[-1])
        return [grammar.full(self.all.words[subject], "", style) for subject in chosen for style in styles]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"emoji {index} of {len(self)}")
        index %= len(self)
        row = self.rows[index]
        subject, style, tone = self.subjects[index], self.class_names[self.labels[index]], TONE_NAMES[self.tones[index]]
        word = self.all.words[subject]
        if index not in self._said:
            self._said[index] = grammar.captions(word, tone, style, str(subject), self.count)
        return {
            "image": self.all.images[row],
            "label": int(self.labels[index]),
            "captions": self._said[index],
            "name": grammar.full(word, tone, style),
            "where": f"emoji {subject}{f' ({tone})' if tone else ''} of {style}",
        }

    def columns(self) -> dict[str, np.ndarray]:
        """All at once: `image`, `label`."""
        return {"image": self.all.images[self.rows], "label": self.labels}

    def plain(self) -> np.ndarray:
        """Places of the examples without a skin tone: each subject once a style."""
        return np.flatnonzero(self.tones == 0)

    def subject_caption(self, index: int) -> str:
        """What names example `index` and not its style."""
        return grammar.named(self.all.words[self.subjects[index]], TONE_NAMES[self.tones[index]])

    def full_caption(self, index: int) -> str:
        """What says name, tone and style of example `index`."""
        return str(self[index]["name"])


@functools.lru_cache(maxsize=2)
def _loaded(path: str, changed: int) -> Pictures:
    """The pictures in a file, read once for all splits."""
    return load(Path(path))


def _chance(text: str) -> float:
    """A number in [0, 1) of a text, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


def split_of(name: str, validation: float, test: float) -> str:
    """The split of a family: "test", "validation" or "train"."""
    at = _chance(f"family {name}")
    return "test" if at < test else "validation" if at < test + validation else "train"


def held_pairs(pictures: Pictures, share: float) -> Bool[np.ndarray, " n"]:
    """Which pictures are of a subject in the one style that is held out of it."""
    styles: dict[str, set[int]] = {}
    for subject, style in zip(pictures.subjects, pictures.styles, strict=True):
        styles.setdefault(subject, set()).add(int(style))
    held = {
        subject: sorted(has)[int(_chance(f"style {subject}") * len(has))]
        for subject, has in styles.items()
        if len(has) > 1 and _chance(f"pair {subject}") < share
    }
    return np.array([held.get(subject) == style for subject, style in zip(pictures.subjects, pictures.styles)])


def _kept_tones(pictures: Pictures, most: int) -> Bool[np.ndarray, " n"]:
    """Which pictures have no skin tone, or one of the `most` that are kept of their subject."""
    kept = {
        subject: sorted(range(1, len(TONE_NAMES)), key=lambda tone: _chance(f"tone {subject} {tone}"))[:most]
        for subject in set(pictures.subjects)
    }
    return np.array([tone == 0 or tone in kept[subject] for subject, tone in zip(pictures.subjects, pictures.tones)])
