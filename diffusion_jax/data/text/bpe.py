"""CLIP's byte-pair tokenizer, exact to OpenAI's, on a vocabulary that the user points to.

A caption is cleaned (arXiv 2103.00020, section 2.4, as in the released code): mojibake, ligatures, widths and curly
quotes by ftfy, HTML entities twice, white space collapsed, lower case. A regular expression cuts it into words; the
UTF-8 bytes of a word are symbols, the last of them marked `</w>`, and the learned merges (byte-pair encoding, arXiv
1508.07909, section 3.2) join neighbours, the earliest learned merge first and from left to right, until none applies.

Ids: 256 bytes, 256 bytes that end a word, one a merge, start, end. So the end token is the largest, 0 is both padding
and "!", and masks come from lengths. As in open_clip, `<start_of_text>` and `<end_of_text>` inside a caption become the
tokens.

Why it is fast. No word reaches over a space, so that a caption is the concatenation of its pieces between spaces, and
the ids of a piece are kept in a bounded table. And cleaning changes nothing but case and spaces where all characters
are printable ASCII and no `&` stands before anything but a space: an entity has a character after its `&`, and ftfy's
other steps look for characters above 126 or control characters."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import heapq
import html
import itertools
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import regex
from jaxtyping import Int

from diffusion_jax.data.sources.folders import hint, names_in, status
from diffusion_jax.data.text.text_files import decode, read_bytes, read_json, read_text
from diffusion_jax.data.text.text_files import shortened as shown
from diffusion_jax.typing import UserError

__all__ = [
    "ALPHABET",
    "BYTE_SYMBOLS",
    "END",
    "PATTERN",
    "START",
    "BpeTokenizer",
    "check_captions",
    "clean",
    "existing",
    "shown",
]

PATTERN = regex.compile(
    r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)
"""What cuts a caption into words; IGNORECASE also lets the long s follow an apostrophe."""

START, END = "<start_of_text>", "<end_of_text>"
_SPECIAL = {START: "<|startoftext|>", END: "<|endoftext|>"}  # ours and open_clip's -> Hugging Face's
_ENTITY = re.compile("&[^ ]")
_GZ, _VOCAB, _MERGES, _WHOLE = "bpe_simple_vocab_16e6.txt.gz", "vocab.json", "merges.txt", "tokenizer.json"
_MOST_MERGES = 49152 - 256 - 2  # the file has more lines than OpenAI's vocabulary uses
_MOST_PIECES, _LONGEST_PIECE = 1 << 17, 48  # bounds on what the table of pieces keeps


Pairs = tuple[tuple[str, str], ...]
"""The two symbols of each merge, the earliest first."""

_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTES = [*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE)]
BYTE_SYMBOLS = {byte: chr(byte if byte in _PRINTABLE else 256 + i - len(_PRINTABLE)) for i, byte in enumerate(_BYTES)}
"""byte -> its symbol, one that can be printed (GPT-2's choice), in the order of the ids."""
_BYTE_OF = {symbol: byte for byte, symbol in BYTE_SYMBOLS.items()}
ALPHABET = (*BYTE_SYMBOLS.values(), *(symbol + "</w>" for symbol in BYTE_SYMBOLS.values()))


def clean(text: str) -> str:
    """OpenAI's cleaning: ftfy, HTML entities twice, white space collapsed, lower case."""
    return " ".join(_cleaned(text))


def _cleaned(text: str) -> list[str]:
    """The pieces between spaces of a clean text."""
    if not (text.isascii() and text.isprintable()) or ("&" in text and _ENTITY.search(text)):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return text.lower().split()


def check_captions(texts: Any) -> None:
    """Raises UserError for a text in the place of a list of them, and for what is no text, with its index."""
    if isinstance(texts, str | bytes):
        raise UserError(f"the tokenizer takes a list of texts, not the text {shown(texts)}; write [{shown(texts)}]")
    if not set(map(type, texts)) <= {str}:
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                hint = "; decode it first" if isinstance(text, bytes) else ""
                raise UserError(f"caption {i} is {shown(text)} of type {type(text).__name__}, not a text{hint}")


def existing(path: str | Path) -> Path:
    """The path, or a UserError that names the nearest file beside it."""
    path = Path(path)
    if status(path) is not None:
        return path
    names = [str(path.parent / name) for name in names_in(path.parent)]
    raise UserError(f"there is no vocabulary at {shown(str(path), 200)}{hint(str(path), names)}")


class _Pieces(dict[str, tuple[int, ...]]):
    """piece -> ids, worked out when first asked for; emptied when full, so that it stays bounded.

    Safe among threads: each step is one operation on a dict, and a piece that another thread has just dropped is worked
    out again.
    """

    def __init__(self, symbols: Sequence[str], merges: Sequence[tuple[str, str]], start: int, end: int) -> None:
        super().__init__()
        ids = {symbol: i for i, symbol in enumerate(symbols)}
        self._special = {START: (start,), END: (end,)}
        self._inner = [ids[BYTE_SYMBOLS[byte]] for byte in range(256)]
        self._last = [ids[BYTE_SYMBOLS[byte] + "</w>"] for byte in range(256)]
        self._ranks = {(ids[a], ids[b]): rank for rank, (a, b) in enumerate(merges)}
        self._joined = [ids[a + b] for a, b in merges]

    def __missing__(self, piece: str) -> tuple[int, ...]:
        words = [piece] if piece.isascii() and piece.isalpha() else PATTERN.findall(piece)
        if len(words) == 1:
            found = self._special.get(words[0]) or self._merged(words[0].encode())
        else:
            # A word by itself is cut into itself.
            found = tuple(itertools.chain.from_iterable(map(self.__getitem__, words)))
        if len(piece) <= _LONGEST_PIECE:
            if len(self) >= _MOST_PIECES:
                self.clear()
            self[piece] = found
        return found

    def _merged(self, word: bytes) -> tuple[int, ...]:
        """The symbols of a word once every merge is done: the earliest first, at all its places from the left."""
        ids = [*map(self._inner.__getitem__, word[:-1]), self._last[word[-1]]]
        if len(ids) > _LONGEST_PIECE:
            return self._merged_by_heap(ids)
        rank_of, joined, none = self._ranks.get, self._joined, len(self._joined)
        ranks = [rank_of(pair, none) for pair in itertools.pairwise(ids)]
        while ranks and (best := min(ranks)) < none:
            i = ranks.index(best)
            if ranks.count(best) > 1:
                while i < len(ids) - 1:
                    if rank_of((ids[i], ids[i + 1])) == best:
                        ids[i : i + 2] = [joined[best]]
                    i += 1
                ranks = [rank_of(pair, none) for pair in itertools.pairwise(ids)]
                continue
            ids[i] = joined[best]
            del ids[i + 1], ranks[i]
            if i:
                ranks[i - 1] = rank_of((ids[i - 1], ids[i]), none)
            if i < len(ranks):
                ranks[i] = rank_of((ids[i], ids[i + 1]), none)
        return tuple(ids)

    def _merged_by_heap(self, ids: list[int]) -> tuple[int, ...]:
        """The same in time n log n, so that a word of 10,000 letters is no trap.

        `after` and `before` link the symbols that are left; an entry of the heap whose pair is gone is passed over.
        """
        ranks, size = self._ranks, len(ids)
        after, before = list(range(1, size + 1)), list(range(-1, size - 1))
        heap = [(ranks[pair], i) for i, pair in enumerate(itertools.pairwise(ids)) if pair in ranks]
        heapq.heapify(heap)
        while heap:
            rank, places = heap[0][0], []
            while heap and heap[0][0] == rank:
                places.append(heapq.heappop(heap)[1])
            for i in places:
                j = after[i]
                if j == size or ranks.get((ids[i], ids[j])) != rank:
                    continue
                ids[i], ids[j] = self._joined[rank], -1
                after[i] = k = after[j]
                if k < size:
                    before[k] = i
                for left, right in ((before[i], i), (i, k)):
                    if left >= 0 and right < size and (ids[left], ids[right]) in ranks:
                        heapq.heappush(heap, (ranks[ids[left], ids[right]], left))
        return tuple(i for i in ids if i >= 0)


@dataclasses.dataclass(frozen=True)
class BpeTokenizer:
    """CLIP's tokenizer; `BpeTokenizer.load` reads one from a file or folder.

    `symbols` are the ids' symbols in order (a word's last one ends in `</w>`), `merges` the pairs in the order in which
    they were learned, `start` and `end` the ids of the two tokens around each caption. It can be pickled and shared
    among threads; the table of pieces stays with the process.
    """

    symbols: tuple[str, ...] = dataclasses.field(repr=False)
    merges: tuple[tuple[str, str], ...] = dataclasses.field(repr=False)
    start: int
    end: int
    context_length: int = 77

    def __post_init__(self) -> None:
        if self.context_length < 2:
            raise UserError(f"context_length {self.context_length} is not at least 2, for the start and the end token")
        if self.end != len(self.symbols) - 1:
            # The text tower finds the end of a caption as the largest id.
            raise UserError(f"the end token has id {self.end}, not the largest, {len(self.symbols) - 1}")

    @classmethod
    def load(cls, path: str | Path, context_length: int = 77, *, merges: str | Path | None = None) -> BpeTokenizer:
        """The tokenizer on the vocabulary in `path`.

        That is OpenAI's bpe_simple_vocab_16e6.txt.gz (of which the first 48894 merges count), Hugging Face's vocab.json
        with merges.txt beside it (or at `merges`), its tokenizer.json, or a folder that holds one of these, also as
        `tokenizer/`. `context_length`: tokens a caption, start and end included; at least 2.

        Raises UserError for a file that is missing, damaged, empty or of another kind, and for two that do not fit.
        """
        path = existing(path)
        if path.is_dir():
            path = _in_folder(path)
        if path.name.lower() == _MERGES:
            merges, path = path, path.parent / _VOCAB
        if path.suffix.lower() == ".json":
            symbols, pairs = _from_json(path, merges)
        else:
            symbols, pairs = _from_gzip(path)
        return cls(symbols, pairs, symbols.index(START), symbols.index(END), context_length)

    def save(self, folder: str | Path) -> Path:
        """Writes vocab.json and merges.txt, as Hugging Face names its symbols, into `folder`; gives the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        ids = {_SPECIAL.get(symbol, symbol): number for number, symbol in enumerate(self.symbols)}
        (folder / _VOCAB).write_text(json.dumps(ids), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges), ""]
        (folder / _MERGES).write_text("\n".join(lines), encoding="utf-8")
        return folder

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are, start and end included: 49408 for OpenAI's vocabulary."""
        return len(self.symbols)

    @functools.cached_property
    def _pieces(self) -> _Pieces:
        return _Pieces(self.symbols, self.merges, self.start, self.end)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def encode(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """{"tokens": int32 [n, context_length], "length": int32 [n] with start and end counted}, padded with 0.

        A caption that is too long keeps its beginning, and its last id is the end token. "" becomes start, end.
        """
        check_captions(texts)
        pieces, most = self._pieces.__getitem__, self.context_length - 2
        flat: list[int] = []
        length = []
        for text in texts:
            ids = list(itertools.chain.from_iterable(map(pieces, _cleaned(text))))
            if len(ids) > most:
                del ids[most:]
            flat.append(self.start)
            flat += ids
            flat.append(self.end)
            length.append(len(ids) + 2)
        tokens = np.zeros((len(texts), self.context_length), np.int32)
        lengths = np.array(length, np.int32)
        tokens[np.arange(self.context_length) < lengths[:, None]] = flat
        return {"tokens": tokens, "length": lengths}

    def decode(self, tokens: Int[np.ndarray, " context"]) -> str:
        """The words of one row up to its end token, words apart by a space; bytes that are no UTF-8 become U+FFFD."""
        text = b""
        for i in tokens:
            if i == self.end:
                break
            if i != self.start:
                symbol = self.symbols[int(i)]
                text += bytes(_BYTE_OF[s] for s in symbol.removesuffix("</w>"))
                text += b" " if symbol.endswith("</w>") else b""
        return text.decode(errors="replace").strip()

    def explain(self, texts: Sequence[str]) -> list[str]:
        """A line for each caption that is empty or cut, or that holds the end token, at which a text tower stops."""
        check_captions(texts)
        lines, room = [], self.context_length - 2
        for text in dict.fromkeys(texts):
            ids = [i for piece in _cleaned(text) for i in self._pieces[piece]]
            if not ids:
                lines.append(f"prompt {shown(text)}: nothing is left of it but start and end: an empty caption")
            if (over := len(ids) - room) > 0:
                lines.append(
                    f"prompt {shown(text)}: of {len(ids)} tokens only the first {room} fit; {over} are left out"
                )
            if self.end in ids[:room]:
                lines.append(f"prompt {shown(text)}: {END!r} in it is the end token: what follows it is not read")
        return lines


def _in_folder(folder: Path) -> Path:
    for place in (folder, folder / "tokenizer"):
        for name in (_VOCAB, _GZ, _WHOLE):
            if (place / name).is_file():
                return place / name
    raise UserError(f"there is no vocabulary in {str(folder)!r}: none of {_VOCAB} with {_MERGES}, {_GZ}, {_WHOLE}")


def _pairs(rows: Any, path: Path) -> Pairs:
    """The merges of rows such as "th e</w>" or ["th", "e</w>"], the last of which may be blank."""
    if not isinstance(rows, list) or not all(isinstance(row, str | list) for row in rows):
        raise UserError(f"the merges in {str(path)!r} are no list of pairs")
    rows = [tuple(row.split() if isinstance(row, str) else map(str, row)) for row in rows]
    while rows and not rows[-1]:
        rows.pop()
    if not rows:
        raise UserError(f"{str(path)!r} holds no merges: an empty vocabulary")
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise UserError(f"merge {number} in {str(path)!r}, {shown(' '.join(row))}, is not of two symbols")
    return tuple(rows)


def _from_gzip(path: Path) -> tuple[tuple[str, ...], Pairs]:
    """(symbols, merges) of OpenAI's file: a header and a merge a line, the ids in that order."""
    try:
        lines = decode(gzip.decompress(read_bytes(path)), f"{str(path)!r}, unzipped,").split("\n")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{str(path)!r} is no gzip file of merges such as {_GZ}, or is damaged: {error}") from None
    pairs = _pairs(lines[1 : 1 + _MOST_MERGES], path)
    symbols = [*ALPHABET]
    known = set(symbols)
    for a, b in pairs:
        if a not in known or b not in known or a + b in known:
            what = "makes what is there already" if a + b in known else "joins what no line before it makes"
            raise UserError(f"the merge {a + ' ' + b!r} in {str(path)!r} {what}")
        known.add(a + b)
        symbols.append(a + b)
    return (*symbols, START, END), pairs


def _from_json(path: Path, merges: str | Path | None) -> tuple[tuple[str, ...], Pairs]:
    """(symbols, merges) of Hugging Face's files; the ids are those of the JSON."""
    held = read_json(existing(path))
    model = held.get("model") if isinstance(held, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else held
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else [None]
    if not isinstance(vocabulary, dict) or {type(i) for i in ids} - {int} or set(ids) != set(range(len(ids))):
        raise UserError(f"{str(path)!r} does not map symbols to the ids 0, 1, ...: it is no vocabulary of CLIP's")
    if not vocabulary:
        raise UserError(f"{str(path)!r} is an empty vocabulary")
    if isinstance(model, dict):
        place, rows = path, model.get("merges") or []
    else:
        place = existing(merges if merges is not None else path.parent / _MERGES)
        rows = read_text(place).replace("\r\n", "\n").split("\n")[1 : 1 + _MOST_MERGES]
    pairs = _pairs(rows, place)
    made = {*ALPHABET, *_SPECIAL.values(), *(a + b for a, b in pairs)}
    needed = made.union(*pairs)
    for symbol in sorted(needed - vocabulary.keys())[:1]:
        raise UserError(f"{str(path)!r} lacks {symbol!r}, so that it does not fit the merges in {str(place)!r}")
    for symbol in sorted(vocabulary.keys() - made)[:1]:
        raise UserError(f"{str(path)!r} has {symbol!r}, which no merge in {str(place)!r} makes: they do not fit")
    ours = {theirs: name for name, theirs in _SPECIAL.items()}
    return tuple(ours.get(symbol, symbol) for symbol in sorted(vocabulary, key=vocabulary.__getitem__)), pairs
