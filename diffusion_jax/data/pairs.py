"""Batches of pictures and captions for CLIP: a function of (seed, step), each process reading only its own rows.

Row r of batch n is example order[n B + r], where the order is grain's, a permutation an epoch. Everything random about a
row (its caption, its crop) comes from a generator of (seed, n, r), so that the global batch is the same however many processes
share it, and after a resume at any step.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from diffusion_jax.typing import Source, Tokenizer, UserError, one_of

__all__ = ["caption_identity", "check_share", "pair_batches", "read_picture", "where_of"]

_log = logging.getLogger(__name__)
ImageFn = Callable[[Any, np.random.Generator], np.ndarray]


def caption_identity(captions: Sequence[str]) -> np.ndarray:
    """int32 [n], equal for equal captions whatever process made them: 31 bits of a hash.

    Two of B different captions are taken for equal with probability about B^2 / 2^32: 0.2 in a batch of 32768, where one
    more positive among 32768 columns does no harm.
    """
    digests = [
        hashlib.blake2b(caption.encode("utf-8", "surrogatepass"), digest_size=4).digest() for caption in captions
    ]
    return np.array([int.from_bytes(digest, "big") >> 1 for digest in digests], np.int32)


def where_of(item: Mapping[str, Any]) -> str:
    """How a message names an item of a source."""
    return str(item.get("where") or item.get("name") or "an example")


def read_picture(item: Mapping[str, Any], image_fn: Callable[[Any], np.ndarray]) -> np.ndarray:
    """`image_fn` of an item's picture; its UserError names the item where the picture, of bytes, has no name."""
    try:
        return image_fn(item["image"])
    except UserError as error:
        where = where_of(item)
        if where in str(error):
            raise
        raise UserError(f"{where}: {error}") from error


def check_share(unread: int, of: int, what: str, example: str) -> None:
    """UserError when more than half of `of` pictures cannot be read: what is left is no sample of what was meant."""
    if unread * 2 > of:
        raise UserError(f"more than half of {what} cannot be read ({unread} of {of}); one of them: {example}")


def pair_batches(
    source: Source,
    batch_size: int,
    seed: int,
    image_fn: ImageFn,
    tokenizer: Tokenizer,
    *,
    identity: bool = False,
    on_error: str = "raise",
    workers: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Callable[[int], dict[str, np.ndarray]]:
    """A function from the step to this process's rows: {"image", "tokens"} and, if asked, "identity".

    `source[i]` is {"image": anything, "captions": [str, ...]}; `image_fn(image, rng)` makes the array of a row, in one of
    `workers` threads (default: one a core, 16 at most); decoding and resizing leave Python's lock. `on_error="skip"` takes
    the next example in place of one that cannot be read, and logs each such example once; "raise" stops. Raises UserError
    for an empty source, a batch that the processes do not divide, what `image_fn` raises (with the item's "where", or its
    "name"), and, skipping, once more than half of the source cannot be read.
    """
    import grain

    one_of("on_error", on_error, ("raise", "skip"))
    if len(source) == 0:
        raise UserError("the source is empty: there is nothing to train on")
    if batch_size < 1 or batch_size % process_count:
        near = max(1, round(batch_size / process_count)) * process_count
        raise UserError(f"batch_size {batch_size} is not divided by the {process_count} processes; nearest: {near}")
    if not 0 <= process_index < process_count:
        raise UserError(f"process_index {process_index} is not in 0 .. {process_count - 1}")
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    local = batch_size // process_count
    pool = ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1))
    told: set[int] = set()
    lock = threading.Lock()

    def read(example: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        item = source[example]
        captions = item["captions"]
        if not len(captions):
            raise UserError(f"{where_of(item)} has no caption")
        caption = captions[int(rng.integers(len(captions)))]
        return read_picture(item, lambda image: image_fn(image, rng)), caption

    def row(step: int, number: int) -> tuple[np.ndarray, str]:
        example = int(order[step * batch_size + number])
        for tried in range(len(source)):
            at = (example + tried) % len(source)
            try:
                return read(at, np.random.default_rng([seed, step, number, tried]))
            except UserError as error:
                if on_error == "raise":
                    raise
                with lock:
                    if at not in told:
                        told.add(at)
                        _log.warning("example %d is skipped (%d so far): %s", at, len(told), error)
                    check_share(len(told), len(source), "the pictures to train on", str(error))
        raise UserError("no example of the source can be read")

    def batch(step: int) -> dict[str, np.ndarray]:
        numbers = range(process_index * local, (process_index + 1) * local)
        rows = list(pool.map(lambda number: row(step, number), numbers))
        captions = [caption for _, caption in rows]
        made = {"image": np.stack([image for image, _ in rows]), "tokens": tokenizer.encode(captions)["tokens"]}
        return made | ({"identity": caption_identity(captions)} if identity else {})

    return batch
