"""What the scripts say while they work, on the error stream: results alone go to the output."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

__all__ = ["said_and_timed", "say"]


def say(text: str) -> None:
    """A line to the terminal."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def said_and_timed(part: str, say: Callable[[str], None] = say) -> Iterator[None]:
    """Says, once it is done, how long a part of a stage took."""
    began = time.perf_counter()
    yield
    say(f"  {part}: {time.perf_counter() - began:.1f} s")
