"""A report as one HTML file: a title, headline numbers, and sections of prose, figures, tables and details.

The file stands alone: pictures are data URIs or inline SVG, there is no script, and nothing is fetched, so that it can
be mailed, archived beside a run, or opened from a read-only disk years later. It has a light and a dark face by
`prefers-color-scheme`, and is laid out for a phone of 360 px as for a desktop.

A page is a value: frozen dataclasses that hold plain text, which `render` escapes. `Figure.body` alone holds
markup, which `report.figures` makes. Colours come from `PALETTE`, as CSS variables; a picture that uses
the same names is right in both faces.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from pathlib import Path

from diffusion_jax.files import write_atomic

__all__ = [
    "PALETTE",
    "Code",
    "Columns",
    "Details",
    "Figure",
    "Mark",
    "Page",
    "Section",
    "Table",
    "Tile",
    "escape",
    "render",
    "write_page",
]

PALETTE: dict[str, tuple[str, str]] = {
    # name: (light, dark). Light values are unique, so that a drawing in them can be recoloured by name.
    "page": ("#f6f6f4", "#121316"),
    "card": ("#fefefe", "#1a1c20"),
    "ink": ("#1a1b1e", "#ececea"),
    "muted": ("#5a5e66", "#a3a7af"),
    "rule": ("#dededa", "#32353b"),
    "s1": ("#1f5fae", "#7db0f5"),
    "s2": ("#b8501c", "#f0a070"),
    "s3": ("#2b7a4b", "#74c793"),
    "s4": ("#7a4aa8", "#c3a0ec"),
    "good": ("#1e7a45", "#6bca90"),
    "bad": ("#b3302b", "#f28b82"),
}


@dataclass(frozen=True)
class Tile:
    """One headline number: what it is, its value as text, and a line that puts it in proportion."""

    label: str
    value: str
    note: str = ""
    met: bool | None = None


@dataclass(frozen=True)
class Figure:
    """A picture: `body` is markup (an svg, or images), `alt` says it in words, `caption` tells what to look for."""

    body: str
    alt: str
    caption: str
    title: str = ""


@dataclass(frozen=True)
class Columns:
    """Figures side by side where there is room, one below the other where there is not."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Mark:
    """A table cell with a verdict: met, missed, or (None) neither."""

    text: str
    met: bool | None = None


@dataclass(frozen=True)
class Table:
    """Rows of text cells under a head; `numeric` names the columns (from 0) that are set right and in tabular figures."""

    head: tuple[str, ...]
    rows: tuple[tuple[str | Mark, ...], ...]
    numeric: frozenset[int] = frozenset()
    caption: str = ""


@dataclass(frozen=True)
class Code:
    """Text in a fixed-width face, line breaks kept: commands, a configuration."""

    text: str


@dataclass(frozen=True)
class Details:
    """Blocks behind a one-line summary that opens on a click."""

    summary: str
    blocks: tuple[Block, ...]


Block = str | Figure | Columns | Table | Code | Details
"""A plain string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """The whole report. `foot` is a line of small print."""

    title: str
    lead: str
    tiles: tuple[Tile, ...] = ()
    sections: tuple[Section, ...] = ()
    foot: str = ""


def escape(text: str) -> str:
    """Text made safe as HTML content and as a quoted attribute."""
    return html.escape(text, quote=True)


def anchor(heading: str) -> str:
    """A heading as the name of a place in the page: letters and numerals joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") or "section"


def _verdict(met: bool | None) -> str:
    if met is None:
        return ""
    return f'<span class="{"good" if met else "bad"}">{"✓ met" if met else "✗ missed"}</span>'


def _tile(tile: Tile) -> str:
    note = " ".join(part for part in (escape(tile.note), _verdict(tile.met)) if part)
    return (
        f'<div class="tile"><dt>{escape(tile.label)}</dt><dd class="value">{escape(tile.value)}</dd>'
        f'<dd class="note">{note}</dd></div>'
    )


