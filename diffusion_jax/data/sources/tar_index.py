"""Where the members of a tar file lie, read from it once, every member accounted for.

Python's reader ends in silence at a header that is damaged or cut short, and at the first end mark of two archives that
were put one behind the other: what follows would be lost. Here whatever stands where the reader stopped is looked at. A tar
ends with two blocks of 512 zeros; one is enough (a cut between the two loses nothing), none is refused, though some
writers leave both out, since nothing tells such a file from one that was cut at a member's end.
"""

from __future__ import annotations

import json
import os
import posixpath
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusion_jax.typing import UserError

__all__ = ["Member", "members"]

Member = tuple[str, int, int]
"""(name without "./", offset of its bytes, how many)."""
BLOCK = 512
VERSION = 3  # since the labels, KEY.cls, are among them
COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}


def members(shard: Path, wanted: Callable[[str], bool], folder: Path | None, advice: str) -> list[Member]:
    """The wanted members of a shard in their order, from its index in `folder` (beside it where None) or by reading it.

    The index belongs to the shard's size and time. Raises UserError as `scan`, and, with `advice`, where the
    index cannot be written.
    """
    try:
        stat = shard.stat()
    except OSError as error:
        raise UserError(f"shard {str(shard)!r} cannot be read: {error.strerror}") from error
    stamp = [VERSION, stat.st_size, stat.st_mtime_ns]
    file = (folder or shard.parent) / f"{shard.name}.index.json"
    try:
        kept = json.loads(file.read_text())
        if kept["stamp"] == stamp:
            return [(str(name), int(at), int(size)) for name, at, size in kept["members"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no index yet, or one of something else: it is made anew
    found = scan(shard, wanted)
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "w") as out:
            json.dump({"stamp": stamp, "members": found}, out)
        os.replace(temporary, file)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise UserError(f"the index {str(file)!r} cannot be written ({error.strerror}): say {advice}") from error
    return found


def scan(shard: Path, wanted: Callable[[str], bool]) -> list[Member]:
    """The members of a tar file whose names are wanted; links give the place of what they lead to.

    Raises UserError for a file that is no tar, is compressed, cut short or damaged, with the offset; for a name that
    stands twice, a link that leads to no member, and a member that is stored in pieces (sparse) or is no file.
    """
    said = f"shard {str(shard)!r}"
    places: dict[str, tuple[int, int]] = {}
    links: dict[str, tuple[str, str]] = {}
    kept: list[str] = []
    size = shard.stat().st_size
    last = ""
    try:
        with shard.open("rb") as file:
            _check_kind(file.read(8), size, said, shard)
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                last = member.name
                name = _plain(member.name)
                if member.isdir():
                    continue
                if member.islnk() or member.issym():
                    target = member.linkname if member.islnk() else _beside(member.name, member.linkname)
                    links[name] = (_plain(target), member.linkname)
                elif member.isreg() and not member.issparse():
                    if member.offset_data + member.size > size:
                        raise UserError(f"{said} is cut short at byte {size}: {member.name} is not whole")
                    if name in places and wanted(name):
                        raise UserError(
                            f"{said} has {member.name!r} twice, at bytes {places[name][0]} and {member.offset_data}: which is "
                            "meant cannot be seen; pack it anew"
                        )
                    places[name] = (member.offset_data, member.size)
                elif wanted(name):
                    what = "stored in pieces (sparse)" if member.issparse() else f"no file (tar's type {member.type!r})"
                    raise UserError(f"{said}: {member.name} at byte {member.offset} is {what}; pack it anew as a file")
                else:
                    continue
                if wanted(name):
                    kept.append(name)
            _check_end(shard, archive.offset, last, said)
    except UserError:
        raise
    except (tarfile.TarError, EOFError, ValueError, UnicodeError) as error:
        after = f" after {last!r}" if last else ""
        raise UserError(f"{said} is damaged or no tar file{after}: {error}") from error
    except OSError as error:
        raise UserError(f"{said} cannot be read: {error.strerror or error}") from error
    return [(name, *_followed(name, places, links, said)) for name in dict.fromkeys(kept)]


def _check_kind(begin: bytes, size: int, said: str, shard: Path) -> None:
    if size == 0:
        raise UserError(f"{said} is empty: 0 bytes")
    for magic, (kind, command) in COMPRESSED.items():
        if begin.startswith(magic):
            raise UserError(
                f"{said} is compressed ({kind}), so that its pictures cannot be read in any order: {command} {shard.name}"
            )


def _check_end(shard: Path, end: int, last: str, said: str) -> None:
    """UserError unless the archive ends at `end`, where the reader stopped, with a block of zeros and zeros alone behind it."""
    with shard.open("rb") as file:
        file.seek(end)
        block = file.read(BLOCK)
        after = f"after {last!r}" if last else "before any member"
        if len(block) < BLOCK and not block.strip(b"\0"):
            raise UserError(
                f"{said} is cut short at byte {end + len(block)}, {after}: tar's end mark is missing; fetch it again, or, if "
                f"it is known to be whole, add the mark: head -c 1024 /dev/zero >> {shard.name}"
            )
        if len(block) < BLOCK:
            raise UserError(f"{said} is cut short at byte {end + len(block)}, within the header {after}")
        if block.strip(b"\0"):
            raise UserError(f"{said} is damaged at byte {end}, {after}: no header stands there")
        at = end + BLOCK
        while part := file.read(1 << 20):
            if part.strip(b"\0"):
                at += len(part) - len(part.lstrip(b"\0"))
                raise UserError(
                    f"{said} goes on at byte {at} behind its end mark, {after}, as where two archives were put one behind "
                    "the other: give each a file of its own"
                )
            at += len(part)


def _plain(name: str) -> str:
    """A member's name as a key: "./a.jpg" and "/a.jpg" are a.jpg."""
    return posixpath.normpath(name).lstrip("/")


def _beside(name: str, target: str) -> str:
    return target if target.startswith("/") else posixpath.join(posixpath.dirname(name), target)


def _followed(name: str, places: dict[str, Any], links: dict[str, tuple[str, str]], said: str) -> tuple[int, int]:
    """The place of a member, links followed to the file that they lead to."""
    at, seen = name, {name}
    while at not in places:
        target = links.get(at)
        if target is None or target[0] in seen:
            why = "in a circle" if target else f"to {links[name][1]!r}, which is no member of it"
            raise UserError(f"{said}: the link {name!r} leads {why}")
        at = target[0]
        seen.add(at)
    return places[at]
