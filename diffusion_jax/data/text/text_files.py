"""Every text a user gives is read here: prompts, templates, captions, tables, JSON, vocabularies.

One reader, so that a byte-order mark, Windows' line ends, another encoding or an unreadable file mean the same everywhere: a
mark is no character of the first line, and what is no UTF-8 is one line that names the file and the byte. Lines end in \\n,
\\r\\n or \\r and nowhere else: `str.splitlines` would also cut a prompt at a form feed or at U+2028.
"""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

from diffusion_jax.typing import UserError

__all__ = ["decode", "parse_json", "read_bytes", "read_json", "read_lines", "read_text", "shortened"]

_OTHER = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def shortened(value: Any, most: int = 80) -> str:
    """The value as Python writes it, on one line, cut in the middle to about `most` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


def read_bytes(path: str | Path) -> bytes:
    """What is in the file. Raises UserError, with the reason, for one that cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{shortened(str(path), 200)} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL or a lone surrogate in the name
        raise UserError(f"{shortened(str(path), 200)} is no name of a file: {error}") from error


def read_text(path: str | Path) -> str:
    """The text of a file, its line ends as they are, without a byte-order mark.

    Raises UserError, one line with the file and the byte, for what is not UTF-8 or holds a NUL, as a binary file does.
    """
    data = read_bytes(path)
    for mark, name in _OTHER:
        if data.startswith(mark):
            raise UserError(f"{str(path)!r} is {name}, not UTF-8 text (byte 0): save it as UTF-8")
    return decode(data, repr(str(path)))


def decode(data: bytes, what: str) -> str:
    """`data` as UTF-8 without a byte-order mark; `what` names it in the UserError for data that are no text."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the mark.
        at = error.start + (3 if data.startswith(codecs.BOM_UTF8) else 0)
        raise UserError(f"{what} is not UTF-8 text (byte {at}): save it as UTF-8") from error
    if "\0" in text:
        raise UserError(f"{what} is not a text: byte {data.index(0)} is 0x00")
    return text


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text that hold something, without the space around them."""
    return [line.strip() for line in re.split(r"\r\n|\r|\n", read_text(path)) if line.strip()]


def read_json(path: str | Path) -> Any:
    """The value in a JSON file. Raises UserError as `read_text` and `parse_json`."""
    return parse_json(read_text(path), repr(str(path)))


def parse_json(text: str, what: str) -> Any:
    """The value of a JSON text. Raises UserError for what is no JSON, and for a key that an object has twice.

    JSON's reader would keep the last of the two, silently.
    """
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, what))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{what} is not JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{what} is not JSON that can be read: it is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"{what} has the key {shortened(twice)} twice")
    return found
