"""Who judges drawn emoji: a reader of style, the pixels of the real picture, and CLIP, each with what it says of real ones.

- The **reader of style** (`reader`) sees palette, surfaces and outline, and learned from the training pictures alone: it shares
  nothing with the models.
- **Pixels**: of a held-out (subject, style) pair the real picture is known. Each drawn one is compared with the real ones of
  its style, 8 x 8 mean colours without their mean, by cosine: is its own among the five nearest?
- **CLIP** is the one whose text tower guides the drawing: it says whether the subject is right as it was taught to.

Subjects are always retrieved within a style, so that a right style alone scores chance. Chance is recall of embeddings that
are all the same, on the same captions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from diffusion_jax.metrics import recall
from experiments.emoji.reader import StyleReader, fit_reader, load_reader, save_reader
from experiments.emoji.source import Emoji

__all__ = ["coarse", "in_blocks", "style_reader", "unit_pictures", "within"]

K = 5


def unit_pictures(images: np.ndarray) -> Float[np.ndarray, "n h w c"]:
    """uint8 as float32 in [-1, 1]; floats clipped to it."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 127.5 - 1
    return np.clip(images, -1, 1).astype(np.float32)


def coarse(images: np.ndarray, edge: int = 8) -> Float[np.ndarray, "n features"]:
    """Mean colours of edge x edge squares, less the picture's own mean, at unit norm."""
    found = unit_pictures(images)
    count, size, _, channels = found.shape
    step = size // edge
    means = found.reshape(count, edge, step, edge, step, channels).mean((2, 4)).reshape(count, -1)
    means = means - means.mean(axis=1, keepdims=True)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)


def in_blocks(images: np.ndarray, side: int = 4) -> Float[np.ndarray, "n h w c"]:
    """Pictures in [-1, 1] of which each square of `side` pixels is its mean: blurred, as a measure of distances."""
    found = unit_pictures(images)
    n, height, width, channels = found.shape
    means = found.reshape(n, height // side, side, width // side, side, channels).mean((2, 4))
    return means.repeat(side, axis=1).repeat(side, axis=2)


def within(
    first: Float[np.ndarray, "n d"],
    second: Float[np.ndarray, "n d"],
    groups: Int[np.ndarray, " n"],
    names: Sequence[str],
    k: int = K,
) -> dict[str, float]:
    """Recall at k of paired unit rows among those of their group, in both directions, beside chance.

    {"image_to_text", "text_to_image", "chance", "ratio", "pairs"}: `first` are the images; the ratio is of the lower direction.
    Pairs of one name are right for each other.
    """
    total = np.zeros(3)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        same = [names[int(row)] for row in rows]
        found = recall(first[rows], second[rows], identity=same, ks=(k,))
        blind = recall(np.zeros((len(rows), 1)), np.zeros((len(rows), 1)), identity=same, ks=(k,))
        ways = (found["image_to_text"], found["text_to_image"], blind["image_to_text"])
        total += len(rows) * np.array([way[f"r{k}"] for way in ways])
    there, back, chance = (float(value) for value in total / len(groups))
    ratio = min(there, back) / chance
    return {
        "image_to_text": there,
        "text_to_image": back,
        "chance": chance,
        "ratio": ratio,
        "pairs": len(groups),
        "groups": len(np.unique(groups)),
    }


def style_reader(train: Emoji, folder: Path, seed: int = 0, say: Callable[[str], None] = print) -> StyleReader:
    """The reader of the styles of the training pictures, from `folder` where it is there."""
    file = folder / f"reader-{train.all.fingerprint}-{len(train)}-{seed}.npz"
    known = load_reader(file)
    if known is None:
        known = fit_reader(train.columns()["image"], train.labels, seed=seed, say=say)
        save_reader(file, known)
    return known
