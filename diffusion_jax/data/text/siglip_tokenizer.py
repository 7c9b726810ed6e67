"""The tokenizers of SigLIP (arXiv 2303.15343) and SigLIP 2 (arXiv 2502.14786): SentencePiece on a file of the user's.

SigLIP's vocabulary is T5's (32,000 pieces; 250,000 in the multilingual one): a caption loses case and ASCII
punctuation, its white space is collapsed, `</s>` (id 1) ends it and fills the row. SigLIP 2's is Gemma's (256,000
pieces): lower case only, `<eos>` (id 1) ends a caption and `<pad>` (id 0) fills the row. There is no start token. A
caption that is too long keeps its beginning, then the end token. Which of the two a file holds is seen from the name
of its end token.

open_clip cleans both alike, and more: ftfy and HTML entities first, and an underscore becomes a space. Captions never
become control tokens: `</s>` written in one is text, as in the code that trained the models (transformers reads it as
the token).
"""

from __future__ import annotations

import dataclasses
import functools
import html
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
from jaxtyping import Int

from diffusion_jax.data.text.bpe import check_captions, existing, shown
from diffusion_jax.data.text.text_files import read_bytes
from diffusion_jax.typing import UserError, one_of

__all__ = ["SiglipTokenizer"]

_FILES = ("spiece.model", "tokenizer.model")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _siglip(text: str) -> str:
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def _siglip2(text: str) -> str:
    # Character by character, as the peers do it: Python alone knows the sigma that ends a word.
    return text.replace("Σ", "σ").lower()


def _open_clip(text: str) -> str:
    text = html.unescape(html.unescape(ftfy.fix_text(text))).replace("_", " ")
    return " ".join(text.translate(_NO_PUNCTUATION).lower().split())


_CLEAN: dict[str, Callable[[str], str]] = {"siglip": _siglip, "siglip2": _siglip2, "open_clip": _open_clip}


@dataclasses.dataclass(frozen=True)
class SiglipTokenizer:
    """SentencePiece with SigLIP's end and padding; `SiglipTokenizer.load` reads one from a file or folder.

    `model` is the content of the SentencePiece file, `pad` the id that fills a row, `clean` one of "siglip", "siglip2"
    (as transformers) and "open_clip". It can be pickled and shared among threads.
    """

    model: bytes = dataclasses.field(repr=False)
    pad: int
    clean: str = "siglip"
    context_length: int = 64

    def __post_init__(self) -> None:
        one_of("clean", self.clean, _CLEAN)
        if self.context_length < 1:
            raise UserError(f"context_length {self.context_length} is not at least 1, for the end token")

    @classmethod
    def load(cls, path: str | Path, context_length: int = 64, *, clean: str | None = None) -> SiglipTokenizer:
        """The tokenizer on the SentencePiece file `path`, or on spiece.model or tokenizer.model in the folder `path`.

        `context_length`: tokens a caption, the end too. `clean`: by default "siglip" or "siglip2", seen from the file.

        Raises UserError where the library `sentencepiece` (the extra `siglip`) or the file is missing, and for a file
        that is no SentencePiece model or has no end token.
        """
        path = existing(path)
        if path.is_dir():
            found = [path / name for name in _FILES if (path / name).is_file()]
            if not found:
                raise UserError(f"there is no SentencePiece file in {str(path)!r}: none of {', '.join(_FILES)}")
            path = found[0]
        model = read_bytes(path)
        try:
            processor = _processor(model)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{str(path)!r} is no SentencePiece model: {shown(str(error))}") from None
        if processor.eos_id() < 0:
            raise UserError(f"the SentencePiece model {str(path)!r} has no end token")
        gemma = processor.id_to_piece(processor.eos_id()) == "<eos>"
        pad = processor.pad_id() if gemma else processor.eos_id()
        return cls(model, pad, clean or ("siglip2" if gemma else "siglip"), context_length)

    @functools.cached_property
    def _pieces(self) -> Any:
        return _processor(self.model)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def end(self) -> int:
        """The id that ends every caption: 1."""
        return self._pieces.eos_id()

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are, end and padding included."""
        return self._pieces.get_piece_size()

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        # A lone surrogate, which JSON can hold, has no UTF-8; the library would refuse it.
        cleaned = [_CLEAN[self.clean](text).encode(errors="replace").decode() for text in texts]
        return self._pieces.encode(cleaned) if cleaned else []

    def encode(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """{"tokens": int32 [n, context_length], "length": int32 [n] with the end token counted}, padded with `pad`.

        A caption that is too long keeps its beginning, and its last id is the end token. "" is the end token alone.
        """
        check_captions(texts)
        tokens = np.full((len(texts), self.context_length), self.pad, np.int32)
        length = np.zeros(len(texts), np.int32)
        for row, ids in enumerate(self._ids(texts)):
            ids = [*ids[: self.context_length - 1], self.end]
            tokens[row, : len(ids)], length[row] = ids, len(ids)
        return {"tokens": tokens, "length": length}

    def decode(self, tokens: Int[np.ndarray, " context"]) -> str:
        """The text of one row up to its end token."""
        ids = [int(i) for i in tokens]
        return self._pieces.decode(ids[: ids.index(self.end)] if self.end in ids else ids)

    def explain(self, texts: Sequence[str]) -> list[str]:
        """A line for each caption that is empty once cleaned, cut, or in part not in the vocabulary."""
        check_captions(texts)
        lines, room, unknown = [], self.context_length - 1, self._pieces.unk_id()
        for text, ids in dict(zip(texts, self._ids(texts), strict=True)).items():
            if not ids:
                lines.append(f"prompt {shown(text)}: nothing is left of it but the end token: an empty caption")
            if unknown in ids:
                lines.append(
                    f"prompt {shown(text)}: {ids.count(unknown)} of {len(ids)} tokens are not in the vocabulary"
                )
            if (over := len(ids) - room) > 0:
                lines.append(
                    f"prompt {shown(text)}: of {len(ids)} tokens only the first {room} fit; {over} are left out"
                )
        return lines


def _processor(model: bytes) -> Any:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise UserError(
            "SigLIP's tokenizer needs the library sentencepiece: install diffusion-jax with its extra `siglip`"
        ) from None
    if not model:
        raise RuntimeError("the file is empty")
    processor = SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    return processor
