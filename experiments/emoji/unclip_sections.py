"""The page's section of unCLIP on emoji: four ways from words to pictures, and what is done with an embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion_jax.report.figures import image_grid
from diffusion_jax.report.numbers import number, percent
from diffusion_jax.report.page import Block, Figure, Mark, Section, Table
from experiments.digits.measures import Evaluation
from experiments.ways import WAYS, told_between

__all__ = ["unclip_sections"]

SPLITS = {"pairs": "pairs never seen together", "test": "subjects never seen"}


def unclip_sections(e: Evaluation) -> tuple[Section, ...]:
    """What the prior and the decoder make of CLIP's space; none of an evaluation without them."""
    if "unclip_ways" not in e.arrays:
        return ()
    found, arrays, notes = e.metrics["unclip"], e.arrays, e.notes
    blocks: list[Block] = [_lead(found), *(_table(found["ways"], split) for split in notes["unclip_splits"])]
    blocks += [_ways(e), _variations(found, arrays["unclip_variations"])]
    blocks.append(_interpolations(found, arrays["unclip_interpolations"]))
    if "unclip_diffs" in arrays:
        blocks.append(_diffs(found, arrays["unclip_diffs"], notes["unclip_thetas"], notes["unclip_turns"]))
    blocks.append(_components(found["components"], arrays["unclip_components"], notes["unclip_components"]))
    return (Section("CLIP turned round: unCLIP", tuple(blocks)),)


def _lead(found: Mapping[str, Any]) -> str:
    nearer = found["prior_cosine"] > found["text_cosine"]
    return (
        "A prior draws the embedding that a picture of the caption might have, and the decoder, the same network that drew all "
        f"above, draws a picture that has it. The prior’s embedding is {'nearer to' if nearer else 'farther from'} that of the "
        f"caption’s own emoji than the caption’s embedding is: cosine {found['prior_cosine']:.2f} for "
        f"{found['text_cosine']:.2f}, with the better of two {found['reranked_cosine']:.2f}, and "
        f"{found['shuffled_cosine']:.2f} for other captions."
    )


def _table(ways: Mapping[str, Any], split: str) -> Table:
    styled = all(ways[way][split]["style_right"] is not None for way in WAYS)
    heads = [
        f"from, {SPLITS[split]}",
        *(("style asked for",) if styled else ()),
        "own picture by colour",
        "CLIP finds it",
    ]
    rows: list[tuple[str | Mark, ...]] = []
    for way, name in WAYS.items():
        one = ways[way][split]
        shares = [one["subject_pixels"]["recall"], one["subject_clip"]["image_to_text"]]
        shown = [percent(value) for value in ([one["style_right"]] if styled else []) + shares]
        rows.append((name, *shown, number(one["frechet"])))
    return Table((*heads, "Fréchet"), tuple(rows), numeric=frozenset(range(1, len(heads) + 1)))


def _ways(e: Evaluation) -> Figure:
    real = np.concatenate([e.arrays[f"unclip_real_{split}"] for split in e.notes["unclip_splits"]])
    drawn = e.arrays["unclip_ways"]
    return image_grid(
        [[real[place : place + 1], *(way[place : place + 1] for way in drawn)] for place in range(len(real))],
        [f"“{caption}”" for caption in e.notes["unclip_captions"]],
        ["real", *WAYS.values()],
        per_line=1,
        title="Four ways from words to pictures",
        alt="Captions never seen, their real emoji, and what is drawn of them four ways.",
        caption="The same seed in a row. No model was trained on these pictures.",
        widest=64,
    )


def _rows(images: np.ndarray, heads: list[str], labels: list[str], title: str, alt: str, caption: str) -> Figure:
    """Lines of single pictures under their heads."""
    cells = [[picture[None] for picture in line] for line in images]
    return image_grid(cells, labels, heads, per_line=1, title=title, alt=alt, caption=caption, widest=64)


def _variations(found: Mapping[str, Any], images: np.ndarray) -> Figure:
    kept = found["variations"]
    style = "" if kept["style_right"] is None else f"{percent(kept['style_right'])} are read as the style of theirs, "
    caption = (
        "From the noise that the decoder’s ODE takes an emoji back to, by steps that draw new noise: what stays is what CLIP "
        f"sees. {style}{percent(kept['subject_pixels']['recall'])} have their own among the five nearest by colour (chance "
        f"{percent(kept['subject_pixels']['chance'])}); they are {found['variation_distance']:.2f} times as far from it as "
        f"another of its style. Without new noise the emoji itself comes back, at {found['inversion_psnr']:.0f} dB."
    )
    heads = ["real", *(str(place) for place in range(1, images.shape[1]))]
    return _rows(images, heads, [], "Variations", "Emoji never seen, each with variations of it.", caption)


def _interpolations(found: Mapping[str, Any], ways: np.ndarray) -> Figure:
    return image_grid(
        [[way] for way in ways],
        [],
        ["from one emoji to another"],
        per_line=ways.shape[1],
        title="Ways between",
        alt="Pictures on the way from one emoji to another.",
        caption=told_between("emoji", found),
        widest=64,
    )


def _diffs(found: Mapping[str, Any], images: np.ndarray, thetas: list[float], turns: list[str]) -> Figure:
    caption = (
        "The embedding of an emoji is turned towards the difference of what it is called in another style and in its own, by "
        f"shares of the angle between them. At {max(thetas):g}, {percent(found['diff_turned'])} are read as the other style, "
        f"and {percent(found['diff_kept'])} still have their own picture among the five nearest by colour."
    )
    heads = ["real", *(f"{theta:g}" for theta in thetas)]
    return _rows(images, heads, turns, "Moved by words", "Emoji turned step by step towards another style.", caption)


def _components(shares: Mapping[str, Any], images: np.ndarray, counts: list[int]) -> Figure:
    told = "; ".join(f"{count}: {percent(shares[str(count)]['recall'])}" for count in counts)
    caption = (
        "Decoded from so many principal components of the emoji’s embedding, the largest first. Its own picture is among the "
        f"five nearest by colour in {told} (chance {percent(shares[str(counts[0])]['chance'])})."
    )
    heads = ["real", *(str(count) for count in counts)]
    return _rows(
        images, heads, [], "What an embedding says first", "Emoji drawn from more and more components.", caption
    )
