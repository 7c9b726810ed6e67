"""What reads and writes that failed print besides is left out, so that their error stands alone.

When one array of a checkpoint cannot be read or written, Orbax closes its event loop, and every other array under way
reports to that loop from a thread of C++: "Event loop is closed" each time, hundreds of lines for a model of one layer.
These reach `sys.unraisablehook` at any later moment, as tasks that nobody asks again reach the log of `asyncio`: so the
hook and the filter of `quieten` stay. All else passes through them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["is_news", "no_space", "quieten", "withheld_logs"]

CLOSED = "Event loop is closed"
NEVER_ASKED = "exception was never retrieved"
LATE = "cannot schedule new futures after"  # of a writer that goes on when the others have failed and Python ends
STORES = ("OCDBT", "zarr", "tensorstore", "kvstore")
"""What the messages of TensorStore's errors name."""


def quieten() -> None:
    """From now on leaves out what abandoned reads and writes report: to be called before a checkpoint is read or written.

    Their error is raised where it is waited for, but they report before that.
    """
    if not isinstance(sys.unraisablehook, _Hook):
        sys.unraisablehook = _Hook(sys.unraisablehook)
    logging.getLogger("asyncio").addFilter(_asked)  # once: a filter that is there already is not added again


@contextlib.contextmanager
def withheld_logs() -> Iterator[None]:
    """Keeps back what Orbax logs; it is logged at the end, but not where an exception says that all of it failed."""
    held: list[logging.LogRecord] = []

    def hold(record: logging.LogRecord) -> bool:
        held.append(record)
        return False

    logger = logging.getLogger("absl")
    logger.addFilter(hold)
    try:
        yield
    except Exception:
        held.clear()
        raise
    finally:
        logger.removeFilter(hold)
        for record in held:
            logger.handle(record)


class _Hook:
    """`before`, but for what an abandoned read or write says."""

    def __init__(self, before: Any) -> None:
        self.before = before

    def __call__(self, unraisable: Any) -> None:
        if not _is_abandoned(unraisable):
            self.before(unraisable)


def _is_abandoned(unraisable: Any) -> bool:
    error, trace = unraisable.exc_value, unraisable.exc_traceback
    foreign = isinstance(threading.current_thread(), threading._DummyThread)
    if not foreign or type(error) is not RuntimeError or str(error) != CLOSED:
        return False
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_name == "_check_closed"


def _asked(record: logging.LogRecord) -> bool:
    said = f"{record.getMessage()} {record.exc_info[1] if record.exc_info else ''}"
    return not (NEVER_ASKED in said and any(name in said for name in STORES))


def no_space(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that the disk (or the quota) is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        text = str(seen)
        if any(f"os_error_code='{code}'" in text or f"[Errno {code}]" in text for code in (errno.ENOSPC, errno.EDQUOT)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def is_news(record: logging.LogRecord) -> bool:
    """Whether a line of Orbax's log says more than that the disk is full, which is raised."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not (no_space(error) or str(error).startswith(LATE))
