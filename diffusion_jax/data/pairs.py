"""Batches of pictures and captions for CLIP, read as `data.reading` says: a random caption of each picture."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from diffusion_jax.data.reading import ImageFn, mirrored, read_picture, row_numbers, rows, where_of
from diffusion_jax.typing import Source, Tokenizer, UserError

__all__ = ["caption_identity", "pair_batches"]


def caption_identity(captions: Sequence[str]) -> np.ndarray:
    """int32 [n], equal for equal captions whatever process made them: 31 bits of a hash.

    Two of B different captions are taken for equal with probability about B^2 / 2^32: 0.2 in a batch of 32768, where one
    more positive among 32768 columns does no harm.
    """
    digests = [
        hashlib.blake2b(caption.encode("utf-8", "surrogatepass"), digest_size=4).digest() for caption in captions
    ]
    return np.array([int.from_bytes(digest, "big") >> 1 for digest in digests], np.int32)


def pair_batches(
    source: Source,
    batch_size: int,
    seed: int,
    image_fn: ImageFn,
    tokenizer: Tokenizer,
    *,
    identity: bool = False,
    flip: bool = False,
    on_error: str = "raise",
    error_share: float = 0.5,
    workers: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Callable[[int], dict[str, np.ndarray]]:
    """A function from the step to this process's rows: {"image", "tokens"} and, if asked, "identity".

    `source[i]` is {"image": anything, "captions": [str, ...]}; `image_fn(image, rng)` makes the array of a row; with `flip`
    half of them are mirrored. For the rest see `data.reading.rows`, and what it raises.
    """

    def read(example: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        item = source[example]
        captions = item.get("captions", ())
        if not len(captions):
            raise UserError(f"{where_of(item)} has no caption")
        caption = captions[int(rng.integers(len(captions)))]
        return read_picture(item, lambda image: image_fn(image, rng)), caption

    mine = row_numbers(source, batch_size, process_index, process_count)
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
        made = [row for _, row in found(step)]
        images, captions = np.stack([image for image, _ in made]), [caption for _, caption in made]
        images = mirrored(images, seed, step, batch_size, mine) if flip else images
        batch = {"image": images, "tokens": tokenizer.encode(captions)["tokens"]}
        return batch | ({"identity": caption_identity(captions)} if identity else {})

    return batch
