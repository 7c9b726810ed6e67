"""The picture files of the emoji page, for places that show no page: prompts, styles side by side, the negative prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion_jax.files import write_atomic
from diffusion_jax.report.figures import Chart, Series, sheet_png
from diffusion_jax.report.numbers import Number
from experiments.digits.measures import Evaluation

__all__ = ["matrix_cells", "save_figures", "scale_name", "sweep_charts"]

HELD = "never seen"


def scale_name(value: Number) -> str:
    """A guidance scale as a column's head."""
    return f"guidance {value:g}" + (" (off)" if value == 1 else "")


def matrix_cells(evaluation: Evaluation) -> list[list[np.ndarray]]:
    """Of each subject and style the real picture and the drawn one, [2, h, w, c]."""
    real, drawn = evaluation.arrays["matrix_real"], evaluation.arrays["matrix"]
    return [[np.stack([a, b]) for a, b in zip(*row, strict=True)] for row in zip(real, drawn, strict=True)]


def sweep_charts(rows: Sequence[dict]) -> list[tuple[str, Chart]]:
    """Style (where a reader reads it) and subject in percent, and the Frechet distance, against guidance."""
    scales = [row["guidance"] for row in rows]
    right = [
        Series(name, scales, [row[field] for row in rows], colour=colour, marks=True)
        for field, name, colour in (
            ("style_right", "the style asked for, by the reader", "s1"),
            ("subject_clip", "the subject among the first five, by CLIP", "s3"),
        )
        if rows[0][field] is not None
    ]
    distance = Series("distance", scales, [row["frechet"] for row in rows], colour="s2", marks=True)
    ticks = tuple(scales)
    return [
        (
            "Style and subject",
            Chart(tuple(right), "guidance scale", "right", percent=True, y_limits=(0, 1), x_ticks=ticks),
        ),
        ("Distance from real ones", Chart((distance,), "guidance scale", "Fréchet distance", x_ticks=ticks)),
    ]


def save_figures(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Writes prompts, styles (where there are several) and negative as PNG, on light and on dark paper."""
    arrays, notes = evaluation.arrays, evaluation.notes
    credits = {"Software": "diffusion-jax", "Source": "; ".join(notes["credits"])}
    negative = evaluation.metrics["negative_prompt"]["negative"]
    made = []
    for dark in (False, True):
        sheets = {
            "prompts": sheet_png(
                [list(row) for row in arrays["grid"]],
                notes["grid_prompts"],
                [scale_name(value) for value in notes["grid_scales"]],
                per_line=arrays["grid"].shape[2],
                scale=2,
                dark=dark,
                metadata=credits,
            ),
            "negative": sheet_png(
                [[arrays["negative_without"]], [arrays["negative_with"]]],
                ["as asked", f"with negative prompt {negative}"],
                ["the same noise above and below, image by image"],
                per_line=8,
                scale=2,
                dark=dark,
                metadata=credits,
            ),
        }
        if "matrix" in arrays:
            held = arrays["matrix_held"]
            sheets["styles"] = sheet_png(
                matrix_cells(evaluation),
                [
                    f"{name} ({notes['styles'][at]} {HELD})"
                    for name, at in zip(notes["matrix_subjects"], held, strict=True)
                ],
                [f"{name}: real, drawn" for name in notes["styles"]],
                per_line=2,
                scale=3,
                dark=dark,
                metadata=credits,
            )
        for name, data in sheets.items():
            made.append(write_atomic(folder / f"{name}{'-dark' if dark else ''}.png", data))
    return made
