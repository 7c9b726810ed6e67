"""Pictures read a batch at a time, a function of (seed, step), each process reading only its own rows.

Row r of batch n is example order[n B + r], where the order is grain's, a permutation an epoch. Everything random about a
row (its caption, its crop) comes from a generator of (seed, n, r, how many examples before it could not be read), and which
rows are mirrored from one of (seed, n), so that the global batch is the same however many processes share it, and after a
resume at any step. Decoding and resizing leave Python's lock: threads are as good as processes, and nothing
has to be copied between.
"""

from __future__ import annotations

import collections
import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from diffusion_jax.typing import Source, UserError, one_of

__all__ = [
    "check_share",
    "held_out_items",
    "mirrored",
    "picture_batches",
    "read_picture",
    "row_numbers",
    "rows",
    "where_of",
]

_log = logging.getLogger(__name__)
ImageFn = Callable[[Any, np.random.Generator], np.ndarray]
Read = TypeVar("Read")
KEPT = 1 << 30
"""Bytes of prepared pictures that are kept at most, all or none, where they are the same whenever they are read."""
MIRROR = 0x6D6972726F72  # sets the generator of what is mirrored apart from those of the rows


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


def check_share(unread: int, of: int, what: str, example: str, share: float = 0.5) -> None:
    """UserError when more than a `share` of `of` pictures cannot be read: what is left is no sample of what was meant."""
    if unread > share * of:
        most = "half" if share == 0.5 else f"{share:.3g}"
        raise UserError(f"more than {most} of {what} cannot be read ({unread} of {of}); one of them: {example}")


def _stopped(error: UserError, on_error: str | None, what: str = "") -> UserError:
    """What is said of a picture that cannot be read, where that stops; of data that are none nothing can be left out."""
    return UserError(f"{what}{error}" + ("" if on_error is None else "; --config.data.on_error=skip leaves such out"))


def shuffled(count: int, seed: int) -> Any:
    """An endless sequence of examples by their places: epochs, each a permutation of its own."""
    import grain

    return grain.MapDataset.range(count).seed(seed).shuffle().repeat()


def row_numbers(source: Source, batch_size: int, process_index: int, process_count: int) -> range:
    """Which rows of a global batch are this process's. UserError for what no batch can be made of."""
    if len(source) == 0:
        raise UserError("the source is empty: there is nothing to train on")
    if batch_size < 1 or batch_size % process_count:
        near = max(1, round(batch_size / process_count)) * process_count
        raise UserError(f"batch_size {batch_size} is not divided by the {process_count} processes; nearest: {near}")
    if not 0 <= process_index < process_count:
        raise UserError(f"process_index {process_index} is not in 0 .. {process_count - 1}")
    local = batch_size // process_count
    return range(process_index * local, (process_index + 1) * local)


def mirrored(images: np.ndarray, seed: int, step: int, batch_size: int, mine: range) -> np.ndarray:
    """These rows [b, h, w, c], half of them turned left to right in place: each of the global batch by its own chance."""
    chance = np.random.default_rng([seed, step, MIRROR]).random(batch_size) < 0.5
    turned = np.flatnonzero(chance[mine.start : mine.stop])
    images[turned] = images[turned, :, ::-1]
    return images


