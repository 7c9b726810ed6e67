"""What does not fit the memory, in one line that says what to lower."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from diffusion_jax.typing import UserError

__all__ = ["enough_memory"]


SIGNS = ("RESOURCE_EXHAUSTED", "Out of memory", "allocate of <")
"""What XLA and its libraries say of it on accelerators and on a CPU."""


@contextlib.contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Turns XLA's and Python's running out of memory into a UserError that ends in `advice`."""
    try:
        yield
    except MemoryError as error:
        raise UserError(_line(str(error), advice)) from error
    except RuntimeError as error:  # jax.errors.JaxRuntimeError is one
        if not any(sign in str(error) for sign in SIGNS):
            raise
        raise UserError(_line(str(error), advice)) from error


def _line(said: str, advice: str) -> str:
    first = (said.strip().splitlines() or [""])[0].removeprefix("RESOURCE_EXHAUSTED: ").rstrip(".")[:120]
    return f"not enough memory{f' ({first})' if first else ''}: {advice}"
