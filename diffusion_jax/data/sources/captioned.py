"""What the sources of pictures have in common: splits by a hash or their own, captions that are texts, settings by name."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from diffusion_jax.data.text.text_files import shortened
from diffusion_jax.typing import UserError, one_of

__all__ = ["CAPTION_COLUMNS", "SPLITS", "own_split", "setting", "split_named", "split_of", "split_shares", "texts_of"]

CAPTION_COLUMNS = ("caption", "text", "title", "prompt", "captions")
SPLITS = ("train", "validation", "test")
_CALLED = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test", "testing": "test", "t10k": "test",
}  # fmt: skip
_OPTIONS = {"captions", "image_column", "caption_column"}  # of `evaluate` and `vocabulary` too


def split_shares(split: str | None, validation: float, test: float) -> dict[str, float]:
    """The share of each split. Raises UserError for an unknown split and for shares that are none."""
    if split is not None:
        one_of("split", split, SPLITS)
    numbers = all(isinstance(share, int | float) and not isinstance(share, bool) for share in (validation, test))
    if not numbers or not (validation >= 0 and test >= 0 and validation + test <= 1):  # NaN too
        raise UserError(f"shares validation {validation} and test {test} are not at least 0 with a sum below 1")
    return {"train": 1 - validation - test, "validation": validation, "test": test}


def split_of(name: str, shares: Mapping[str, float]) -> str:
    """The split of a name by its hash, stable as other files come and go; the shares sum to 1.

    Both normal forms of Unicode are one name: a folder copied from macOS keeps its splits.
    """
    # Names on disk may be no UTF-8, and JSON may hold half a surrogate pair: both are hashed as they are.
    whole = unicodedata.normalize("NFC", name).encode("utf-8", "surrogatepass")
    point = int.from_bytes(hashlib.sha256(whole).digest()[:8], "big") / 2**64
    for split, share in shares.items():
        point -= share
        if point < 0:
            return split
    return next(iter(shares))


def split_named(name: str) -> str | None:
    """The split that data call so: "val" is "validation". None where it is no name of one."""
    return _CALLED.get(name.casefold())


def own_split(
    split: str | None, own: Collection[str], validation: float, test: float, where: str
) -> tuple[tuple[str, ...], Mapping[str, float] | None]:
    """(which of the data's own splits to read, the shares by which they are parted further, None for all of them).

    `own` are names of SPLITS. What the data do not part themselves is a share of "train", by `split_of`; a share of what they
    do part counts for nothing. Without splits of their own (`own` empty) the data are one part, read as ("",).
    Raises UserError, beginning with `where`, for a split that is neither there nor has a share.
    """
    shares = split_shares(split, validation, test)
    if not own:
        return ("",), None if split is None else shares
    if split is None:
        return tuple(name for name in SPLITS if name in own), None
    left = {name: share for name, share in shares.items() if name != "train" and name not in own}
    parts = {"train": 1 - sum(left.values()), **left}
    if split in own:
        return (split,), parts if split == "train" and sum(left.values()) > 0 else None
    if "train" in own and left[split] > 0:
        return ("train",), parts
    there = ", ".join(name for name in SPLITS if name in own)
    advice = f"; data.{split} is 0: say which share of train it is" if "train" in own and split != "train" else ""
    raise UserError(f"{where} has no split {split!r} (there are {there}){advice}")


def texts_of(found: Any, where: str) -> list[str]:
    """The captions of one picture, a text or a list of texts, without the space around them; blank ones are left out.

    Raises UserError, which begins with `where`, for what is no text, and where no caption is left.
    """
    several = list(found) if isinstance(found, list | tuple) else [found]
    for text in several:
        if not isinstance(text, str):
            raise UserError(f"{where}: the caption {shortened(text)} is not text")
    texts = [text.strip() for text in several if text.strip()]
    if not texts:
        raise UserError(f"{where} has an empty caption")
    return texts


def setting(name: str, value: str) -> str:
    """How a message names a setting of a source, for whoever set it: in Python, in training, on the command line."""
    places = [f"train: --config.data.{name}={value}"]
    if name in _OPTIONS:
        places.append(f"evaluate, vocabulary: --{name.replace('_', '-')}={value}")
    return f"{name}={value} ({'; '.join(places)})"