def rows(
    source: Source,
    batch_size: int,
    seed: int,
    read: Callable[[int, np.random.Generator], Read],
    *,
    on_error: str = "raise",
    error_share: float = 0.5,
    workers: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Callable[[int], list[tuple[int, Read]]]:
    """A function from the step to this process's rows: (which example it is, what `read(example, rng)` made of it).

    They are read in `workers` threads (default: one a core, 16 at most). `on_error="skip"` takes the next example in place of
    one of which `read` raises UserError, and logs each such example once; "raise" stops. Raises UserError for an empty source,
    a batch that the processes do not divide, what `read` raises, and, skipping, once more than `error_share` of the
    source cannot be read.
    """
    one_of("on_error", on_error, ("raise", "skip"))
    mine = row_numbers(source, batch_size, process_index, process_count)
    order = shuffled(len(source), seed)
    threads = workers or min(16, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)
    told: set[int] = set()
    too_many: list[UserError] = []
    lock = threading.Lock()

    def row(step: int, number: int, example: int, rng: np.random.Generator) -> tuple[int, Read]:
        for tried in range(len(source)):
            at = (example + tried) % len(source)
            try:
                return at, read(at, rng if tried == 0 else np.random.default_rng([seed, step, number, tried]))
            except UserError as error:
                if on_error == "raise":
                    raise _stopped(error, on_error) from error
                with lock:
                    if at not in told and not too_many:
                        told.add(at)
                        _log.warning("example %d is skipped (%d so far): %s", at, len(told), error)
                        try:
                            check_share(len(told), len(source), "the pictures to train on", str(error), error_share)
                        except UserError as stop:
                            too_many.append(stop)
                if too_many:  # the first time that it was so, whichever thread is heard first
                    raise too_many[0] from error
        raise UserError("no example of the source can be read")

    def batch(step: int) -> list[tuple[int, Read]]:
        # Made one after another before any is read: between two pictures each costs four times as much.
        examples = [int(order[step * batch_size + number]) for number in mine]
        rngs = [np.random.default_rng([seed, step, number, 0]) for number in mine]
        left = collections.deque(zip(mine, examples, rngs, strict=True))
        found: dict[int, tuple[int, Read]] = {}

        def some() -> None:
            """Rows, one after another, until none is left: a task a thread costs less than a task a row."""
            while left:
                try:
                    number, example, rng = left.popleft()
                except IndexError:  # another thread was faster
                    return
                try:
                    found[number] = row(step, number, example, rng)
                except BaseException:
                    left.clear()
                    raise

        for task in [pool.submit(some) for _ in range(min(threads, len(mine)))]:
            task.result()
        return [found[number] for number in mine]

    return batch


def picture_batches(
    source: Source,
    batch_size: int,
    seed: int,
    image_fn: ImageFn,
    *,
    flip: bool = False,
    on_error: str = "raise",
    error_share: float = 0.5,
    workers: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Callable[[int], dict[str, np.ndarray]]:
    """A function from the step to this process's rows: {"image": uint8 [b, h, w, c], "index": int64 [b], of what was read}.

    `image_fn(image, rng)` makes the array of a row, such as a `data.pictures.cropping.Crop`; with `flip` half of them are
    mirrored. Where the source has `columns()` whose "image" an `image_fn.keeps` says it leaves as they are, the rows are
    gathered from it at once: the same ones. Where it says that its rows are `fixed` in shape and owe nothing to chance, a
    picture is read once, if all fit in `KEPT`. For the rest see `rows`, and what it raises.
    """
    mine = row_numbers(source, batch_size, process_index, process_count)

    def finished(step: int, images: np.ndarray, index: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": mirrored(images, seed, step, batch_size, mine) if flip else images, "index": index}

    whole = source.columns()["image"] if hasattr(source, "columns") else None
    if whole is not None and whole.dtype == np.uint8 and getattr(image_fn, "keeps", lambda images: False)(whole):
        order = shuffled(len(source), seed)

        def gathered(step: int) -> dict[str, np.ndarray]:
            index = np.array([order[step * batch_size + number] for number in mine], np.int64)
            return finished(step, whole[index], index)

        return gathered

    shape = getattr(image_fn, "fixed", None)
    keep = shape is not None and len(source) * math.prod(shape) <= KEPT
    # Memory is taken by what is written alone: an epoch that is never finished takes less.
    kept = np.empty((len(source), *shape), np.uint8) if keep and shape is not None else None
    there = np.zeros(len(source), bool)

    def read(example: int, rng: np.random.Generator) -> np.ndarray:
        if kept is not None and there[example]:
            return kept[example]
        made = read_picture(source[example], lambda image: image_fn(image, rng))
        if kept is not None:
            kept[example] = made
            there[example] = True
        return made

    found = rows(
        source,
        batch_size,
        seed,
        read,
        on_error=on_error,
        error_share=error_share,
        workers=workers,
        process_index=process_index,
        process_count=process_count,
    )

    def batch(step: int) -> dict[str, np.ndarray]:
        made = found(step)
        return finished(step, np.stack([image for _, image in made]), np.array([at for at, _ in made], np.int64))

    return batch


def held_out_items(
    data: Source, most: int, on_error: str | None = None, error_share: float = 0.5
) -> list[dict[str, Any]]:
    """The first `most` examples that can be read; those that cannot are an error or, with "skip", counted and named in the log.

    `on_error` is None of data that have no such key. UserError where more than `error_share` of those looked at cannot be
    read, and where none can.
    """
    found: list[dict[str, Any]] = []
    unread: list[str] = []
    for index in range(len(data)):
        if len(found) == most:
            break
        try:
            found.append(data[index])
        except UserError as error:
            if on_error != "skip":
                raise _stopped(error, on_error, "held-out picture: ") from error
            unread.append(str(error))
            _log.warning("held-out picture %d is skipped (%d so far): %s", index, len(unread), error)
    if unread:
        check_share(len(unread), len(unread) + len(found), "the held-out pictures", unread[0], error_share)
        if not found:
            raise UserError(f"none of the held-out pictures can be read; one of them: {unread[0]}")
        _log.info("%d held-out pictures are measured, %d that cannot be read are not", len(found), len(unread))
    return found


def first_readable(data: Source, on_error: str | None = None, error_share: float = 0.5) -> Any:
    """The first example that can be read. UserError for the first that cannot or, with "skip", for too many such.

    `on_error` is None of data that have no such key.
    """
    unread = 0
    for index in range(len(data)):
        try:
            return data[index]
        except UserError as error:
            unread += 1
            if on_error != "skip":
                raise _stopped(error, on_error) from error
            check_share(unread, len(data), "the pictures to train on", str(error), error_share)
    raise UserError("the source is empty: there is nothing to train on")
