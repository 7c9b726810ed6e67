"""What lies in a folder of a user's: its pictures, and names as people and other systems write them."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from diffusion_jax.data.sources.idx import is_idx
from diffusion_jax.data.text.text_files import shortened
from diffusion_jax.typing import UserError, nearest_path

__all__ = [
    "IMAGE_ENDINGS",
    "UNREAD_ENDINGS",
    "existing_folder",
    "file_in",
    "hint",
    "is_picture",
    "names_in",
    "pictures_in",
    "status",
]

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
UNREAD_ENDINGS = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".psd", ".svg")
"""Pictures too, which Pillow does not read without a library more."""
_READERS = {".npz": "arrays", ".npy": "arrays", ".parquet": "parquet", ".tar": "tar"}
"""Which source reads a file that is no folder."""


def hint(name: str, names: Iterable[str]) -> str:
    """The nearest of `names`, of any case, as the end of a message ("; did you mean 'x'?"), or nothing."""
    near = nearest_path(name, names)
    return f"; did you mean {near!r}?" if near else ""


def status(path: Path) -> os.stat_result | None:
    """What the system says of a path, links followed; None where nothing can be there.

    A caption in the place of a name is too long for the system (OSError 36) or holds what no name can: nothing is there.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except PermissionError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except OSError:
        return None


def existing_folder(path: str | Path) -> Path:
    """The folder, "~" as the home folder; UserError, with the nearest one beside it, where there is none."""
    folder = Path(path)
    found = status(folder)
    if found is None and str(path).startswith("~"):
        # No shell expands the tilde of --config.data.path=~/pictures.
        folder = Path(os.path.expanduser(path))
        found = status(folder)
    if found is None:
        near = hint(folder.name, names_in(folder.parent, folders=True))
        raise UserError(f"there is no folder {shortened(str(path), 200)}{near}")
    if not stat.S_ISDIR(found.st_mode):
        reads = _READERS.get(folder.suffix.lower()) or ("arrays" if is_idx(folder) else None)
        which = f", which data.name={reads} reads" if reads else ""
        raise UserError(f"{str(path)!r} is a file{which}; give the folder of the pictures")
    return folder


def names_in(folder: Path, folders: bool = False) -> list[str]:
    """The names in a folder, none where it cannot be read: what `hint` chooses from."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not folders or entry.is_dir())
    except (OSError, ValueError):
        return []


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture, in capitals too; hidden ones, such as macOS' "._a.jpg", are none."""
    return not os.path.basename(name).startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_ENDINGS


def files_in(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in order, links followed; hidden files and folders are passed over.

    A folder that several links lead to is read once. Raises UserError for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename!r} cannot be read: {error.strerror}") from error

    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        own = os.stat(place)
        if (own.st_dev, own.st_ino) in seen:
            folders.clear()
            continue
        seen.add((own.st_dev, own.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(files) if not name.startswith("."))


def pictures_in(folder: Path) -> list[Path]:
    """The pictures below a folder, sorted. Raises UserError for pictures of a kind that cannot be read."""
    files = list(files_in(folder))
    unread = [file for file in files if file.suffix.lower() in UNREAD_ENDINGS]
    if unread:
        raise UserError(
            f"{len(unread)} pictures in {str(folder)!r} are of a kind that is not read, the first {str(unread[0])!r}: "
            "convert them to .jpg or .png, or move them away"
        )
    return sorted(file for file in files if is_picture(file.name))


def file_in(folder: Path, name: str) -> tuple[str, os.stat_result] | None:
    """(the name as the folder has it, its status) of a file that a table names; None where there is none.

    "./a.jpg", "sub/../a.jpg" and the whole path are all "a.jpg"; where there is no such file, Windows' "sub\\\\a.jpg" and
    the other normal form of Unicode (macOS writes an accent as a character of its own) are tried.
    """
    for written in dict.fromkeys((name, name.strip(), name.replace("\\", "/"))):
        for form in dict.fromkeys((written, *(unicodedata.normalize(form, written) for form in ("NFC", "NFD")))):
            found = status(folder / form) if form else None
            if found is not None and stat.S_ISREG(found.st_mode):
                return _relative(folder, form), found
    return None


def _relative(folder: Path, name: str) -> str:
    """The name without detours and, where it is the whole path, without the folder's."""
    short = os.path.normpath(name)
    if short == name and not os.path.isabs(name):
        return name
    if os.path.isabs(short):
        for whole in (os.path.abspath(folder), os.path.realpath(folder)):
            if short.startswith(whole + os.sep):
                return short[len(whole) + 1 :]
        return short
    # Behind a link to a folder ".." is another place than the text says.
    return short if os.path.exists(folder / short) and os.path.samefile(folder / short, folder / name) else name
