"""The losses of a run as a chart: what was logged, faint, behind a mean that shows where it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion_jax.report.figures import Chart, Series

__all__ = ["loss_chart", "running_mean"]

Rows = Sequence[Mapping[str, Any]]


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the last `width` values (fewer at the start), so that no point knows the future."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - width)
    return (total[end] - total[start]) / (end - start)


def loss_chart(rows: Rows) -> Chart:
    """Raw loss faint behind its mean over the past fortieth of the run, and whatever validation rows there are.

    A row is {"step", "loss"?, "val_loss"?, "val_loss_ema"?}, as `train.runlog` writes them.
    """
    trained = [row for row in rows if row.get("loss") is not None]
    steps, losses = [row["step"] for row in trained], np.array([row["loss"] for row in trained], np.float64)
    width = max(1, len(losses) // 40)
    series = [Series("training, running mean", steps, running_mean(losses, width), colour="s1")]
    if width > 1:
        series.insert(0, Series("training, as logged", steps, losses, colour="s1", faint=True))
    for field, name, colour, dashed in (
        ("val_loss", "validation", "s2", False),
        ("val_loss_ema", "validation, averaged weights", "s3", True),
    ):
        seen = [row for row in rows if row.get(field) is not None]
        if seen:
            series.append(
                Series(name, [r["step"] for r in seen], [r[field] for r in seen], colour, dashed, marks=len(seen) < 30)
            )
    return Chart(tuple(series), "training step", "loss (log scale)", log_y=True)
