"""What the scripts' arguments may be, said before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

from diffusion_jax.typing import UserError

__all__ = ["made_folder", "one_seed"]

LARGEST = 2**32 - 1


def one_seed(seed: int) -> int:
    """`seed`, as `jax.random.key` takes it. Raises UserError, with the nearest, for another number."""
    if not 0 <= seed <= LARGEST:
        raise UserError(f"seed {seed} is not a whole number from 0 to {LARGEST}; nearest: {min(max(seed, 0), LARGEST)}")
    return seed


def made_folder(option: str, path: Path) -> Path:
    """`path` as a folder that is there and can be written into. Raises UserError where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise UserError(f"{option} {str(path)!r} cannot be made a folder: {why}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{option} {str(path)!r} cannot be written into")
    return path
