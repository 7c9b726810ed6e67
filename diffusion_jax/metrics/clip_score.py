"""CLIP score: how well a caption fits an image, by the cosine of their embeddings (arXiv 2104.08718).

    CLIP-S(c, v) = w max(cos(c, v), 0),  w = 2.5                                            (section 3, equation 1)
    RefCLIP-S(c, R, v) = H-Mean(CLIP-S(c, v), max(max over r in R of cos(c, r), 0))         (section 3)

The paper puts "A photo depicts " (`PREFIX`) before every caption, the references too; its numbers need that. For
generated images the prompt is the caption, often without the prefix. Papers that report 100 cos give 40 CLIP-S, where
that is positive. The score is no measure of quality: it sees what its encoder sees, and sampling that is guided by the
same encoder is not judged by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from diffusion_jax.typing import UserError

__all__ = ["PREFIX", "clip_score", "ref_clip_score"]

PREFIX = "A photo depicts "
WEIGHT = 2.5


def clip_score(image: Float[np.ndarray, "pairs _"], text: Float[np.ndarray, "_ _"]) -> Float[np.ndarray, " pairs"]:
    """CLIP-S of each pair, in [0, 2.5]; the score of a set is the mean. Both sides are [pairs, embed], of any length above 0.

    Raises UserError for sides that differ in shape, no pairs, and rows that are zero or not finite.
    """
    image, text = _unit(image, "image"), _unit(text, "text")
    if image.shape != text.shape:
        raise UserError(f"images {image.shape} and texts {text.shape} are not pairs: both [pairs, embed], of one model")
    return WEIGHT * np.clip((image * text).sum(axis=1), 0.0, 1.0)


def ref_clip_score(
    image: Float[np.ndarray, "pairs _"],
    text: Float[np.ndarray, "_ _"],
    references: Float[np.ndarray, "_ _"],
    pair_of: Sequence[int] | np.ndarray,
) -> Float[np.ndarray, " pairs"]:
    """RefCLIP-S of each pair, in [0, 10/7]: the harmonic mean with its best reference; 0 where either is 0.

    `references` are embeddings of human captions, `pair_of[j]` the pair that reference j belongs to; a pair has one or
    more. Raises UserError as `clip_score`, for a pair without a reference, and a number that is no pair.
    """
    score = clip_score(image, text)
    rows, where = _unit(references, "reference"), np.asarray(pair_of)
    if where.shape != (len(rows),) or not np.issubdtype(where.dtype, np.integer):
        raise UserError(
            f"pair_of has shape {where.shape} and {where.dtype}: give {len(rows)} integers, one a reference"
        )
    if not (where.min() >= 0 and where.max() < len(score)):
        wrong = int(where.min() if where.min() < 0 else where.max())
        raise UserError(f"pair_of names pair {wrong} of {len(score)}; nearest: {min(max(wrong, 0), len(score) - 1)}")
    missing = np.setdiff1d(np.arange(len(score)), where)
    if missing.size:
        raise UserError(f"pair {missing[0]} has no reference; leave it out, or give it one")
    texts = _unit(text, "text")
    if rows.shape[1] != texts.shape[1]:
        raise UserError(f"references of {rows.shape[1]} numbers and texts of {texts.shape[1]}: one model makes both")
    best = np.zeros(len(score))
    np.maximum.at(best, where, np.clip((rows * texts[where]).sum(axis=1), 0.0, 1.0))
    total = score + best
    return 2 * score * best / np.where(total > 0, total, 1.0)


def _unit(embeddings: Any, what: str) -> np.ndarray:
    """Rows at unit length, in float64."""
    rows = np.asarray(embeddings, np.float64)
    if rows.ndim != 2 or not len(rows):
        raise UserError(f"{what} embeddings of shape {rows.shape}: [n, embed] is needed, n at least 1")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    wrong = ~(np.isfinite(norms) & (norms > 0))
    if wrong.any():
        raise UserError(f"{what} embedding {int(wrong.argmax())} is zero or not finite: it has no direction")
    return rows / norms
