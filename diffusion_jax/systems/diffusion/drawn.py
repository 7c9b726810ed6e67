"""Samples of a run beside the pictures of its data: which split, what is asked for, and what is compared with what.

Samples are asked for what the pictures of a split are, their labels or their first captions, in a fixed order: where the
two distributions are one, so are the samples and the split. What is asked by something else is asked for what training showed.

**Real** pictures are of the split in that order, as many as there are samples. Two sets of as many put a score in
proportion: pictures of the training (`floor`: no score of so few is better but by chance or by copying), and these blurred, by
(1, 2, 1) / 4 along rows and columns.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from diffusion_jax.data.examples import Examples, raw, to_unit
from diffusion_jax.data.labels import labels_of
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.typing import Array, Source, UserError

__all__ = [
    "Drawn",
    "blurred",
    "draw",
    "drawn",
    "examples_of",
    "held_out",
    "order",
    "pictures",
    "requests",
    "shape_shown",
    "training",
    "x0_of",
]

Say = Callable[[str], None]
CHUNK = 2048  # samples between two lines of progress
PART = 256  # examples at a time


class _Careful(Examples):
    """Examples of which the next stands for one that cannot be read, as in training, which counted and named them."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        for offset in range(len(self)):
            try:
                return super().__getitem__((index + offset) % len(self))
            except UserError as error:
                last = error
        raise UserError(f"no example can be read; the last of them: {last}")


def examples_of(run: DiffusionRun, split: str) -> Source:
    """The examples of a split; where training left broken pictures out, another example stands for each."""
    data = run.examples(split)
    if isinstance(data, Examples) and run.config.data.get("on_error") == "skip":
        return _Careful(data.source, data.prepare)
    return data


def held_out(run: DiffusionRun, split: str, say: Say, shared: dict[Any, Any] | None = None) -> tuple[str, Source]:
    """(the split, its examples): the one asked for, or validation where the data have no test split, saying so.

    Metrics that are taken together find it in `shared`, where the first of them leaves it: it is read and said once.
    """
    shared = {} if shared is None else shared
    place = ("held_out", split)
    if place not in shared:
        shared[place] = _held_out(run, split, say)
    return shared[place]


def _held_out(run: DiffusionRun, split: str, say: Say) -> tuple[str, Source]:
    try:
        return split, examples_of(run, split)
    except UserError:
        if split != "test":
            raise
        try:
            found = examples_of(run, "validation")
        except UserError:
            found = None
        if found is None:
            raise
    say("the data hold no test split: measured on validation")
    return "validation", found


def training(run: DiffusionRun, shared: dict[Any, Any]) -> Source:
    """The examples of the training, read once for metrics that are taken together."""
    if "train" not in shared:
        shared["train"] = examples_of(run, "train")
    return shared["train"]


def order(count: int) -> np.ndarray:
    """The rows of a set in an order that is no order of the data and never changes."""
    return np.random.default_rng(0).permutation(count)


def x0_of(run: DiffusionRun, images: np.ndarray) -> Array:
    """Images [n, h, w, c] of the data, uint8 or in [-1, 1], as x0 in the run's space, [n, ...]."""
    return _encoded(run.space, run.space.frozen, to_unit(images))


@functools.partial(jax.jit, static_argnums=0)
def _encoded(space: Any, frozen: Any, images: Any) -> Array:
    return space.encode(frozen, {"image": images})


def shape_shown(run: DiffusionRun) -> tuple[int, ...]:
    """The shape of what the run draws, one of it."""
    one = jax.ShapeDtypeStruct((1, *run.shape), np.float32)
    return tuple(jax.eval_shape(run.space.decode, run.space.frozen, one).shape[1:])


