"""Stopping a run politely: the first Ctrl-C (or SIGTERM) asks, the second insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

__all__ = ["StopRequest", "stop_on_signals"]


class StopRequest:
    """Whether a stop was asked for, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def name(self) -> str:
        """The signal's name, such as "SIGINT"."""
        return "" if self.signal is None else signal.Signals(self.signal).name


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Notes the first SIGINT or SIGTERM in the StopRequest; the second raises KeyboardInterrupt at once.

    The former handlers return at the end. Outside the main thread Python allows no handlers, and with several processes
    one that stops alone would leave the others waiting in a collective: there nothing is installed.
    """
    request = StopRequest()

    def on_signal(number: int, frame: Any) -> None:
        if request:
            raise KeyboardInterrupt("stopped at once, without saving")
        request.signal = number

    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield request
        return
    former = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
