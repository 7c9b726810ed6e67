"""The sections of the page that end the story: CLIP alone cannot draw, and what inverts it can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion_jax.report.figures import image_grid
from diffusion_jax.report.numbers import percent
from diffusion_jax.report.page import Block, Mark, Section, Table
from experiments.digits.measures import Evaluation
from experiments.ways import WAYS, told_between

__all__ = ["clip_alone_section", "unclip_section"]


def clip_alone_section(evaluation: Evaluation) -> Section | None:
    """Pixels that climb CLIP's similarity; None of an evaluation that has none."""
    if "clip_alone" not in evaluation.arrays:
        return None
    found, images = evaluation.metrics["clip_alone"], evaluation.arrays["clip_alone"]
    text = (
        f"Gradients on pixels find images that CLIP likes better (cosine {found['cosine']:.2f}) than the real scans of a "
        f"prompt’s digit ({found['cosine_real']:.2f}), and the independent reader finds the digit in "
        f"{percent(found['digit_accuracy'])} of them. CLIP says how well an image fits; which images there are it does not "
        "know. That is what diffusion is for."
    )
    figure = image_grid(
        [list(images)],
        [],
        [f"{digit}" for digit in range(len(images))],
        per_line=1,
        alt=f"Images of the largest similarity to each of {len(images)} prompts: noise with a trace of the digit.",
        caption=text,
        widest=56,
    )
    return Section("CLIP alone cannot draw", (figure,))


def unclip_section(evaluation: Evaluation) -> Section | None:
    """What the prior and the decoder make of CLIP's space; None of an evaluation without them."""
    if "unclip_ways" not in evaluation.arrays:
        return None
    found, arrays, notes = evaluation.metrics["unclip"], evaluation.arrays, evaluation.notes
    blocks: list[Block] = [
        _lead(found),
        _ways_table(found["ways"]),
        _ways(arrays["unclip_ways"]),
        _variations(found, arrays["unclip_variations"]),
        _interpolations(found, arrays["unclip_interpolations"]),
        _diffs(found, arrays["unclip_diffs"], notes["unclip_thetas"]),
        _components(found["components"], arrays["unclip_components"], notes["unclip_components"]),
    ]
    return Section("CLIP turned round: unCLIP", tuple(blocks))


def _lead(found: Mapping[str, Any]) -> str:
    return (
        "A prior draws the embedding that a picture of the caption might have, and the decoder, the same network that drew all "
        "above, draws a picture that has it. The prior’s embedding is nearer to that of the caption’s own scan than the "
        f"caption’s embedding is: cosine {found['prior_cosine']:.2f} for {found['text_cosine']:.2f}, with the better of two "
        f"{found['reranked_cosine']:.2f}, and {found['shuffled_cosine']:.2f} for other captions."
    )


def _ways_table(ways: Mapping[str, Any]) -> Table:
    rows: list[tuple[str | Mark, ...]] = []
    for way, name in WAYS.items():
        one, three = ways[way]["guidance_1"], ways[way]["guidance_3"]
        rows.append((name, *_shown(one), *_shown(three)))
    heads = ("right digit", "Fréchet", "variety")
    return Table(
        head=("from", *(f"{head}, guidance {scale}" for scale in (1, 3) for head in heads)),
        rows=tuple(rows),
        numeric=frozenset(range(1, 7)),
    )


def _shown(row: Mapping[str, float]) -> tuple[str, str, str]:
    return percent(row["digit_accuracy"]), f"{row['frechet']:.2f}", f"{row['diversity']:.2f}"


def _ways(images: np.ndarray) -> Any:
    return image_grid(
        [[line] for line in images],
        list(WAYS.values()),
        ["“a zero” to “a nine”, guidance 3"],
        per_line=images.shape[1],
        alt="The ten digits drawn four ways.",
        caption="The same prompts and seeds, a row a way from words to pictures.",
        widest=56,
    )


def _variations(found: Mapping[str, Any], images: np.ndarray) -> Any:
    return image_grid(
        [[line[:1], line[1:]] for line in images],
        [],
        ["real scan", "variations: the same embedding, drawn anew"],
        per_line=images.shape[1] - 1,
        title="Variations",
        alt="Held-out scans, each with variations drawn from its embedding and its noise.",
        caption=(
            "From the noise that the decoder’s ODE takes a scan back to, by steps that draw new noise: what stays is what CLIP "
            f"sees. {percent(found['variation_accuracy'])} are still read as the scan’s digit; they are "
            f"{found['variation_distance']:.2f} times as far from it as another scan of that digit. Without new noise the scan "
            f"itself comes back, at {found['inversion_psnr']:.0f} dB."
        ),
        widest=56,
    )


def _interpolations(found: Mapping[str, Any], ways: np.ndarray) -> Any:
    return image_grid(
        [[way] for way in ways],
        [],
        ["from one scan to another"],
        per_line=ways.shape[1],
        title="Ways between",
        alt="Pictures on the way from one scan to another.",
        caption=told_between("scan", found),
        widest=56,
    )


def _diffs(found: Mapping[str, Any], images: np.ndarray, thetas: list[float]) -> Any:
    return image_grid(
        [[picture[None] for picture in line] for line in images],
        [],
        ["thin scan", *(f"{theta:g}" for theta in thetas)],
        per_line=1,
        title="Moved by words",
        alt="Thin scans whose embedding is turned step by step towards bold.",
        caption=(
            "The embedding of a thin scan is turned towards the difference of “a bold” and “a thin” digit, by shares of the "
            f"angle between them. At {max(thetas):g}, {percent(found['diff_turned'])} of all thin and bold scans became the "
            f"other, and {percent(found['diff_kept'])} are still read as their digit."
        ),
        widest=56,
    )


def _components(shares: Mapping[str, Any], images: np.ndarray, counts: list[int]) -> Any:
    told = "; ".join(f"{count}: {percent(shares[str(count)]['digit_accuracy'])}" for count in counts)
    return image_grid(
        [[picture[None] for picture in line] for line in images],
        [],
        ["real scan", *(f"{count}" for count in counts)],
        per_line=1,
        title="What an embedding says first",
        alt="Scans decoded from more and more principal components of their embeddings.",
        caption=(
            "Decoded from so many principal components of the scan’s embedding, the largest first. The digit is read right in "
            f"{told}."
        ),
        widest=56,
    )
