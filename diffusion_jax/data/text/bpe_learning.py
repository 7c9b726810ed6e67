"""A byte-pair vocabulary learned from one's own captions (arXiv 1508.07909, algorithm 1), in CLIP's format.

The most frequent pair of neighbouring symbols, of equals the first in order, is joined again and again. A vocabulary of 49408
ids is most of a small model's parameters; one of a few hundred merges suits a small set of captions.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable
from pathlib import Path

from diffusion_jax.data.text.bpe import ALPHABET, BYTE_SYMBOLS, END, PATTERN, START, BpeTokenizer, clean
from diffusion_jax.typing import UserError

__all__ = ["check_merges", "learn_vocabulary"]


def check_merges(merges: int) -> None:
    """UserError unless it is at least 1."""
    if merges < 1:
        raise UserError(f"merges {merges} is not at least 1; usual are 500 for a small set, 48894 in CLIP")


def learn_vocabulary(captions: Iterable[str], merges: int, folder: str | Path) -> Path:
    """Writes vocab.json and merges.txt with at most `merges` merges into `folder`, for `BpeTokenizer.load`; gives the folder.

    A pair that stands once only is not joined. Raises UserError, and writes nothing, for merges below 1, for captions
    without a word, and for those in which no pair stands twice.
    """
    check_merges(merges)
    counts = collections.Counter(word for caption in captions for word in PATTERN.findall(clean(caption).lower()))
    words = [([BYTE_SYMBOLS[byte] for byte in word.encode()], count) for word, count in sorted(counts.items())]
    if not words:
        raise UserError("the captions hold no word to learn a vocabulary from")
    for symbols, _ in words:
        symbols[-1] += "</w>"
    learned: list[tuple[str, str]] = []
    while len(learned) < merges:
        pairs: collections.Counter[tuple[str, str]] = collections.Counter()
        for symbols, count in words:
            for pair in itertools.pairwise(symbols):
                pairs[pair] += count
        if not pairs:
            break
        best, times = min(pairs.items(), key=lambda item: (-item[1], item[0]))
        if times < 2:
            break
        learned.append(best)
        for symbols, _ in words:
            place = 0
            while place < len(symbols) - 1:
                if (symbols[place], symbols[place + 1]) == best:
                    symbols[place : place + 2] = ["".join(best)]
                place += 1
    if not learned:
        raise UserError(
            "no two neighbouring letters of the captions stand twice: too few captions to learn a pair from"
        )
    ordered = (*ALPHABET, *dict.fromkeys("".join(pair) for pair in learned), START, END)
    return BpeTokenizer(ordered, tuple(learned), len(ordered) - 2, len(ordered) - 1).save(folder)