def _figure(figure: Figure) -> str:
    title = f'<p class="title">{escape(figure.title)}</p>' if figure.title else ""
    return (
        f'<figure aria-label="{escape(figure.alt)}"><div class="plate">{title}{figure.body}</div>'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    def cell(column: int, content: str | Mark) -> str:
        mark = content if isinstance(content, Mark) else Mark(content)
        numeric = ' class="num"' if column in table.numeric else ""
        inner = " ".join(part for part in (escape(mark.text), _verdict(mark.met)) if part)
        return f'<td{numeric} data-head="{escape(table.head[column])}"><span>{inner or "–"}</span></td>'

    def row(cells: tuple[str | Mark, ...]) -> str:
        if len(cells) != len(table.head):
            raise ValueError(f"a row of {len(cells)} cells under a head of {len(table.head)}: {cells}")
        return "<tr>" + "".join(cell(i, content) for i, content in enumerate(cells)) + "</tr>"

    head = "".join(
        f'<th scope="col"{" class=num" if i in table.numeric else ""}>{escape(name)}</th>'
        for i, name in enumerate(table.head)
    )
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    body = "".join(row(cells) for cells in table.rows)
    return f'<div class="plate table"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _block(block: Block) -> str:
    match block:
        case str():
            return f"<p>{escape(block)}</p>"
        case Figure():
            return _figure(block)
        case Columns():
            return f'<div class="columns">{"".join(map(_figure, block.figures))}</div>'
        case Table():
            return _table(block)
        case Code():
            # an option is kept whole where a long command wraps: its hyphens are no place to break
            text = re.sub(r"(?<!\S)-\S+", r"<span>\g<0></span>", escape(block.text))
            return f"<pre><code>{text}</code></pre>"
        case Details():
            inner = "".join(map(_block, block.blocks))
            return f"<details><summary>{escape(block.summary)}</summary>{inner}</details>"


def _section(section: Section) -> str:
    blocks = "".join(map(_block, section.blocks))
    return f'<section id="{anchor(section.heading)}"><h2>{escape(section.heading)}</h2>{blocks}</section>'


def render(page: Page) -> str:
    """The page as HTML text: one document, nothing outside it."""
    tiles = f'<dl class="tiles">{"".join(map(_tile, page.tiles))}</dl>' if page.tiles else ""
    links = "".join(f'<a href="#{anchor(s.heading)}">{escape(s.heading)}</a>' for s in page.sections)
    nav = f'<nav aria-label="Sections">{links}</nav>' if len(page.sections) > 2 else ""
    foot = f"<footer>{escape(page.foot)}</footer>" if page.foot else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(page.title)}</title><style>{_css()}</style></head><body><main>"
        f'<header><h1>{escape(page.title)}</h1><p class="lead">{escape(page.lead)}</p></header>'
        f"{tiles}{nav}{''.join(map(_section, page.sections))}{foot}</main></body></html>\n"
    )


def write_page(path: Path, page: Page) -> Path:
    """Render and write the page, whole or not at all."""
    return write_atomic(path, render(page).encode())


def _css() -> str:
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in PALETTE.items()) for i in (0, 1))
    faces = f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}img.ink{{filter:invert(1)}}}}"
    return faces + re.sub(r"\s*\n\s*", "", STYLE)


