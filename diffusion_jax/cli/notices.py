"""What is said to the terminal: a line, many lines in short, and what no line can say."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from diffusion_jax.typing import UserError

__all__ = ["check_text", "in_short", "say"]

TOLD = 20


def say(text: str) -> None:
    """A line to the terminal."""
    print(text, file=sys.stderr, flush=True)


def in_short(lines: Sequence[str]) -> list[str]:
    """The first of some lines, and one that counts the others."""
    more = len(lines) - TOLD
    return list(lines) if more <= 0 else [*lines[:TOLD], f"and {more} more notices like these"]


def check_text(what: str, text: str | None) -> None:
    """UserError for bytes of the command line that are no UTF-8, which Python hands on as lone surrogates."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what} is not valid text at character {error.start + 1}: give it in UTF-8") from None
