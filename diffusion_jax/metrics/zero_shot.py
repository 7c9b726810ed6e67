"""Zero-shot classification with a contrastive model (arXiv 2103.00020, section 3.1.4).

Every class name is put into every template; the unit-norm embeddings of a class's prompts are averaged and scaled to
unit length again. An image belongs to the class whose embedding has the largest dot product with its own; of equal ones
to the first, so that embeddings that are all the same say the first class always: 1 / classes of a balanced set.

Images come as an iterator of batches and leave only counts, which add up: over batches, over the slices of several
processes, over shards of a set. Encoders are callables that take a list or an array and give unit-norm rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffusion_jax.typing import UserError, pytree_dataclass, static, texts_of, whole_number

__all__ = ["ZeroShot", "class_embeddings", "classify", "topk_accuracy", "zero_shot"]

EncodeText = Callable[[Sequence[str]], np.ndarray]
EncodeImage = Callable[[Any], np.ndarray]


def class_embeddings(
    encode_text: EncodeText, class_names: Sequence[str], templates: Sequence[str], *, batch_size: int = 256
) -> Float[np.ndarray, "classes embed"]:
    """One unit-norm embedding a class. `encode_text` gives unit-norm rows; a template has one `{}` for the name.

    Each different prompt is encoded once, `batch_size` at a time, so that names and templates may be many and may
    repeat. Raises UserError for no names or templates, a string where a list is meant, a template without one `{}`,
    and embeddings that are not finite rows, one a prompt.
    """
    for what, given in (("class names", class_names), ("templates", templates)):
        if isinstance(given, str) or not len(given):
            raise UserError(f"{what} {given!r}: give a list of strings, one at least")
        texts_of(what, given)
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(
                f"template {template!r} has {template.count('{}')} places {{}} for the class name; 1 is needed"
            )
    prompts = [template.replace("{}", name) for name in class_names for template in templates]
    unique = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    texts, where = list(unique), np.array([unique[prompt] for prompt in prompts])
    order = np.argsort(where, kind="stable")  # uses of the prompts, sorted by prompt
    total: np.ndarray | None = None
    for start in range(0, len(texts), batch_size):
        chunk = texts[start : start + batch_size]
        rows = _rows(encode_text(chunk), len(chunk), "prompts")
        total = np.zeros((len(class_names), rows.shape[1]), np.float64) if total is None else total
        low, high = np.searchsorted(where[order], (start, start + len(chunk)))
        used = order[low:high]
        np.add.at(total, used // len(templates), rows[where[used] - start])
    assert total is not None
    norms = np.linalg.norm(total, axis=-1, keepdims=True)
    if not norms.all():
        raise UserError(
            f"the prompts of class {class_names[int(norms.argmin())]!r} cancel: their mean embedding is zero"
        )
    return (total / norms).astype(rows.dtype)


def classify(
    images: Float[np.ndarray, "images embed"], classes: Float[np.ndarray, "classes embed"]
) -> Int[np.ndarray, "images classes"]:
    """The classes of each image from the likeliest down."""
    return np.argsort(-(images @ classes.T), axis=1, kind="stable")


def topk_accuracy(ranked: Int[np.ndarray, "images classes"], labels: Int[np.ndarray, " images"], k: int = 1) -> float:
    """The share of images, in [0, 1], whose label is among their first k classes. UserError for one label alone, or none."""
    k = whole_number("k", k, 1)
    if np.ndim(ranked) != 2 or np.shape(labels) != np.shape(ranked)[:1] or not len(ranked):
        raise UserError(
            f"ranks {np.shape(ranked)} and labels {np.shape(labels)}: [images, classes] and [images] are needed"
        )
    return float((np.asarray(ranked)[:, :k] == np.asarray(labels)[:, None]).any(axis=1).mean())


@pytree_dataclass
class ZeroShot:
    """What zero-shot classification found: counts, which `+` adds over parts of a set.

    confusion: [classes, classes], images of the label (row) that were given the class (column).
    hits: [ks, classes], images of each label that had it among their first k classes.
    A pytree of two arrays, so that `process_allgather` and a sum give the whole set's counts from each process's.
    """

    confusion: Any
    hits: Any
    ks: tuple[int, ...] = static(default=(1, 5))

    def __add__(self, other: ZeroShot) -> ZeroShot:
        if self.ks != other.ks or self.confusion.shape != other.confusion.shape:
            parts = [f"{len(part.confusion)} classes at k of {part.ks}" for part in (self, other)]
            raise UserError(f"counts of {parts[0]} and of {parts[1]} do not add up")
        return ZeroShot(self.confusion + other.confusion, self.hits + other.hits, self.ks)

    @property
    def images(self) -> int:
        """How many images were counted."""
        return int(self.confusion.sum())

    def accuracy(self, k: int = 1) -> float:
        """The share of images, in [0, 1], with their label among the first k. With k >= classes it is 1 whatever they say.

        Raises UserError where nothing was counted, and for a k that was not.
        """
        if k not in self.ks:
            raise UserError(f"top-{k} was not counted; counted: {', '.join(map(str, self.ks))}")
        if not self.images:
            raise UserError("accuracy of 0 images: the batches were empty, or their iterator was used before")
        return float(self.hits[self.ks.index(k)].sum() / self.images)

    @property
    def per_class(self) -> Float[np.ndarray, " classes"]:
        """The recall of each class: the share of its images given to it, in [0, 1]; NaN for a class without images."""
        counts = self.confusion.sum(axis=1)
        return np.where(counts, np.diagonal(self.confusion) / np.maximum(counts, 1), np.nan)

    @property
    def mean_per_class(self) -> float:
        """The mean recall of the classes that have images, the measure of sets whose classes differ in size."""
        self.accuracy(self.ks[0])
        return float(np.nanmean(self.per_class))

    def summary(self) -> dict[str, float]:
        """{"top1", "top5" (each of ks), "mean_per_class", "images"}."""
        found = {f"top{k}": self.accuracy(k) for k in self.ks}
        return found | {"mean_per_class": self.mean_per_class, "images": self.images}


def zero_shot(
    encode_image: EncodeImage,
    classes: Float[np.ndarray, "classes embed"],
    batches: Iterable[tuple[Any, Any]],
    *,
    ks: Sequence[int] = (1, 5),
) -> ZeroShot:
    """Classifies every batch of an iterator of (images, labels [n]); holds one batch at a time.

    `images` is whatever `encode_image` takes, `classes` is by `class_embeddings`, labels are integers below the number
    of classes. Several processes each give their own slice, and add up; no batch at all gives zeros. Raises UserError
    for a label out of range, for a k below 1, and for embeddings that are not finite, [n, embed].
    """
    ks = tuple(ks)
    if not ks or min(ks) < 1:
        raise UserError(f"k of {ks} for top-k: each must be 1 or more")
    classes = _rows(classes, len(classes), "classes")
    count = len(classes)
    confusion, hits = np.zeros((count, count), np.int64), np.zeros((len(ks), count), np.int64)
    for images, given in batches:
        labels = np.asarray(given)
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise UserError(f"labels of shape {labels.shape} and {labels.dtype}: give integers [n], one an image")
        if labels.size and not (labels.min() >= 0 and labels.max() < count):
            wrong = int(labels.min() if labels.min() < 0 else labels.max())
            raise UserError(f"label {wrong} is not among {count} classes; nearest: {min(max(wrong, 0), count - 1)}")
        if not labels.size:
            continue
        scores = _rows(encode_image(images), len(labels), "labels") @ classes.T
        own = np.take_along_axis(scores, labels[:, None], axis=1)
        before = (scores == own) & (np.arange(count) < labels[:, None])
        rank = ((scores > own) | before).sum(axis=1)
        np.add.at(confusion, (labels, scores.argmax(axis=1)), 1)
        for row, k in zip(hits, ks, strict=True):
            np.add.at(row, labels[rank < k], 1)
    return ZeroShot(confusion, hits, ks)


def _rows(embeddings: Any, count: int, of: str) -> np.ndarray:
    """Embeddings as float32 at least, [count, embed]."""
    rows = np.asarray(embeddings)
    if rows.ndim != 2 or len(rows) != count:
        raise UserError(f"embeddings of shape {rows.shape} for {count} {of}: [{count}, embed] is needed")
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float32)
    if not np.isfinite(rows).all():
        raise UserError(f"embedding {int((~np.isfinite(rows)).any(axis=1).argmax())} of {count} {of} is not finite")
    return rows
