"""What is written is checked before, so that no measurement is lost to a name that cannot be written, and whole after."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from diffusion_jax.typing import UserError

__all__ = ["check_file", "check_folder", "write_atomic"]

NAME, PATH = 255, 4096 - 1  # bytes, where the system does not say


def check_file(out: str | Path, name: str = "--out") -> Path:
    """`out` as the path of a file that can be written. UserError, in one line, where it cannot; nothing is made."""
    path = _reachable(out, name)
    if path.is_dir():
        raise UserError(f"{name} {str(out)!r} is a folder; give the name of a file in it")
    return path


def check_folder(out: str | Path, files: Sequence[str] = (), name: str = "--out") -> Path:
    """`out` as a folder that is there or can be made, in which `files` can be written. UserError where it cannot."""
    path = _reachable(out, name)
    if path.exists() and not path.is_dir():
        raise UserError(f"{name} {str(out)!r} is a file; give a folder")
    if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{name} {str(out)!r} is not writable")
    for file in files:
        if (path / file).is_dir():
            raise UserError(f"{str(path / file)!r} is a folder, where a file would be written; choose another {name}")
    return path


def write_atomic(path: Path, content: bytes) -> Path:
    """Write beside `path`, then rename: a reader, or a crash, sees the old file or the new one, never half of one.

    Folders are made as needed. `UserError` when the disk refuses (full, read-only); the old file is then untouched.
    """
    part = path.with_name(f".{path.name[:40]}.{os.getpid()}.part")  # short: a name has at most 255 bytes
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _reachable(out: str | Path, name: str) -> Path:
    """The path, when the folders above it can be made and its names are of a length that the system takes."""
    path, said = Path(out), repr(str(out)) if len(str(out)) <= 100 else f"{str(out)[:60]!r}..."
    if not str(out):
        raise UserError(f"{name} is empty; give a path")
    try:
        if not path.absolute().parents:
            raise UserError(f"{name} {said} is the root of the file system; give a place in it")
        folder = next(parent for parent in path.absolute().parents if _there(parent))
        if not folder.is_dir():
            raise UserError(f"{name} {said} cannot be made: {folder} is not a folder")
        longest, whole = _limits(folder)
        for part in path.absolute().relative_to(folder).parts:
            if len(os.fsencode(part)) > longest:
                raise UserError(
                    f"{name} {said} cannot be made: a name of {len(os.fsencode(part))} bytes, and {longest} is the most"
                )
        if len(os.fsencode(path.absolute())) > whole:
            raise UserError(f"{name} {said} cannot be made: the path has more than {whole} bytes")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{name} {said} cannot be made: {folder} is not writable")
        _there(path)
    except OSError as error:
        raise UserError(f"{name} {said} cannot be made: {error.strerror or error}") from None
    return path


def _there(path: Path) -> bool:
    """Whether there is something, also where the name is too long for the question."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return False
    except OSError as error:
        if len(os.fsencode(path.name)) > NAME or len(os.fsencode(path)) > PATH:
            return False
        raise error
    return True


def _limits(folder: Path) -> tuple[int, int]:
    try:
        return os.pathconf(folder, "PC_NAME_MAX"), os.pathconf(folder, "PC_PATH_MAX") - 1
    except (OSError, ValueError, AttributeError):
        return NAME, PATH
