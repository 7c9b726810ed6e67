"""Retrieval between images and texts: recall at k, the measure of COCO and Flickr30k in the CLIP literature.

A query (an image or a text) is found at k when a right answer is among its first k items. Several items may be right,
as five captions of an image are; the best of them counts, and the others do not stand in its way.

Ties. With g wrong items scored above the best right one, and t wrong and r right ones scored equal to it, the order of
these t + r is taken as random: the query counts as found at k with the probability that one of the r is among the
first m = k - g of them, 1 - C(t, m) / C(t + r, m) (0 for m <= 0), and its rank is the expected one, 1 + g + t / (r + 1).
So embeddings that are all the same score chance, not 100%, and no order of the rows matters.

Equal captions. Where a caption stands at several images, it is right for each of them, and each of them for it: no
encoder could tell its copies apart. `retrieval` is told by `names` which texts are equal.

Scores are made some rows at a time against all items of the other side, 2^25 at most: never the whole matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from diffusion_jax.typing import UserError

__all__ = ["ranks", "recall", "retrieval"]

ENTRIES = 1 << 25  # scores held at once, 128 MB in float32


def retrieval(
    image: Float[np.ndarray, "images _"],
    text: Float[np.ndarray, "texts _"],
    image_of: Sequence[int] | np.ndarray | None = None,
    *,
    names: Sequence[object] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    block: int = 1024,
) -> dict[str, dict[str, float]]:
    """Recall at each k, in [0, 1], and the median rank, from 1, in both directions over unit-norm rows [n, embed].

    `image_of[j]` is the image that text j describes; an image has one text or more, their number may vary. By default
    text j describes image j. `names[j]` says what text j is (the caption itself): texts of one name are right answers for
    the images of all of them; by default all differ. `block` is the most rows at once. Returns {"image_to_text": {"r1",
    .., "median_rank"}, "text_to_image": {..}}. Raises UserError for an image without a text, a number that is no image,
    rows that are not finite or differ in width, another number of names than of texts, and a k below 1.
    """
    count = len(image)
    if image_of is None and len(text) != count:
        raise UserError(f"{len(text)} texts for {count} images: say which image each describes by image_of")
    codes = np.arange(count) if image_of is None else np.asarray(image_of)
    if codes.shape != (len(text),) or not np.issubdtype(codes.dtype, np.integer):
        raise UserError(f"image_of has shape {codes.shape} and {codes.dtype}: give {len(text)} integers, one a text")
    if codes.size and not (codes.min() >= 0 and codes.max() < count):
        wrong = int(codes.min() if codes.min() < 0 else codes.max())
        raise UserError(f"image_of names image {wrong} of {count}; nearest: {min(max(wrong, 0), count - 1)}")
    if names is None:
        return _both_ways(image, text, np.arange(count), codes, ks, block, median=True)
    kinds = _codes(names)
    if len(kinds) != len(text):
        raise UserError(f"{len(kinds)} names for {len(text)} texts: give one a text")
    pairs = np.unique(np.stack([codes, kinds], axis=1), axis=0)
    return _both_ways(image, text, np.arange(count), kinds, ks, block, median=True, pairs=pairs)


def recall(
    image: Float[np.ndarray, "_ _"],
    text: Float[np.ndarray, "_ _"],
    *,
    identity: Sequence[object] | None = None,
    ks: Sequence[int] = (1, 5),
    block: int = 1024,
) -> dict[str, dict[str, float]]:
    """Recall at each k in both directions over paired unit-norm rows [pairs, embed], in [0, 1].

    `identity[i]` names what pair i is (its caption): pairs of one identity are right answers for each other, as where a
    generated caption describes more than one image; by default every pair is its own. Returns {"image_to_text":
    {"r1": ..}, "text_to_image": {..}}. Raises UserError as `retrieval`.
    """
    codes = np.arange(len(image)) if identity is None else _codes(identity)
    if not len(codes) == len(image) == len(text):
        raise UserError(f"{len(image)} images, {len(text)} texts and {len(codes)} identities: pairs need equal numbers")
    return _both_ways(image, text, codes, codes, ks, block, median=False)


def _codes(names: Sequence[object]) -> np.ndarray:
    """The same number for equal names, int64. UserError for one text in the place of a list."""
    if isinstance(names, str | bytes):
        raise UserError(f"{names!r} is one text: give a list of them, one a row")
    index: dict[object, int] = {}
    return np.array([index.setdefault(name, len(index)) for name in names], np.int64)


def _both_ways(
    image: Any,
    text: Any,
    images: np.ndarray,
    texts: np.ndarray,
    ks: Sequence[int],
    block: int,
    *,
    median: bool,
    pairs: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """`pairs` [n, 2] are the codes of images and of texts that belong together; by default the equal ones do."""
    if not ks or min(ks) < 1:
        raise UserError(f"k of {tuple(ks)} for recall: each must be 1 or more")
    found = {}
    for direction, queries, items, own, others, answers in (
        ("image_to_text", image, text, images, texts, pairs),
        ("text_to_image", text, image, texts, images, None if pairs is None else pairs[:, ::-1]),
    ):
        above, tied, right = _places(queries, items, own, others, block, direction, answers)
        found[direction] = {f"r{k}": float(_found(above, tied, right, k).mean()) for k in ks}
        if median:
            found[direction]["median_rank"] = float(np.median(1 + above + tied / (right + 1)))
    return found


def ranks(
    queries: Float[np.ndarray, "queries _"],
    items: Float[np.ndarray, "items _"],
    query_codes: Sequence[int] | np.ndarray,
    item_codes: Sequence[int] | np.ndarray,
    *,
    block: int = 1024,
) -> Float[np.ndarray, " queries"]:
    """The expected rank of each query's best right answer, from 1; items of the query's own code are right.

    Raises UserError for a query without a right answer and for rows that are not finite or differ in width.
    """
    above, tied, right = _places(
        queries, items, np.asarray(query_codes), np.asarray(item_codes), block, "query_to_item"
    )
    return 1 + above + tied / (right + 1)


def _places(
    queries: Any,
    items: Any,
    own: np.ndarray,
    others: np.ndarray,
    block: int,
    direction: str,
    pairs: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each query g, t and r of the module's docstring, int64."""
    queries, items = _rows(queries), _rows(items)
    query, item = direction.split("_to_")
    if block < 1:
        raise UserError(f"block {block} of rows is below 1; usual: 1024")
    if not len(queries) or not len(items):
        raise UserError(f"retrieval among {len(queries)} and {len(items)} rows: each side needs one at least")
    if queries.shape[1] != items.shape[1]:
        raise UserError(f"rows of {queries.shape[1]} and {items.shape[1]} numbers do not match: one model makes both")
    answers = None if pairs is None else _Answers(pairs)
    alone = ~np.isin(own, others if pairs is None else pairs[:, 0])
    if alone.any():
        raise UserError(f"{query} {int(alone.argmax())} has no {item} of its own; leave it out, or give it one")
    step = max(1, min(block, ENTRIES // len(items)))
    # A product of matrices may round the scores of equal rows apart, by where they stand: each row is scored once.
    distinct, place = np.unique(items, axis=0, return_inverse=True)
    found = np.empty((3, len(queries)), np.int64)
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        scores = (queries[part] @ distinct.T)[:, place]
        same = own[part, None] == others[None, :] if answers is None else answers(own[part], others)
        best = np.where(same, scores, -np.inf).max(axis=1, keepdims=True)
        equal = scores == best
        found[0, part] = ((scores > best) & ~same).sum(axis=1)
        found[1, part] = (equal & ~same).sum(axis=1)
        found[2, part] = (equal & same).sum(axis=1)
    return found[0], found[1], found[2]


class _Answers:
    """Which items are right for which queries, from the pairs [n, 2] of a query's code and an item's."""

    def __init__(self, pairs: np.ndarray) -> None:
        order = pairs[np.argsort(pairs[:, 0], kind="stable")]
        self.items = order[:, 1]
        self.bounds = np.searchsorted(order[:, 0], np.arange(int(order[-1, 0]) + 2))
        self.kinds = int(pairs[:, 1].max()) + 1

    def __call__(self, own: np.ndarray, others: np.ndarray) -> np.ndarray:
        """bool [queries, items] of the queries' codes and the items'."""
        codes, where = np.unique(own, return_inverse=True)
        right = np.zeros((len(codes), self.kinds), bool)
        for row, code in zip(right, codes, strict=True):
            row[self.items[self.bounds[code] : self.bounds[code + 1]]] = True
        return right[where][:, others]


def _found(above: np.ndarray, tied: np.ndarray, right: np.ndarray, k: int) -> np.ndarray:
    """The probability that each query is found at k. C(t, m) / C(t + r, m) is a product over m of (t - i) / (t + r - i)."""
    places = np.clip(k - above, 0, tied + 1)
    missed = np.ones(len(above))
    for i in range(int(places.max(initial=0))):
        missed *= np.where(i < places, np.maximum(tied - i, 0) / (tied + right - np.minimum(i, tied)), 1.0)
    return 1 - missed


def _rows(embeddings: Any) -> np.ndarray:
    """Embeddings as float32 at least, [n, embed]."""
    rows = np.asarray(embeddings)
    if rows.ndim != 2:
        raise UserError(f"embeddings of shape {rows.shape}: [n, embed] is needed")
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float32)
    if not np.isfinite(rows).all():
        raise UserError(f"embedding {int((~np.isfinite(rows)).any(axis=1).argmax())} of {len(rows)} is not finite")
    return rows