def pictures(run: DiffusionRun, data: Source, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """The examples of these rows as what the run draws, [n, ...]: images in [-1, 1], or what its space makes of them."""
    shown, found = shape_shown(run), []
    for start in range(0, len(rows), PART):
        images = np.stack([np.asarray(data[int(row)]["image"]) for row in rows[start : start + PART]])
        same = images.shape[1:] == shown
        found.append(np.asarray(to_unit(images) if same else run.space.decode(run.space.frozen, x0_of(run, images))))
    return np.concatenate(found)


def requests(run: DiffusionRun, data: Source, rows: Sequence[int] | np.ndarray) -> list[Any]:
    """What the examples of these rows are, as requests to the run: labels, captions, pictures, middles hidden, or several.

    A run that is asked for anything else is asked for what its condition shows, in turn; one that draws unasked for None.
    """
    if not run.asks:
        return [None] * len(rows)
    source = raw(data)
    held = {"label": "label", "prompt": "captions", "image": "image", "mask": "image"}
    if not all(source[int(rows[0])].get(held.get(name, "")) is not None for name in run.asks):
        return list(itertools.islice(itertools.cycle(run.condition.shown(data, data)), len(rows)))
    labels = labels_of(data) if "label" in run.asks else np.zeros(0, int)
    known: dict[str, Callable[[int], Any]] = {
        "label": lambda row: int(labels[row]),
        "prompt": lambda row: source[row]["captions"][0],
        "image": lambda row: data[row]["image"],
        "mask": lambda row: _middle(run.image),
    }
    if len(run.asks) == 1:
        return [known[run.asks[0]](int(row)) for row in rows]
    return [{name: known[name](int(row)) for name in run.asks} for row in rows]


def _middle(image: tuple[int, ...]) -> np.ndarray:
    """A mask [h, w] that hides the middle half of each side."""
    mask = np.zeros(image[:2], bool)
    mask[tuple(slice(size // 4, size - size // 4) for size in image[:2])] = True
    return mask


def draw(run: DiffusionRun, asked: Sequence[Any], seed: int, say: Say, **settings: Any) -> np.ndarray:
    """One sample a request, with a line every some."""
    found = []
    for start in range(0, len(asked), CHUNK):
        part = list(asked[start : start + CHUNK])
        given = {"prompts": part} if run.asks else {"count": len(part)}
        found.append(run.generate(**given, seed=seed, start=start, **settings))
        if len(asked) > CHUNK:
            say(f"  drawn: {start + len(part)} of {len(asked)} samples")
    return np.concatenate(found)


def blurred(images: np.ndarray) -> np.ndarray:
    """Pictures [n, h, w, c] under (1, 2, 1) / 4 along rows and columns, the edge repeated; vectors as they are."""
    if images.ndim != 4:
        return images
    for axis in (1, 2):
        pads = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        wide, size = np.pad(images, pads, mode="edge"), images.shape[axis]
        before, here, after = (np.take(wide, np.arange(i, i + size), axis) for i in range(3))
        images = (before + 2 * here + after) / 4
    return images


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """Samples and the pictures beside them, all as the run draws; `real` are of the split and `floor` of the training."""

    split: str
    train: Source
    made: np.ndarray
    asked: list[Any]
    real: np.ndarray
    floor: np.ndarray


def drawn(
    run: DiffusionRun, split: str, samples: int, seed: int, say: Say, shared: dict[Any, Any] | None = None
) -> Drawn:
    """The samples of a run, without guidance, beside the pictures of a split.

    Metrics that are taken together find them in `shared`, where the first of them leaves them.
    """
    shared = {} if shared is None else shared
    place = ("drawn", split, samples, seed)
    if place in shared:
        return shared[place]
    name, data = held_out(run, split, say, shared)
    train = training(run, shared)
    say(f"{samples} samples of {run.path} beside the {len(data)} examples of the {name} split")
    if min(len(data), len(train)) < samples:
        say(f"  {len(data)} examples to compare with and {len(train)} of the training: fewer than the samples")
    rows = order(len(data))
    asked = requests(run, data, [int(rows[i % len(rows)]) for i in range(samples)])
    made = draw(run, asked, seed, say, guidance_scale=1.0)
    known = order(len(train))[:samples]
    shared[place] = Drawn(name, train, made, asked, pictures(run, data, rows[:samples]), pictures(run, train, known))
    return shared[place]
