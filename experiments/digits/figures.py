"""The charts and picture files of the digits report: what page and README share.

Guidance is drawn as two charts, since accuracy and variety have no axis in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion_jax.files import write_atomic
from diffusion_jax.report.curves import loss_chart
from diffusion_jax.report.figures import Chart, Series, chart_png, sheet_png
from diffusion_jax.report.numbers import Number, percent
from experiments.digits.content import DigitsContent, Rows, Trajectory

__all__ = [
    "chosen_frames",
    "guidance_charts",
    "images_a_line",
    "save_figures",
    "scale_name",
]


def scale_name(value: Number) -> str:
    """A guidance scale as a column's head."""
    return f"guidance {value:g}" + (" (off)" if value == 1 else "")


def images_a_line(count: int) -> int:
    """Images a line in a narrow cell: all of up to three, else in two lines, at most three wide."""
    return count if count <= 3 else min(3, (count + 1) // 2)


def chosen_frames(path: Trajectory) -> list[int]:
    """Indices of at most eleven states, the first and the last among them: as many as a phone shows side by side."""
    last = len(path.ts) - 1
    return sorted({round(i) for i in np.linspace(0, last, min(11, last + 1))})


def _apart(values: Sequence[Number]) -> tuple[Number, ...]:
    """Those of the ascending values that leave room for their names on an axis."""
    kept: list[Number] = []
    for value in sorted(values):
        if not kept or value - kept[-1] >= 0.1 * (max(values) - min(values)):
            kept.append(value)
    return tuple(kept)


def guidance_charts(rows: Rows) -> tuple[Chart, Chart]:
    """Accuracy in percent, from a little under its least value to 100%, and diversity from 0, against guidance."""
    scales = [row["guidance"] for row in rows]

    def chart(field: str, label: str, colour: str, share: bool, limits: tuple[Number, Number]) -> Chart:
        values = [row[field] for row in rows]
        line = Series(label, scales, values, colour=colour, marks=True)
        return Chart((line,), "guidance scale", label, percent=share, y_limits=limits, x_ticks=_apart(scales))

    lowest = min((row["accuracy"] for row in rows), default=0.0)
    highest = max((row["diversity"] for row in rows), default=1.0)
    floor = max(0.0, np.floor((lowest - 0.01) * 20) / 20)
    return (
        chart("accuracy", "samples read as the digit asked for", "s1", True, (float(floor), 1.0)),
        chart("diversity", "variety, relative to real scans", "s2", False, (0.0, max(1.05, 1.05 * highest))),
    )


def save_figures(folder: Path, content: DigitsContent) -> list[Path]:
    """Write the main figures as PNG, on light and on dark paper (`prompts.png`, `prompts-dark.png`, ...).

    Names: prompts, negative, trajectory, guidance, losses; the last two only where there are rows to draw.
    """
    grid, negative, path = content.prompts, content.negative, content.trajectory
    kept = [i for i in chosen_frames(path) if i < len(path.x0_hats)]
    settings = {"Software": "diffusion-jax"}
    made = []
    for dark in (False, True):
        pictures = {
            "prompts": sheet_png(
                [list(row) for row in grid.images],
                grid.prompts,
                [scale_name(value) for value in grid.scales],
                per_line=images_a_line(grid.images.shape[2]),
                scale=9,
                dark=dark,
                metadata={**settings, "prompts": "; ".join(grid.prompts), "guidance": str(list(grid.scales))},
            ),
            "negative": sheet_png(
                [[negative.images_without], [negative.images_with]],
                [
                    f"{negative.prompt} ({percent(negative.thin_without)} thin)",
                    f"with negative prompt {negative.negative} ({percent(negative.thin_with)} thin)",
                ],
                ["the same noise above and below, image by image"],
                per_line=8,
                dark=dark,
                metadata={**settings, "prompt": negative.prompt, "negative": negative.negative},
            ),
            "trajectory": sheet_png(
                [[path.xs[i][None] for i in kept], [path.x0_hats[i][None] for i in kept]],
                ["what the sampler holds", "what the model believes it will become"],
                [f"t = {path.ts[i]:.2f}" for i in kept],
                per_line=1,
                scale=10,
                dark=dark,
                metadata={**settings, "prompt": path.prompt},
            ),
        }
        if content.guidance:
            accuracy, diversity = guidance_charts(content.guidance)
            titled = (("The right digit more often", accuracy), ("Fewer ways to draw it", diversity))
            pictures["guidance"] = chart_png(titled, dark=dark, metadata=settings)
        curves = [("CLIP", content.clip_losses), ("Diffusion model", content.diffusion_losses)]
        drawn = [(title, loss_chart(rows)) for title, rows in curves if rows]
        if drawn:
            pictures["losses"] = chart_png(drawn, dark=dark, metadata=settings)
        for name, data in pictures.items():
            made.append(write_atomic(folder / f"{name}{'-dark' if dark else ''}.png", data))
    return made