STYLE = """
:root{color-scheme:light dark;--sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
--mono:ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--page);color:var(--ink);font:17px/1.55 var(--sans)}
main{max-width:1120px;margin:0 auto;padding:clamp(28px,6vw,72px) clamp(16px,4vw,40px) 64px}
h1{font-size:clamp(30px,5vw,46px);line-height:1.1;letter-spacing:-.022em;font-weight:680;margin:0 0 .4em;
text-wrap:balance}
h2{font-size:25px;line-height:1.25;letter-spacing:-.012em;font-weight:650;margin:0 0 .5em;text-wrap:balance}
p{max-width:68ch;margin:0 0 1.1em;text-wrap:pretty}
.lead{font-size:clamp(18px,2.1vw,20px);line-height:1.5;max-width:64ch}
section{margin-top:64px;scroll-margin-top:20px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(155px,1fr));gap:12px;margin:32px 0 0}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:14px 16px 13px;
display:flex;flex-direction:column}
.tile dt{font-size:14.5px;line-height:1.3;font-weight:560}
.tile dd{margin:0}
.tile .value{order:-1;font-size:30px;line-height:1.2;font-weight:640;letter-spacing:-.025em;white-space:nowrap;
font-variant-numeric:tabular-nums;margin:0 0 4px}
.tile .note{font-size:13px;line-height:1.35;color:var(--muted);margin-top:3px;text-wrap:balance}
.good,.bad{font-weight:600;white-space:nowrap}
.good{color:var(--good)}
.bad{color:var(--bad)}
nav{display:flex;flex-wrap:wrap;gap:4px 20px;margin-top:28px;font-size:15px}
a{color:var(--s1);text-underline-offset:3px;text-decoration-thickness:1px}
nav a{text-decoration:none;padding:4px 0}
nav a:hover{text-decoration:underline}
figure{margin:22px 0 0;break-inside:avoid}
.plate{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:22px}
.title{font-weight:620;font-size:16px;line-height:1.35;margin:0 0 14px}
figcaption{color:var(--muted);font-size:15px;line-height:1.5;max-width:74ch;margin-top:12px;text-wrap:pretty}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:0 24px}
.columns figure{display:grid;grid-template-rows:subgrid;grid-row:span 2;align-content:start}
.columns .plate{display:flex;flex-direction:column}
@media (min-width:900px){
.columns figure:only-child{grid-template:auto/minmax(0,544px) minmax(0,1fr);gap:0 28px;align-items:center}
}
img{display:block;width:100%;height:auto}
svg{display:block;width:100%;height:auto;overflow:visible}
.drawing{overflow-x:auto}
.drawing svg{display:block;width:100%;min-width:min(var(--w,0px),640px);max-width:calc(var(--w,960px) * 1.2);height:auto;
margin:0 auto}
.flow{display:grid;grid-template-columns:repeat(var(--n),minmax(0,1fr));gap:20px;max-width:760px}
.flow p{margin:0 0 6px;color:var(--muted);font-size:14px}
.flow svg{display:block;width:100%;border:1px solid var(--rule);border-radius:6px}
.flow g{visibility:hidden;animation:flow 1s step-end infinite;
animation-delay:calc(var(--i,0)*var(--step,1s))}
.flow g:last-child{animation-name:last}
.flow path{stroke:var(--s1);stroke-width:2.2;stroke-linecap:round;fill:none}
.flow text{font-size:9px;fill:var(--muted)}
.flow:hover g{animation-play-state:paused}
.chart{width:100%;max-width:500px;margin:auto auto 0}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:14px;margin:0 0 10px;padding:0;list-style:none;color:var(--ink)}
.key li{display:flex;align-items:center;gap:8px}
.key svg{width:26px;height:10px;flex:none}
.grid{display:grid;gap:20px 22px;align-items:center;
grid-template-columns:minmax(0,12.5rem) var(--cells,repeat(var(--n),minmax(0,1fr)))}
.grid img{width:calc(100%*var(--part,1))}
.grid .head{font-size:14px;line-height:1.3;color:var(--muted);align-self:end}
.grid .label{font-size:16px;line-height:1.35;overflow-wrap:anywhere}
.grid .own{display:none;font-size:13px;line-height:1.3;color:var(--muted);margin:4px 0 6px}
.grid .marked img{outline:2px solid var(--s2);outline-offset:3px;border-radius:1px}
.grid .mark{font-size:13px;line-height:1.3;color:var(--s2);margin-top:6px}
.grid.bare{grid-template-columns:var(--cells,repeat(var(--n),minmax(0,1fr)))}
.strip{display:grid;grid-template-columns:repeat(var(--n),minmax(0,1fr));gap:6px clamp(2px,.7vw,8px)}
.strip .label{grid-column:1/-1;font-size:15px;line-height:1.35;margin:0}
.strip .label+.label,.strip .cell+.label{margin-top:14px}
.strip .tick{font-size:13px;color:var(--muted);text-align:center;font-variant-numeric:tabular-nums}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:24px 26px;list-style:none;
margin:0;padding:0}
.gallery .pair{display:grid;grid-template-columns:1fr 1fr;gap:8px}
.gallery small{display:block;font-size:12.5px;line-height:1.3;color:var(--muted);margin-bottom:4px}
.gallery p{font-size:14px;line-height:1.35;margin:8px 0 0;overflow-wrap:anywhere}
.matrix{display:grid;grid-template-columns:minmax(12rem,max-content) repeat(var(--n),minmax(0,38px));gap:2px;
align-items:center;font-size:14px;line-height:1.25}
.matrix .label{padding-right:12px;align-self:center;text-align:right;overflow-wrap:anywhere;max-width:20rem}
.matrix .number{display:none}
.matrix .cell{aspect-ratio:1;position:relative;border-radius:2px;background:var(--page)}
.matrix .cell i{position:absolute;inset:0;background:var(--s1);border-radius:2px}
.matrix .same{outline:1.5px solid var(--ink);outline-offset:-1.5px;z-index:1}
.matrix .same i{z-index:-1}
.matrix+ol{display:none}
.ramp{display:flex;align-items:center;gap:10px;font-size:13px;color:var(--muted);margin-top:16px;
font-variant-numeric:tabular-nums}
.ramp b{flex:0 1 150px;height:10px;border-radius:3px;background:linear-gradient(90deg,var(--page),var(--s1));
border:1px solid var(--rule)}
.ramp span{white-space:nowrap}
.bars{display:grid;grid-template-columns:minmax(0,max-content) minmax(60px,1fr) max-content;gap:10px 14px;
align-items:center;font-size:15px}
.bars i{display:block;height:12px;border-radius:0 3px 3px 0;background:var(--s1);min-width:2px}
.bars span:nth-child(3n){font-variant-numeric:tabular-nums;text-align:right}
.table{padding:6px 22px;margin-top:22px;overflow-x:auto}
.table+p{margin-top:22px}
table{border-collapse:collapse;width:100%;font-size:15px;line-height:1.45}
caption{text-align:left;color:var(--muted);padding:12px 0 4px;font-size:14px}
th{font-weight:500;color:var(--muted);font-size:14px;text-align:left}
th,td{padding:11px 20px 11px 0;border-bottom:1px solid var(--rule);vertical-align:baseline;overflow-wrap:break-word}
th:last-child,td:last-child{padding-right:0}
tbody tr:last-child td{border-bottom:0}
td:first-child{font-weight:560}
.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
th.num{white-space:normal}
.num+td,.num+th{padding-left:16px}
pre{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:16px 20px;margin:22px 0 0;
white-space:pre-wrap;overflow-wrap:anywhere;font:14px/1.6 var(--mono)}
pre span{white-space:nowrap}
details{margin-top:16px}
summary{cursor:pointer;font-weight:560;padding:6px 0}
details .table{margin-top:8px}
details table{width:auto;font-size:14px}
details th,details td{padding:6px 36px 6px 0}
details td:first-child{font-weight:400;color:var(--muted)}
footer{margin-top:64px;padding-top:18px;border-top:1px solid var(--rule);color:var(--muted);font-size:14px}
@media (max-width:640px){
body{font-size:16px}
section{margin-top:52px}
h2{font-size:22px}
.plate{padding:16px 14px}
caption{display:block}
.tiles{grid-template-columns:1fr 1fr;gap:10px}
.tile{padding:12px 13px}
.tile .value{font-size:25px}
.grid{grid-template-columns:var(--cells,repeat(var(--n),minmax(0,1fr)));gap:6px 10px}
.grid .label{grid-column:1/-1;font-size:15px;margin-top:12px}
.grid .corner{display:none}
.grid .head{font-size:13px}
.grid.stack{grid-template-columns:minmax(0,1fr)}
.grid.stack .head,.grid.stack .none{display:none}
.grid.stack img{width:calc(100%*var(--share,1))}
.grid.stack .own{display:block}
.gallery{grid-template-columns:1fr 1fr;gap:20px}
.chart text{font-size:14.5px!important}
.strip .tick{font-size:10.5px;letter-spacing:-.02em}
.matrix{grid-template-columns:20px repeat(var(--n),minmax(0,1fr));gap:1px}
.matrix .label span{display:none}
.matrix .number{display:block;font-size:11px;line-height:1;color:var(--muted);font-variant-numeric:tabular-nums}
.matrix .label{padding-right:4px}
.matrix+ol{display:block;margin:16px 0 0;padding-left:26px;font-size:14px;line-height:1.4}
.table{padding:4px 14px}
table,tbody,tr,td{display:block}
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
tr{padding:11px 0;border-bottom:1px solid var(--rule)}
tbody tr:last-child{border-bottom:0}
td{border:0;padding:1px 0;display:grid;grid-template-columns:7.2em 1fr;gap:10px;text-align:left}
td:first-child{display:block;padding-bottom:4px}
td:not(:first-child)::before{content:attr(data-head);color:var(--muted);font-size:14px}
details table{width:100%}
details td{padding:1px 0}
.num{white-space:normal}
td.num{text-align:left}
.num+td{padding-left:0}
.bars{gap:8px 10px;font-size:14px}
pre{padding:14px;font-size:13px}
}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}.flow g{animation:none}.flow g:last-child{visibility:visible}}
"""
