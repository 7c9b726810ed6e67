"""What the sources of pictures with captions have in common: splits by a hash, captions that are texts, settings by name."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from typing import Any

from diffusion_jax.data.text.text_files import shortened
from diffusion_jax.typing import UserError, one_of

__all__ = ["CAPTION_COLUMNS", "SPLITS", "setting", "split_of", "split_shares", "texts_of"]

CAPTION_COLUMNS = ("caption", "text", "title", "prompt", "captions")
SPLITS = ("train", "validation", "test")
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
