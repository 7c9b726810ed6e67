"""What is said to the terminal: a line, many lines in short, and what no line can say."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence

from diffusion_jax.typing import UserError

__all__ = ["check_text", "counted", "in_short", "logged_in_lines", "say"]

TOLD = 20


def say(text: str) -> None:
    """A line to the terminal."""
    print(text, file=sys.stderr, flush=True)


class _Lines(logging.Handler):
    """Records as lines to the terminal, above a bar of progress where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(record.getMessage(), file=sys.stderr)


@contextlib.contextmanager
def logged_in_lines() -> Iterator[None]:
    """Shows what the package logs as it shows all else, without a level and the name of a module before it."""
    log, lines = logging.getLogger(__name__.partition(".")[0]), _Lines(logging.WARNING)
    before = log.propagate
    log.addHandler(lines)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(lines)
        log.propagate = before


def counted(number: int, what: str) -> str:
    """A number of things: "1 image", "6 images"."""
    return f"{number} {what}{'s' * (number != 1)}"


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
