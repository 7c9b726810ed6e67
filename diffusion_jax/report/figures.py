"""Figures for a page: charts, image grids, filmstrips, similarity matrices, galleries of pairs, bars.

Each function returns a `page.Figure` that is right on light and on dark paper, and on a phone as on a desktop:

- A chart is drawn by matplotlib as SVG that follows the page's palette and font (`report.drawings`).
- An image of one channel is black ink with the image as opacity, and is inverted on dark paper; labels, rulers and
  matrix cells are HTML around the pictures, which wraps and resizes, where text in a bitmap would shrink.

`chart_png` and `sheet_png` give the same as PNG bytes on one paper, for places that show only those.
"""

from __future__ import annotations

import base64
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from diffusion_jax.report.drawings import png_of, svg
from diffusion_jax.report.page import PALETTE, Figure, escape
from diffusion_jax.report.pictures import encode_png, sprite

__all__ = [
    "Chart",
    "Series",
    "bars",
    "chart_png",
    "draw_chart",
    "filmstrip",
    "gallery",
    "image_grid",
    "line_chart",
    "matrix",
    "sheet_png",
]

Number = float | int
Images = Float[np.ndarray, "n h w c"]
Group = Float[np.ndarray, "_ h w c"]  # of any number of images, beside groups of other numbers
EDGE = 64  # pixels to which a small image is enlarged before it is embedded: sharp at 64 CSS pixels, soft beyond


@dataclass(frozen=True, eq=False)
class Series:
    """One line: `colour` is a name of the palette (s1 to s4); `faint` is for raw values behind their average."""

    name: str
    x: Sequence[Number] | np.ndarray
    y: Sequence[Number] | np.ndarray
    colour: str = "s1"
    dashed: bool = False
    faint: bool = False
    marks: bool = False


@dataclass(frozen=True, eq=False)
class Chart:
    """Lines over a shared x; the y axis is linear or logarithmic, in plain numbers or in percent (y of 1 is 100%)."""

    series: tuple[Series, ...]
    x_label: str
    y_label: str
    log_y: bool = False
    percent: bool = False
    y_limits: tuple[Number, Number] | None = None
    x_ticks: tuple[Number, ...] | None = None


def draw_chart(axes: Axes, chart: Chart, colours: Mapping[str, str]) -> None:
    """Draw the chart on matplotlib axes in the given colours (a hex value for each name of the palette)."""
    for line in chart.series:
        axes.plot(
            line.x,
            line.y,
            color=colours[line.colour],
            linewidth=1.0 if line.faint else 2.0,
            alpha=0.35 if line.faint else 1.0,
            linestyle=(0, (4, 2.2)) if line.dashed else "-",
            marker="o" if line.marks else None,
            markersize=5,
            markeredgecolor=colours["card"],
            markeredgewidth=1,
            clip_on=False,
            solid_capstyle="round",
            label=line.name,
        )
    axes.set_title(chart.y_label, loc="left", fontsize=12.5, color=colours["muted"], pad=12, x=0)
    axes.set_xlabel(chart.x_label, fontsize=12.5, color=colours["muted"], labelpad=6)
    axes.tick_params(labelsize=12.5, labelcolor=colours["muted"], length=0, pad=6)
    axes.grid(axis="y", color=colours["rule"], linewidth=1)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colours["muted"])
    axes.margins(x=0.01, y=0.08)
    if chart.y_limits is not None:
        axes.set_ylim(*chart.y_limits)
    ticks = FixedLocator(chart.x_ticks) if chart.x_ticks else MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    axes.xaxis.set_major_locator(ticks)
    plain = FuncFormatter(lambda value, _: f"{value:,.6g}")
    axes.xaxis.set_major_formatter(plain)
    if chart.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 300 else (1.0, 2.0, 5.0)))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.4g}%") if chart.percent else plain)


def _svg(chart: Chart, width: int, height: int, alt: str) -> str:
    """The chart as inline SVG in CSS variables; ids are salted by its content, so that two on a page never clash."""
    content = [chart.x_label, chart.y_label, [(s.name, list(s.x), list(s.y)) for s in chart.series]]

    def draw(canvas: Canvas, colours: Mapping[str, str]) -> None:
        draw_chart(canvas.add_subplot(), chart, colours)

    return svg(draw, width, height, alt, repr(content))


