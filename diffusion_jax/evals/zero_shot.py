"""Zero-shot classification with a contrastive model (arXiv 2103.00020, section 3.1.4).

Every class name is put into every template; the unit-norm embeddings of a class's prompts are averaged and scaled to
unit length again. An image belongs to the class whose embedding has the largest dot product with its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

__all__ = ["class_embeddings", "classify", "topk_accuracy"]

EncodeText = Callable[[Sequence[str]], np.ndarray]


def class_embeddings(
    encode_text: EncodeText, class_names: Sequence[str], templates: Sequence[str]
) -> Float[np.ndarray, "classes embed"]:
    """One unit-norm embedding a class. `encode_text` gives unit-norm rows; a template has one `{}` for the name."""
    prompts = [template.format(name) for name in class_names for template in templates]
    rows = np.asarray(encode_text(prompts)).reshape(len(class_names), len(templates), -1)
    mean = rows.mean(axis=1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def classify(
    images: Float[np.ndarray, "images embed"], classes: Float[np.ndarray, "classes embed"]
) -> Int[np.ndarray, "images classes"]:
    """The classes of each image from the likeliest down."""
    return np.argsort(-(images @ classes.T), axis=1, kind="stable")


def topk_accuracy(ranked: Int[np.ndarray, "images classes"], labels: Int[np.ndarray, " images"], k: int = 1) -> float:
    """The share of images, in [0, 1], whose label is among their first k classes."""
    return float((ranked[:, :k] == labels[:, None]).any(axis=1).mean())
