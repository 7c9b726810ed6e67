"""Drawings by matplotlib that follow a page: right on light and on dark paper, text kept as text.

A drawing is a function of a canvas and the colours of a palette. For a page it is drawn once, as SVG in the light colours,
and each colour is then replaced by its CSS variable and the font by the page's own; `drawing_png` draws the same on one
paper. `animation` plays point clouds, by CSS alone: there is no script in a page.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure as Canvas

from diffusion_jax.report.page import PALETTE, Figure, escape

__all__ = ["Draw", "animation", "drawing", "drawing_png", "png_of", "svg"]

Draw = Callable[[Canvas, Mapping[str, str]], None]
"""draw(canvas, colours): fills an empty matplotlib figure; colours are hex values by the names of the page's palette."""


def svg(draw: Draw, width: int, height: int, alt: str, salt: str = "") -> str:
    """The drawing as inline SVG in CSS variables, `width` by `height` points.

    Its ids are made from `alt` and `salt`: two drawings on a page must differ in one of them.
    """
    colours = {name: light for name, (light, _) in PALETTE.items()}
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": hashlib.sha256(f"{alt}{salt}{width}{height}".encode()).hexdigest(),
        "path.simplify": True,
    }
    with matplotlib.rc_context(settings):
        canvas = Canvas(figsize=(width / 72, height / 72), layout="constrained", facecolor="none")
        draw(canvas, colours)
        out = io.StringIO()
        canvas.savefig(out, format="svg", metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", out.getvalue()[out.getvalue().index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", text)  # until 3.10
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    for name, value in colours.items():
        text = text.replace(value, f"var(--{name})")
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alt)}">{text[text.index(">") + 1 :]}'


def drawing(draw: Draw, *, width: int, height: int, caption: str, alt: str, title: str = "") -> Figure:
    """The drawing as a figure as wide as the page; on a phone it keeps its size and is moved sideways."""
    body = f'<div class="drawing" style="--w:{width}px">{svg(draw, width, height, alt, caption)}</div>'
    return Figure(body=body, alt=alt, caption=caption, title=title)


def drawing_png(
    draw: Draw, *, width: int, height: int, dark: bool = False, metadata: Mapping[str, str] | None = None
) -> bytes:
    """The drawing as PNG bytes on light or dark paper, two pixels a point."""
    colours = {name: pair[dark] for name, pair in PALETTE.items()}
    canvas = Canvas(figsize=(width / 72, height / 72), dpi=144, layout="constrained", facecolor=colours["card"])
    draw(canvas, colours)
    return png_of(canvas, 144, metadata)


def png_of(canvas: Canvas, dots: int, metadata: Mapping[str, str] | None = None) -> bytes:
    """A matplotlib figure as PNG bytes."""
    out = io.BytesIO()
    canvas.savefig(out, format="png", dpi=dots, facecolor=canvas.get_facecolor(), metadata=dict(metadata or {}))
    return out.getvalue()


def animation(
    clouds: Mapping[str, Float[np.ndarray, "frames points 2"]],
    labels: Sequence[str],
    *,
    limit: float,
    seconds: float,
    alt: str,
    caption: str,
    title: str = "",
) -> Figure:
    """Clouds of points side by side, frame after frame with a label each, over and over; the last frame stays longest.

    Positions within [-limit, limit] are shown. It stands still under the pointer; where the reader asks for reduced motion
    the last frame alone is shown. `ValueError` when the frames and labels do not agree.
    """
    count = len(labels)
    if any(len(cloud) != count for cloud in clouds.values()):
        raise ValueError(f"{count} labels for clouds of {[len(cloud) for cloud in clouds.values()]} frames")
    hold = max(1, count // 4)  # the last frame, in frames
    total = count + hold

    def frame(places: np.ndarray, i: int) -> str:
        inside = places[np.abs(places).max(axis=1) < limit]
        pixels = np.round(100 * (inside * [1, -1] / limit + 1)).astype(int)
        dots = "".join(f"M{x} {y}h0" for x, y in pixels)
        return f'<g style="--i:{i}"><path d="{dots}"/><text x="4" y="14">{escape(labels[i])}</text></g>'

    parts = []
    for name, cloud in clouds.items():
        frames = "".join(frame(places, i) for i, places in enumerate(cloud))
        parts.append(f'<div><p>{escape(name)}</p><svg viewBox="0 0 200 200" aria-hidden="true">{frames}</svg></div>')
    shown, kept = 100 / total, 100 * (hold + 1) / total
    style = (
        f"<style>.flow{{--n:{len(clouds)};--step:{seconds / total:.4f}s}}.flow g{{animation-duration:{seconds}s}}"
        f"@keyframes flow{{0%{{visibility:visible}}{shown:.3f}%,100%{{visibility:hidden}}}}"
        f"@keyframes last{{0%{{visibility:visible}}{kept:.3f}%,100%{{visibility:hidden}}}}</style>"
    )
    return Figure(body=f'{style}<div class="flow">{"".join(parts)}</div>', alt=alt, caption=caption, title=title)