def _key(series: Sequence[Series]) -> str:
    """Names beside a sample of each line; nothing when there is one line."""
    if len(series) < 2:
        return ""

    def item(line: Series) -> str:
        dash = ' stroke-dasharray="6 3.5"' if line.dashed else ""
        faint = ' opacity=".4"' if line.faint else ""
        dot = f'<circle cx="13" cy="5" r="3.6" fill="var(--{line.colour})"/>' if line.marks else ""
        stroke = f'stroke="var(--{line.colour})" stroke-width="{1.5 if line.faint else 2.5}"'
        sample = f'<line x1="0" y1="5" x2="26" y2="5" {stroke}{dash}{faint}/>{dot}'
        return f'<li><svg viewBox="0 0 26 10" aria-hidden="true">{sample}</svg>{escape(line.name)}</li>'

    return f'<ul class="key">{"".join(map(item, series))}</ul>'


def line_chart(chart: Chart, *, title: str, caption: str, alt: str) -> Figure:
    """Lines with a key above them, drawn for the width of half a desktop or a whole phone."""
    drawing = f'<div class="chart">{_svg(chart, 400, 270, alt)}</div>'
    return Figure(body=_key(chart.series) + drawing, alt=alt, caption=caption, title=title)


def _image(images: Images, columns: int, alt: str, widest: int = 0, part: float = 1.0, share: float = 1.0) -> str:
    """One picture of the images, as a data URI; no wider than `widest` CSS pixels an image (0: as wide as its place).

    It takes this `part` of its place's width, and this `share` of it on a phone where places lie one below the other.
    """
    longest = max(images.shape[1:3])
    scale = max(1, round(EDGE / longest))
    coloured = images.shape[-1] == 3
    edge = max(1, round(scale * longest / EDGE)) if coloured else 0
    drawn = sprite(images, columns, scale, gap=max(2, scale // 2), edge=edge)
    data = base64.b64encode(encode_png(drawn)).decode()
    rules = [f"max-width:{widest * min(columns, len(images))}px"] if widest else []
    rules += [f"--{name}:{value:.4g}" for name, value in (("part", part), ("share", share)) if value < 1]
    kind = "" if coloured else ' class="ink"'
    style = f' style="{";".join(rules)}"' if rules else ""
    return f'<img{kind}{style} alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def image_grid(
    cells: Sequence[Sequence[Group]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    alt: str,
    caption: str,
    title: str = "",
    per_line: int = 0,
    widest: int = 96,
    marks: Mapping[tuple[int, int], str] | None = None,
) -> Figure:
    """Groups of images in a table: `cells[r][c]` ([n, h, w, c] in [-1, 1]) under `columns[c]`, beside `rows[r]`.

    A group is laid out `per_line` to a line (0: as a near-square), and of no images is an empty place. Columns of fewer images
    are narrower, so that all images have one size. With no `rows` the cells have heads alone. On a
    phone each row's label stands above its cells, and cells of more than three to a line stand one below the other, as do
    columns of several widths. Cells (r, c) in `marks` are outlined, with what is said of them below. `ValueError` when labels
    and cells do not agree.
    """
    if any(len(line) != len(columns) for line in cells) or (rows and len(rows) != len(cells)):
        shape = [len(line) for line in cells]
        raise ValueError(f"cells by row {shape} do not agree with {len(rows)} row and {len(columns)} column labels")
    # Images to a line of each column, by which it is as wide as its images; near-squares are all in places of one width.
    wide = [max([1, *(min(per_line, len(line[c])) for line in cells)]) for c in range(len(columns))]
    uneven = len(set(wide)) > 1
    parts = ['<div class="corner"></div>' if rows else ""]
    parts += [f'<div class="head">{escape(name)}</div>' for name in columns]
    for r, line in enumerate(cells):
        if rows:
            parts.append(f'<div class="label">{escape(rows[r])}</div>')
        for c, (name, group) in enumerate(zip(columns, line, strict=True)):
            mark = (marks or {}).get((r, c), "")
            row = rows[r] if rows else f"row {r + 1}" if len(cells) > 1 else ""
            said = ", ".join(part for part in (row, name, mark) if part)
            if not len(group):
                parts.append('<div class="none"></div>')
                continue
            wrap = per_line or math.ceil(math.sqrt(len(group)))
            here = min(per_line, len(group))
            parted = (here / wide[c], here / max(wide)) if per_line else (1.0, 1.0)
            picture = _image(group, wrap, f"{said}: {len(group)} images", widest, *parted)
            own = f'<div class="own" aria-hidden="true">{escape(name)}</div>'
            if mark:
                picture = (
                    f'<div class="marked">{picture}</div><div class="mark" aria-hidden="true">{escape(mark)}</div>'
                )
            parts.append(f"<div>{own}{picture}</div>")
    kind = ("" if rows else " bare") + (" stack" if per_line > 3 or (uneven and sum(wide) > 8) else "")
    cells_wide = f";--cells:{' '.join(f'minmax(0,{count}fr)' for count in wide)}" if uneven else ""
    body = f'<div class="grid{kind}" style="--n:{len(columns)}{cells_wide}">{"".join(parts)}</div>'
    return Figure(body=body, alt=alt, caption=caption, title=title)


def filmstrip(
    strips: Sequence[tuple[str, Sequence[Float[np.ndarray, "h w c"] | None]]],
    ticks: Sequence[str],
    *,
    alt: str,
    caption: str,
    title: str = "",
) -> Figure:
    """Rows of frames over a shared ruler: each strip is (label, one frame for each tick, None where there is none)."""
    parts = []
    for label, frames in strips:
        parts.append(f'<p class="label">{escape(label)}</p>')
        for tick, frame in zip(ticks, frames, strict=True):
            shown = "" if frame is None else _image(frame[None], 1, f"{label}, {tick}")
            parts.append(f'<div class="cell">{shown}</div>')
    parts += [f'<div class="tick">{escape(tick)}</div>' for tick in ticks]
    body = f'<div class="strip" style="--n:{len(ticks)}">{"".join(parts)}</div>'
    return Figure(body=body, alt=alt, caption=caption, title=title)


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def matrix(
    values: Float[np.ndarray, "b b"],
    images: Float[np.ndarray, "b h w c"],
    captions: Sequence[str],
    *,
    alt: str,
    caption: str,
    title: str = "",
) -> Figure:
    """A heat map of pairs: `values[i, j]` for image i and caption j, captions down the side, images along the top.

    The ramp runs from the least value to the greatest; the diagonal (a caption and its own image) is outlined. Each
    cell tells its value when pointed at. On a phone captions become numbers, and are listed below.
    """
    low, high = float(values.min()), float(values.max())
    strength = (values - low) / (high - low if high > low else 1.0)
    pictures = [_image(images[i : i + 1], 1, f"image {i + 1}: {text}") for i, text in enumerate(captions)]
    parts = ['<div class="label"></div>', *(f"<div>{picture}</div>" for picture in pictures)]
    for j, text in enumerate(captions):
        parts.append(f'<div class="label"><span>{escape(text)}</span><b class="number">{j + 1}</b></div>')
        for i in range(len(captions)):
            own = " same" if i == j else ""
            tip = f"image {i + 1} and caption {j + 1}: {_signed(float(values[i, j]))}"
            parts.append(
                f'<div class="cell{own}" title="{escape(tip)}"><i style="opacity:{strength[i, j]:.2f}"></i></div>'
            )
    names = "".join(f"<li>{escape(text)}</li>" for text in captions)
    ramp = f'<div class="ramp"><span>{_signed(low)}</span><b></b><span>{_signed(high)} cosine similarity</span></div>'
    body = f'<div class="matrix" style="--n:{len(captions)}">{"".join(parts)}</div><ol>{names}</ol>{ramp}'
    return Figure(body=body, alt=alt, caption=caption, title=title)


def gallery(
    captions: Sequence[str],
    first: Images,
    second: Images,
    heads: tuple[str, str],
    *,
    alt: str,
    caption: str,
    title: str = "",
) -> Figure:
    """Pairs of images, each over its caption: `first[i]` and `second[i]` under the two heads."""
    items = []
    for text, left, right in zip(captions, first, second, strict=True):
        pair = "".join(
            f"<div><small>{escape(head)}</small>{_image(image[None], 1, f'{head}: {text}')}</div>"
            for head, image in zip(heads, (left, right), strict=True)
        )
        items.append(f'<li><div class="pair">{pair}</div><p>{escape(text)}</p></li>')
    return Figure(body=f'<ul class="gallery">{"".join(items)}</ul>', alt=alt, caption=caption, title=title)


def bars(values: Mapping[str, tuple[Number, str]], *, alt: str, caption: str, title: str = "") -> Figure:
    """Horizontal bars from zero: name -> (a value of at least 0, the same as text)."""
    most = max((value for value, _ in values.values()), default=0.0) or 1.0
    parts = [
        f'<span>{escape(name)}</span><span><i style="width:{100 * value / most:.2f}%"></i></span>'
        f"<span>{escape(said)}</span>"
        for name, (value, said) in values.items()
    ]
    return Figure(body=f'<div class="bars">{"".join(parts)}</div>', alt=alt, caption=caption, title=title)


def _face(dark: bool) -> dict[str, str]:
    return {name: pair[dark] for name, pair in PALETTE.items()}


def _paint(images: Images, columns: int, scale: int, dark: bool) -> UInt8[np.ndarray, "y x 3"]:
    """A sprite laid on the card: ink in the face's ink colour."""
    face = _face(dark)
    layer = sprite(images, columns, scale, gap=max(2, scale // 2)).astype(np.float32)
    card, ink = (np.array([int(face[name][i : i + 2], 16) for i in (1, 3, 5)], np.float32) for name in ("card", "ink"))
    opacity = layer[..., -1:] / 255
    top = layer[..., :3] if layer.shape[-1] == 4 else np.broadcast_to(ink, (*layer.shape[:2], 3))
    return np.round(top * opacity + card * (1 - opacity)).astype(np.uint8)


def sheet_png(
    cells: Sequence[Sequence[Images]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    per_line: int,
    scale: int = 8,
    dark: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The table of `image_grid` as one PNG: labels in matplotlib's own sans serif, wrapped in a column of 300 pixels.

    The head of a column is wrapped to its width, which eight letters have in any case.
    """
    painted = [[_paint(group, per_line, scale, dark) for group in line] for line in cells]
    face, side, gap, edge, dots, letter = _face(dark), 300, 3 * scale, 28, 100, 10
    widths = [max(8 * letter, *(line[c].shape[1] for line in painted)) for c in range(len(columns))]
    heads = [textwrap.wrap(name, wide // letter) for name, wide in zip(columns, widths, strict=True)]
    top = 14 + 22 * max(1, *(len(lines) for lines in heads))
    heights = [max(cell.shape[0] for cell in line) for line in painted]
    lefts = [edge + side + sum(widths[:c]) + gap * c for c in range(len(columns))]
    tops = [edge + top + sum(heights[:r]) + gap * r for r in range(len(painted))]
    width, height = lefts[-1] + widths[-1] + edge, tops[-1] + heights[-1] + edge
    canvas = Canvas(figsize=(width / dots, height / dots), dpi=dots, facecolor=face["card"])

    def write(x: int, y: int, text: str, size: int, colour: str, align: str) -> None:
        canvas.text(
            x / width, 1 - y / height, text, size=size, color=face[colour], va=align, linespacing=1.3, parse_math=False
        )

    for x, lines in zip(lefts, heads, strict=True):
        write(x, edge + top - 14, "\n".join(lines), 12, "muted", "bottom")
    for y, tall, name, line in zip(tops, heights, rows, painted, strict=True):
        write(edge, y + tall // 2, textwrap.fill(name, 24), 15, "ink", "center")
        for x, cell in zip(lefts, line, strict=True):
            canvas.figimage(cell, x, height - y - cell.shape[0], origin="upper")
    return png_of(canvas, dots, metadata)


def chart_png(
    charts: Sequence[tuple[str, Chart]], *, dark: bool = False, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Charts side by side as one PNG, each under its title, with a key where there are several lines."""
    face = _face(dark)
    layout = ConstrainedLayoutEngine(w_pad=0.25, h_pad=0.2, wspace=0.06)
    canvas = Canvas(figsize=(6.0 * len(charts), 4.3), dpi=140, layout=layout, facecolor=face["card"])
    for i, (title, chart) in enumerate(charts):
        axes = canvas.add_subplot(1, len(charts), i + 1)
        draw_chart(axes, chart, face)
        axes.set_title(title + "\n", loc="left", fontsize=14, color=face["ink"], fontweight="bold", pad=12)
        axes.text(0, 1.045, chart.y_label, transform=axes.transAxes, fontsize=12.5, color=face["muted"])
        if len(chart.series) > 1:
            axes.legend(frameon=False, fontsize=12, labelcolor=face["ink"])
    return png_of(canvas, 140, metadata)
