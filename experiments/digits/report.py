"""The report of the digits demo: what CLIP and a diffusion model made of real scans, as one page to be looked at.

`DigitsContent` is everything that the page shows, as plain arrays and numbers; `write_report` lays it out. The page opens
with the result, shows the pictures that carry it, then the measurements with how each was made, and ends with what
reproduces it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion_jax.report.curves import loss_chart
from diffusion_jax.report.figures import filmstrip, gallery, image_grid, line_chart, matrix
from diffusion_jax.report.making import how_it_was_made
from diffusion_jax.report.numbers import duration, number, percent
from diffusion_jax.report.page import Block, Columns, Figure, Mark, Page, Section, Table, Tile, write_page
from experiments.digits.content import (
    Comparison,
    DigitsContent,
    Headline,
    Metric,
    NegativePrompt,
    PromptGrid,
    Rows,
    Similarity,
    Trajectory,
)
from experiments.digits.figures import chosen_frames, guidance_charts, images_a_line, scale_name

__all__ = ["digits_page", "write_report"]


def write_report(path: Path, content: DigitsContent) -> Path:
    """Write the page to `path` (one HTML file, nothing outside it) and give the path back."""
    return write_page(path, digits_page(content))


def digits_page(content: DigitsContent) -> Page:
    """The page as a value."""
    head = content.headline
    total = sum(content.making.seconds.values())
    sections: tuple[Section | None, ...] = (
        content.clip_alone,
        Section("Prompts became handwriting", (_prompts(content.prompts),)),
        Section("Saying what not to draw", (_negative(content.negative),)),
        Section("From noise to a digit", (_trajectory(content.trajectory),)),
        Section("What guidance buys and costs", _guidance(content.guidance)),
        Section("Beside real scans", (_comparison(content.comparison),)),
        content.unclip,
        Section("How CLIP sees a batch", (_similarity(content.similarity),)),
        Section("Training", _training(content)),
        Section("Measurements", (_metrics(content.metrics),)),
        Section("How it was made", how_it_was_made(content.making)),
    )
    return Page(
        title="Handwriting from words",
        lead=(
            "A CLIP model learned to match real scans of handwritten digits with captions of what was measured on "
            "them, and a diffusion model learned to draw from CLIP’s reading of a caption. Asked for a digit at "
            f"guidance 3, it draws one that an independent classifier reads as that digit "
            f"{percent(head.digit_accuracy_3)} of the time."
            + (
                " The same model draws from CLIP’s embeddings too, and a prior makes these of texts: CLIP, turned round."
                if content.unclip
                else ""
            )
        ),
        tiles=_tiles(head),
        sections=tuple(section for section in sections if section is not None),
        foot=f"Written by diffusion-jax after {duration(total)} of computing. One file: nothing is loaded from elsewhere.",
    )


def _tiles(head: Headline) -> tuple[Tile, ...]:
    return (
        Tile("CLIP zero-shot accuracy", percent(head.zero_shot_accuracy), "on held-out scans"),
        Tile("Right digit, guidance 3", percent(head.digit_accuracy_3), "as a classifier reads it"),
        Tile("Right digit, guidance 1", percent(head.digit_accuracy_1), "without guidance"),
        Tile("Fréchet distance", f"{head.frechet:.2f}", f"two sets of real scans: {head.frechet_real:.2f}"),
        Tile("Diversity", f"{head.diversity:.2f}", "1 is as varied as real scans"),
        Tile("Thin, negative prompt", percent(head.thin_with), f"{percent(head.thin_without)} without it"),
    )


def _prompts(grid: PromptGrid) -> Figure:
    count = grid.images.shape[2]
    return image_grid(
        [list(row) for row in grid.images],
        [f"“{prompt}”" for prompt in grid.prompts],
        [scale_name(value) for value in grid.scales],
        per_line=images_a_line(count),
        alt=f"Samples for {len(grid.prompts)} prompts at {len(grid.scales)} guidance scales.",
        caption=(
            "Each row is a prompt, each column a guidance scale: how hard the model is pushed towards the words. Look "
            "from left to right: the digits become more certain and more alike, as the push takes variety away."
        ),
    )


def _negative(negative: NegativePrompt) -> Figure:
    return image_grid(
        [[negative.images_without, negative.images_with]],
        [],
        [
            f"“{negative.prompt}”: {percent(negative.thin_without)} thin",
            f"the same, with negative prompt “{negative.negative}”: {percent(negative.thin_with)} thin",
        ],
        per_line=min(8, max(2, (len(negative.images_without) + 1) // 2)),
        alt=(
            f"Samples of {negative.prompt}, {percent(negative.thin_without)} of them thin; with the negative prompt "
            f"{negative.negative}, {percent(negative.thin_with)}."
        ),
        caption=(
            "Both sets start from the same noise, image by image. A negative prompt is what the model is pushed away "
            "from: compare the same place in both, and see the strokes change."
        ),
    )


def _trajectory(path: Trajectory) -> Figure:
    last = len(path.ts) - 1
    chosen = chosen_frames(path)
    return filmstrip(
        [
            ("What the sampler holds: less noise at every step", [path.xs[i] for i in chosen]),
            (
                "What the model believes it will become",
                [path.x0_hats[i] if i < len(path.x0_hats) else None for i in chosen],
            ),
        ],
        [f"{path.ts[i]:.2f}" for i in chosen],
        title=f"“{path.prompt}”",
        alt=f"One sample of {path.prompt} in {last} steps from pure noise to a digit.",
        caption=(
            f"One sample in {last} steps, from time 1 (pure noise, left) to time 0 (a clean image, right). The lower "
            "row shows the decision being made: a blurred average of everything that fits the words, then one digit."
        ),
    )


def _guidance(rows: Rows) -> tuple[Block, ...]:
    accuracy, diversity = guidance_charts(rows)
    told = "; ".join(
        f"guidance {r['guidance']:g}: accuracy {percent(r['accuracy'])}, diversity {r['diversity']:.2f}" for r in rows
    )
    return (
        Columns(
            (
                line_chart(
                    accuracy,
                    title="The right digit more often",
                    alt=f"Accuracy against guidance scale. {told}.",
                    caption=(
                        "The share of samples that an independent classifier reads as the digit in the prompt. The axis "
                        "does not start at zero."
                    ),
                ),
                line_chart(
                    diversity,
                    title="Fewer ways to draw it",
                    alt=f"Diversity against guidance scale. {told}.",
                    caption=(
                        "How far apart the samples of one prompt are, over the same for real scans of that digit: 1 is "
                        "as varied as life, 0 the same image every time."
                    ),
                ),
            )
        ),
    )


def _comparison(pairs: Comparison) -> Figure:
    return gallery(
        [f"“{text}”" for text in pairs.captions],
        pairs.real,
        pairs.generated,
        ("real scan", "sample"),
        alt=f"{len(pairs.captions)} captions, each with the real scan it was measured on and a sample drawn from it.",
        caption=(
            "Left, a held-out scan that the model never saw; right, what it drew from that scan’s caption alone. The "
            "two should agree in what the words say, and differ in what they leave open."
        ),
    )


def _similarity(batch: Similarity) -> Figure:
    own = float((batch.values.argmax(axis=1) == np.arange(len(batch.values))).mean())
    return matrix(
        batch.values,
        batch.images,
        batch.captions,
        alt=f"Similarity of {len(batch.captions)} images and captions; {percent(own)} of images prefer their own caption.",
        caption=(
            "The stronger the colour, the more alike CLIP finds image and caption. The outlined diagonal pairs each "
            f"scan with its own caption and should stand out; {percent(own)} of these images are closest to their own. "
            "Two captions that say the same give strong cells off the diagonal, rightly."
        ),
    )


def _loss_figure(rows: Rows, title: str, caption: str) -> Figure:
    chart = loss_chart(rows)
    ends = "; ".join(f"{s.name} ends at {number(float(s.y[-1]))}" for s in chart.series if not s.faint and len(s.y))
    return line_chart(chart, title=title, alt=f"{title}: {ends}.", caption=caption)


def _training(content: DigitsContent) -> tuple[Block, ...]:
    curves = [
        _loss_figure(rows, title, caption)
        for rows, title, caption in (
            (
                content.clip_losses,
                "CLIP",
                "How badly CLIP guesses which caption of a batch belongs to which scan. Validation should fall with "
                "training; where it turns up, the model has begun to learn its scans by heart. It lies lower throughout: "
                "there are fewer captions to choose from, and no noise is added to the scans.",
            ),
            (
                content.diffusion_losses,
                "Diffusion model",
                "How far the model’s guess is from the truth, at random amounts of noise. The floor is not zero: noise "
                "hides what no one can know. The averaged weights (EMA) draw the samples; they lie lower until "
                "the learning rate has fallen.",
            ),
        )
        if rows
    ]
    blocks: list[Block] = [Columns(tuple(curves))] if curves else []
    if content.during:
        blocks.append(
            image_grid(
                [[raw, ema] for _, raw, ema in content.during],
                [f"step {step:,}" for step, _, _ in content.during],
                ["weights as trained", "averaged weights (EMA)"],
                per_line=max(len(raw) for _, raw, _ in content.during),
                title="Samples during training",
                alt=f"Samples at {len(content.during)} steps of training, from raw and from averaged weights.",
                caption=(
                    "The same noise and prompts at every step: read down to see digits emerge. The averaged "
                    "weights (EMA) are what the samples of this page are drawn with."
                ),
                widest=56,
            )
        )
    return tuple(blocks) or ("This run kept no losses and no samples of its training.",)


def _metrics(rows: Sequence[Metric]) -> Table:
    return Table(
        head=("Metric", "Value", "Target", "How it was measured"),
        rows=tuple(
            (
                row.name,
                percent(float(row.value)) if row.percent else number(row.value),
                Mark(row.target or "", row.met),
                row.how,
            )
            for row in rows
        ),
        numeric=frozenset({1}),
    )
