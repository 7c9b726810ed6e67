"""Retrieval between images and texts: recall at k, the measure of COCO and Flickr30k in the CLIP literature.

Where several texts are equal (a generated caption may describe more than one image), each of them is a right answer:
an item counts as found when anything with the same identity as its partner is among the first k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

__all__ = ["recall"]


def recall(
    image: Float[np.ndarray, "pairs embed"],
    text: Float[np.ndarray, "pairs embed"],
    *,
    identity: Sequence[object] | None = None,
    ks: Sequence[int] = (1, 5),
) -> dict[str, dict[str, float]]:
    """Recall at each k in both directions over paired unit-norm rows, in [0, 1].

    `identity[i]` names what pair i is (its caption): pairs of one identity are right answers for each other; by default
    every pair is its own. Returns {"image_to_text": {"r1": ..}, "text_to_image": {..}}.
    """
    count = len(image)
    names = list(range(count)) if identity is None else list(identity)
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    codes = np.array([index[name] for name in names])
    same = codes[:, None] == codes[None, :]
    scores = image @ text.T
    found = {}
    for direction, matrix in (("image_to_text", scores), ("text_to_image", scores.T)):
        order = np.argsort(-matrix, axis=1, kind="stable")
        hits = np.take_along_axis(same, order, axis=1)
        found[direction] = {f"r{k}": float(hits[:, :k].any(axis=1).mean()) for k in ks}
    return found
