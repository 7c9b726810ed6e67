"""The drawings of the spiral: each is a function (canvas, colours) made by a function of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from diffusion_jax.report.drawings import Draw

CLASS_COLOURS = ("s1", "s2", "s3")
SHOWN = 500
"""Points of a cloud that are drawn."""


def bare(axes: Axes, colours: Mapping[str, str], limit: float, title: str = "") -> None:
    """Square axes over [-limit, limit] without ticks, the title above on the left."""
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(colours["rule"])
    axes.set_title(title, loc="left", fontsize=11.5, color=colours["muted"], pad=6)


def dots(axes: Axes, points: np.ndarray, colour: str, size: float = 2.2, alpha: float = 0.75) -> None:
    """A cloud without outlines."""
    axes.plot(points[:, 0], points[:, 1], "o", markersize=size, color=colour, alpha=alpha, markeredgewidth=0)


def clouds(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]],
    points: np.ndarray,
    *,
    limits: Sequence[float] | None = None,
    classes: Any = None,
) -> Draw:
    """Panels of titled samples over the data in grey; `limits` by column; `classes` [n] colours the samples."""

    def draw(canvas: Canvas, colours: Mapping[str, str]) -> None:
        grid = canvas.subplots(len(rows), len(rows[0]), squeeze=False)
        for line, row in zip(grid, rows, strict=True):
            for c, (axes, (title, cloud)) in enumerate(zip(line, row, strict=True)):
                bare(axes, colours, limits[c] if limits else 1.35, title)
                dots(axes, points, colours["muted"], 2.6, 0.5)
                if classes is None:
                    dots(axes, cloud[:SHOWN], colours["s1"])
                else:
                    for k, colour in enumerate(CLASS_COLOURS):
                        dots(axes, cloud[:SHOWN][classes[:SHOWN] == k], colours[colour])

    return draw


def forward(levels: Sequence[tuple[str, np.ndarray]], times: np.ndarray, paths: np.ndarray, points: np.ndarray) -> Draw:
    """Noised marginals with a dozen walks: the same walks in every panel up to its time."""

    def draw(canvas: Canvas, colours: Mapping[str, str]) -> None:
        grid = canvas.subplots(1, len(levels))
        for axes, (title, cloud) in zip(grid, levels, strict=True):
            bare(axes, colours, max(1.35, float(np.quantile(np.abs(cloud), 0.995))), title)
            dots(axes, cloud[:SHOWN], colours["s1"], 2.0, 0.55)
            dots(axes, points, colours["muted"], 1.6, 0.6)
            at = int(np.argmin(np.abs(paths[:, : len(cloud)] - cloud[None]).max(axis=(1, 2))))
            for walk in range(3):
                axes.plot(*paths[: at + 1, walk].T, color=colours["s2"], linewidth=1.0)
                axes.plot(*paths[at, walk], "o", color=colours["s2"], markersize=4)

    return draw


def fields(
    columns: Sequence[tuple[str, float]],
    rows: Sequence[tuple[str, Sequence[np.ndarray]]],
    places: np.ndarray,
    points: Any,
) -> Draw:
    """Arrows at `places` [n, 2] (unit square coordinates, scaled by each column's limit) for every row and column.

    Lengths are drawn by their square root, or the short arrows beside the data could not be seen.
    """

    def draw(canvas: Canvas, colours: Mapping[str, str]) -> None:
        grid = canvas.subplots(len(rows), len(columns), squeeze=False)
        for r, (name, arrows) in enumerate(rows):
            for c, ((title, limit), arrow) in enumerate(zip(columns, arrows, strict=True)):
                axes = grid[r, c]
                bare(axes, colours, limit, title if r == 0 else "")
                dots(axes, points, colours["s2"], 2.0, 0.9)
                length = np.linalg.norm(arrow, axis=1, keepdims=True)
                drawn = arrow / np.sqrt(np.maximum(length, 1e-6) * length.max()) * limit / 5.5
                axes.quiver(
                    *(places * limit).T, *drawn.T, color=colours["s1"], angles="xy", scale_units="xy",
                    scale=1, width=0.006, headwidth=4,
                )  # fmt: skip
                if c == 0:
                    axes.set_ylabel(name, fontsize=11.5, color=colours["muted"])

    return draw


def agreement(x: np.ndarray, y: np.ndarray, x_label: str, y_label: str) -> Draw:
    """y against x with the line where they are equal."""

    def draw(canvas: Canvas, colours: Mapping[str, str]) -> None:
        axes = canvas.subplots()
        low, high = float(min(x.min(), y.min())) - 0.3, float(max(x.max(), y.max())) + 0.3
        axes.plot([low, high], [low, high], color=colours["muted"], linewidth=1, dashes=(4, 3))
        dots(axes, np.stack([x, y], axis=1), colours["s1"], 4.5, 0.7)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.set_xlabel(x_label, fontsize=12, color=colours["muted"])
        axes.set_ylabel(y_label, fontsize=12, color=colours["muted"])
        axes.tick_params(labelsize=11.5, labelcolor=colours["muted"], color=colours["rule"])
        axes.patch.set_visible(False)
        for spine in axes.spines.values():
            spine.set_color(colours["rule"])

    return draw


def lattice(count: int = 13) -> np.ndarray:
    """Places of arrows, [count^2, 2] in [-.92, .92]^2."""
    line = np.linspace(-0.92, 0.92, count)
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2).astype(np.float32)
