"""Four ways from a caption to a picture, and what is measured in CLIP's space: what the experiments on unCLIP share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from diffusion_jax.pipelines.unclip import DENSER, UnCLIP, evenly
from experiments.digits.measures import Evaluation

__all__ = [
    "CANDIDATES",
    "WAYS",
    "cosines",
    "draw_ways",
    "largest_step",
    "prior_cosines",
    "put_jumps",
    "told_between",
    "ways_between",
]

CANDIDATES = 2
"""Embeddings that the prior draws for a caption, of which the nearest to the caption's is decoded."""
WAYS = {
    "prior": "prior and caption",
    "prior_untold": "prior alone",
    "text_embedding": "caption’s embedding, no prior",
    "text": "caption alone",
}
"""unCLIP; its embedding without the caption; the caption's embedding in its place, with the caption; the caption alone."""


def cosines(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Of each row to its row."""
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def draw_ways(
    unclip: UnCLIP, prompts: Sequence[str], *, seed: int, start: int, options: Sequence[Mapping[str, Any]]
) -> dict[str, list[Float[np.ndarray, "n h w c"]]]:
    """Pictures of prompts in [-1, 1] by each of the ways, with each of the decoder's `options`.

    From the same noise and, where the prior draws, the same embeddings.
    """
    drawn = unclip.embeddings(prompts, candidates=CANDIDATES, seed=seed, start=start)
    own, run = unclip.decoder.texts(prompts), unclip.decoder.run  # type: ignore[attr-defined]
    given = {"prior": (drawn, prompts), "prior_untold": (drawn, None), "text_embedding": (own, prompts)}
    found = {
        way: [unclip.decode(z, told, seed=seed, start=start, options=each) for each in options]
        for way, (z, told) in given.items()
    }
    asked = [{"prompt": prompt} for prompt in prompts]
    found["text"] = [np.clip(run.generate(asked, seed=seed, start=start, **each), -1.0, 1.0) for each in options]
    return {way: found[way] for way in WAYS}


def prior_cosines(
    unclip: UnCLIP, captions: Sequence[str], true: Float[np.ndarray, "n d"], *, seed: int
) -> dict[str, float]:
    """Mean cosines to the embedding of the picture that each caption is of, and of the draws to the caption's own.

    `prior` of one draw, `reranked` of the better of two, `text` of the caption's embedding, `shuffled` of the draws for other
    captions and `shuffled_real` of other pictures, each with `_cosine`; then `prior_text_cosine` and `reranked_text_cosine`.
    """
    texts = unclip.decoder.texts(captions)
    one, best = (unclip.embeddings(captions, candidates=count, seed=seed) for count in (1, CANDIDATES))
    other = np.random.default_rng(seed).permutation(len(captions))
    pairs = {
        "prior": (one, true),
        "reranked": (best, true),
        "text": (texts, true),
        "shuffled": (one[other], true),
        "shuffled_real": (true[other], true),
        "prior_text": (one, texts),
        "reranked_text": (best, texts),
    }
    return {f"{name}_cosine": float(cosines(a, b).mean()) for name, (a, b) in pairs.items()}


def ways_between(
    unclip: UnCLIP, first: np.ndarray, second: np.ndarray, count: int, *, seed: int, options: Mapping[str, Any]
) -> tuple[Float[np.ndarray, "count h w c"], Float[np.ndarray, "count h w c"]]:
    """From a picture to another: at equal angles, and at equal distances in CLIP's space (`even` of `interpolate`)."""
    dense = unclip.interpolate(
        first[None], second[None], DENSER * (count - 1) + 1, seed=seed, options=options, inversion=options
    )
    return dense[::DENSER], dense[evenly(unclip.decoder.embed(dense), count)]


def largest_step(embeddings: Float[np.ndarray, "n d"]) -> float:
    """The largest distance between neighbours over the mean one."""
    steps = np.linalg.norm(np.diff(embeddings, axis=0), axis=1)
    return float(steps.max() / steps.mean())


def put_jumps(unclip: UnCLIP, ways: Sequence[tuple[np.ndarray, np.ndarray]], into: Evaluation) -> None:
    """Of what `ways_between` gave: the largest steps of both kinds under `unclip`, and the even ways as pictures."""
    for name, kind in (("interpolation_jump", 1), ("interpolation_jump_by_angle", 0)):
        jumps = [largest_step(unclip.decoder.embed(way[kind])) for way in ways]
        into.put(f"unclip.{name}", max(jumps))
        into.put(f"unclip.{name}s", jumps)
    into.arrays["unclip_interpolations"] = np.stack([even for _, even in ways])


def told_between(what: str, found: Mapping[str, Any]) -> str:
    """The caption of ways between pictures, which are called `what`."""
    return (
        f"Embedding and noise go along great circles from the left {what} to the right one; shown are pictures at equal "
        f"distances in CLIP’s space, where the largest step is {found['interpolation_jump']:.2f} times the mean one. At equal "
        f"angles it is {found['interpolation_jump_by_angle']:.2f} times."
    )
