"""The data of a diffusion config as examples: arrays as they are, pictures as its groups `data` and `preprocess` say."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.data.examples import Examples, raw
from diffusion_jax.data.pictures.augmentation import random_shift
from diffusion_jax.data.pipeline import batches, rows_of
from diffusion_jax.data.reading import picture_batches
from diffusion_jax.systems.diffusion.conditions.condition import Pick
from diffusion_jax.systems.diffusion.latent_cache import LatentTable
from diffusion_jax.systems.system import process_slice
from diffusion_jax.typing import Source, UserError

__all__ = ["examples", "examples_of_run", "rows_read", "training_batches"]

CALLED = ("tfds",)  # their path is a name, and no place
TELLING = 0x74656C6C  # sets the generator of what is told of pictures apart from those of the rows (`data.reading`)


def examples(config: ConfigDict, split: str, image: Sequence[int] | None = None) -> Source:
    """The examples of a split, "train", "validation" or "test"; pictures in the shape `image`, or as a sample of them tells."""
    source = build.source(config.data, split)
    if not build.gives_pictures(config.data):
        return source
    reading = build.reading(config.data)
    prepare = build.pictures(config.get("preprocess"), source, shape=image, crop=reading["crop"])
    kept = build.cropping(prepare, {**reading, "crop": "center"}).keeps
    return Examples(source, prepare.pixels, hasattr(source, "columns") and kept(source.columns()["image"]))


def examples_of_run(run: Path, config: ConfigDict, split: str, image: Sequence[int] | None) -> Source:
    """The same of the run in the folder `run`. Where its data's path leads nowhere now, the UserError says what to do."""
    try:
        return examples(config, split, image)
    except UserError as error:
        path = config.data.get("path")
        if not isinstance(path, str) or not path or config.data.name in CALLED or _leads(path):
            raise
        raise UserError(
            f"{error} (the data that the run in {str(run)!r} was trained on, looked for from {Path.cwd()}); if they have "
            "moved, say --data PATH, or in Python load_run(..., data=PATH)"
        ) from error


def _leads(path: str) -> bool:
    """Whether something lies at a path; of a pattern of shards, whether its folder does."""
    fixed = re.split(r"[*?\[{]", path)[0]
    return Path(fixed).expanduser().exists() if fixed == path else Path(fixed).expanduser().parent.exists()


def training_batches(
    config: ConfigDict, train: Source, image: Sequence[int], pick: Pick, x0: np.ndarray | LatentTable | None = None
) -> Callable[[int], dict[str, Any]]:
    """A function from the step to this process's rows, {"image", "cond"}: what `pick` says of the examples that were read.

    Where `x0` of every example are given they take the images' place, and no picture is read; in the place of one that is NaN,
    of a picture that cannot be read, stands the next example, with what is told of it.
    """
    if x0 is not None:
        stands = _stands(x0)

        def read(batch: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, Any]:
            rows = stands[batch["index"]]
            cond = pick(rows, rng)
            found = x0.rows(rows, rng) if isinstance(x0, LatentTable) else x0[rows]
            return {"x0": found} if cond is None else {"x0": found, "cond": cond}

        return batches(_Numbers(len(x0)), config.batch_size, config.seed, read, **process_slice())
    if not build.gives_pictures(config.data):
        shift = build.augmentation(config.data)["shift"]

        def transform(batch: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, Any]:
            cond = pick(batch["index"], rng)
            made = {"image": random_shift(batch["image"], rng, shift)}
            return made if cond is None else {**made, "cond": cond}

        return batches(train, config.batch_size, config.seed, transform, **process_slice())
    rows = _reader(config, train, image)
    place, count = process_slice().values()
    local = config.batch_size // count
    mine = slice(place * local, (place + 1) * local)

    def batch(step: int) -> dict[str, Any]:
        found = rows(step)
        # What is drawn of an example is drawn for the global batch, so that it does not depend on how many share it.
        whole = found["index"]
        if count > 1:
            whole = rows_of(train, config.batch_size, config.seed, step)
            whole[mine] = found["index"]
        cond = pick(whole, np.random.default_rng([config.seed, step, TELLING]))
        told = {} if cond is None else {"cond": {name: leaf[mine] for name, leaf in cond.items()}}
        return {"image": found["image"], **told}

    return batch


def rows_read(config: ConfigDict, train: Source, image: Sequence[int], step: int) -> np.ndarray:
    """The examples [rows] that the batch of a step is made of: others in place of those that cannot be read."""
    if not build.gives_pictures(config.data):
        return rows_of(train, config.batch_size, config.seed, step)
    return _reader(config, train, image)(step)["index"]


def _reader(config: ConfigDict, train: Source, image: Sequence[int]) -> Callable[[int], dict[str, Any]]:
    """The pictures of this process's rows of a step's batch, and which examples they are."""
    reading = build.reading(config.data)
    prepare = build.pictures(config.get("preprocess"), raw(train), shape=image, crop=reading["crop"])
    return picture_batches(
        raw(train),
        config.batch_size,
        config.seed,
        build.cropping(prepare, reading, distort=False),
        workers=reading["workers"] or None,
        flip=reading["flip"],
        on_error=reading["on_error"],
        error_share=reading["error_share"],
        **process_slice(),
    )


def _stands(x0: np.ndarray | LatentTable) -> np.ndarray:
    """Which example stands in the place of each: itself, or the next one that is not NaN. UserError where all are."""
    lost = x0.missing if isinstance(x0, LatentTable) else np.isnan(x0.reshape(len(x0), -1)[:, 0])
    read = np.flatnonzero(~lost)
    if not len(read):
        raise UserError("no example can be read: x0 is NaN of each")
    return read[np.searchsorted(read, np.arange(len(x0))) % len(read)]


class _Numbers:
    """Examples of which a batch has nothing but their places."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {}

    def columns(self) -> dict[str, np.ndarray]:
        """None."""
        return {}
