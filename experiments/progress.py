"""What the scripts say while they work, on the error stream: results alone go to the output."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["Clock", "said_and_timed", "say"]


def say(text: str) -> None:
    """A line to the terminal."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def said_and_timed(part: str, say: Callable[[str], None] = say) -> Iterator[None]:
    """Says, once it is done, how long a part of a stage took."""
    began = time.perf_counter()
    yield
    say(f"  {part}: {time.perf_counter() - began:.1f} s")


class Clock:
    """Seconds by stage; a stage that took no time because it was done before keeps its first measure."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.seconds: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}

    def __call__(self, stage: str) -> Clock:
        """The stage that the next `with` block is."""
        self.stage = stage
        return self

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            took = round(time.perf_counter() - self.began, 1)
            self.seconds[self.stage] = max(took, self.seconds.get(self.stage, 0.0))
            self.file.write_text(json.dumps(self.seconds) + "\n")
