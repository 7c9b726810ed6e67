"""A tokenizer over a fixed list of words, with the frame of CLIP's: start, words, end, padding.

Ids: 0 is padding, words are 1 .. n in the order of the vocabulary, start is n + 1 and end n + 2, the largest, so that
argmax(ids) is the position of the end token. Masks come from lengths, never from ids.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from diffusion_jax.typing import UserError

__all__ = ["WordTokenizer"]

TOLD = 5
"""Unknown words of one text that have a line each."""

_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """Lower-cases, drops punctuation, leaves out words that it does not know (`explain` says which)."""

    vocabulary: tuple[str, ...]
    context_length: int = 16

    def __post_init__(self) -> None:
        if self.context_length < 2:
            raise UserError(f"context_length {self.context_length} is not at least 2, for the start and the end token")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise UserError("the vocabulary holds a word twice")
        for word in self.vocabulary:
            if self.words(word) != [word]:
                raise UserError(
                    f"{word!r} in the vocabulary is never found in a text, which is read as {self.words(word)}"
                )

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i + 1 for i, word in enumerate(self.vocabulary)}

    @property
    def start(self) -> int:
        """The id that begins every row."""
        return len(self.vocabulary) + 1

    @property
    def end(self) -> int:
        """The id that ends every text, the largest of all."""
        return len(self.vocabulary) + 2

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are, padding, start and end included."""
        return len(self.vocabulary) + 3

    def words(self, text: str) -> list[str]:
        """The words of a text as they are looked up."""
        return _WORD.findall(text.lower())

    def encode(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """{"tokens": int32 [n, context_length], "length": int32 [n] with start and end counted}.

        A text that is too long keeps its beginning, and its last id is the end token. "" becomes start, end.
        """
        _check_list(texts)
        tokens = np.zeros((len(texts), self.context_length), np.int32)
        length = np.zeros(len(texts), np.int32)
        for row, text in enumerate(texts):
            ids = [self._ids[word] for word in self.words(text) if word in self._ids]
            ids = [self.start, *ids[: self.context_length - 2], self.end]
            tokens[row, : len(ids)], length[row] = ids, len(ids)
        return {"tokens": tokens, "length": length}

    def decode(self, tokens: Int[np.ndarray, " context"]) -> str:
        """The words of one row, joined by spaces."""
        words = dict(enumerate(self.vocabulary, start=1))
        return " ".join(words[int(i)] for i in tokens if int(i) in words)

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of a text that are not in the vocabulary."""
        return tuple(word for word in dict.fromkeys(self.words(text)) if word not in self._ids)

    def explain(self, texts: Sequence[str]) -> list[str]:
        """A line for each word that is left out, with the nearest known one, and for each text that is cut or left empty.

        Of a text with many unknown words the first `TOLD` have a line, the others one together.
        """
        _check_list(texts)
        lines = []
        for text in dict.fromkeys(texts):
            said, unknown = _shown(text), self.unknown(text)
            for word in unknown[:TOLD]:
                near = difflib.get_close_matches(word[:40], self.vocabulary, n=1, cutoff=0.6)
                hint = f" (nearest: {near[0]!r})" if near else ""
                lines.append(f"prompt {said}: {_shown(word)} is not in the vocabulary and is left out{hint}")
            if len(unknown) > TOLD:
                lines.append(
                    f"prompt {said}: {len(unknown) - TOLD} more words are not in the vocabulary and are left out"
                )
            known = [word for word in self.words(text) if word in self._ids]
            if not known:
                lines.append(f"prompt {said}: no word of it reaches the model: it counts as the empty prompt")
            over = len(known) - (self.context_length - 2)
            if over > 0:
                room = self.context_length - 2
                lines.append(
                    f"prompt {said}: of {len(known)} known words only the first {room} fit; {over} are left out"
                )
        return lines


def _shown(text: str, most: int = 80) -> str:
    """The text as Python writes it, cut in the middle where it is longer than `most` characters and a little."""
    said = repr(text)
    return said if len(said) <= most + 40 else f"{said[: most // 2]}...{said[-most // 2 :]}"


def _check_list(texts: Sequence[str]) -> None:
    if isinstance(texts, str | bytes):
        raise UserError(f"the tokenizer takes a list of texts, not the text {_shown(texts)}; write [{_shown(texts)}]")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"caption {i} is a {type(text).__name__}, which is not text")
