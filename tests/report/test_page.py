"""The page: one file, escaped, with two faces and a name for every place."""

import re
from html.parser import HTMLParser

import pytest

from diffusion_jax.report.page import (
    PALETTE,
    Code,
    Columns,
    Details,
    Figure,
    Mark,
    Page,
    Section,
    Table,
    Tile,
    render,
    write_page,
)

EVIL = "<script>alert('&')</script>\""
VOID = {"img", "meta", "link", "br", "circle", "line", "path", "use", "rect"}


class Reader(HTMLParser):
    """Checks that tags nest, and keeps tags with attributes and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        if not self.stack or self.stack[-1] not in ("style", "script"):
            self.words.append(data)


def everything(text: str) -> Page:
    figure = Figure(body="<svg></svg>", alt=text, caption=text, title=text)
    table = Table(
        (text, "Value"), ((Mark(text, True), "1"), (Mark("b", False), text), ("c", Mark(""))), frozenset({1}), text
    )
    blocks = (text, figure, Columns((figure, figure)), table, Code(text), Details(text, (text, table)))
    return Page(text, text, (Tile(text, text, text, True), Tile("b", "2")), (Section(text, blocks),), text)


def test_text_is_escaped_everywhere_and_comes_back_whole():
    page = render(everything(EVIL))
    assert "<script" not in page
    read = Reader(page)
    assert not any(tag == "script" for tag, _ in read.tags)
    assert read.words.count(EVIL) == 23
    assert {attrs["aria-label"] for tag, attrs in read.tags if tag == "figure"} == {EVIL}


def test_nothing_is_loaded_from_elsewhere():
    page = render(everything("plain"))
    assert "://" not in page
    assert "@import" not in page
    assert "url(" not in page
    targets = [attrs[name] for _, attrs in Reader(page).tags for name in ("src", "href") if name in attrs]
    assert targets
    assert all(target.startswith(("data:", "#")) for target in targets)


def test_both_faces_define_every_colour_and_every_colour_used_is_defined():
    page = render(everything("plain"))
    light, dark = page.split("@media (prefers-color-scheme:dark)")[:2]
    for name, (day, night) in PALETTE.items():
        assert f"--{name}:{day};" in light
        assert f"--{name}:{night};" in dark
    defined = set(re.findall(r"--([\w]+):", page))
    assert set(re.findall(r"var\(--(\w+)\)", page)) - defined <= {"n"}


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("face", [0, 1])
@pytest.mark.parametrize("name", ["ink", "muted", "s1", "s2", "s3", "s4", "good", "bad"])
def test_colours_can_be_read_on_card_and_page(face: int, name: str):
    """Contrast of at least 4.5:1, as WCAG 2 asks of text."""
    for ground in ("card", "page"):
        low, high = sorted(luminance(PALETTE[n][face]) for n in (name, ground))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_light_colours_are_unique_so_that_a_drawing_can_be_recoloured():
    assert len({light for light, _ in PALETTE.values()}) == len(PALETTE)


def test_links_lead_to_sections():
    page = Page("t", "l", sections=tuple(Section(name, ("x",)) for name in ("One & two", "Three", "Four")))
    read = Reader(render(page))
    ids = [attrs["id"] for tag, attrs in read.tags if tag == "section"]
    assert ids == ["one-two", "three", "four"]
    assert [attrs["href"] for tag, attrs in read.tags if tag == "a"] == [f"#{name}" for name in ids]


def test_table_says_verdicts_and_refuses_ragged_rows():
    text = " ".join(Reader(render(everything("plain"))).words)
    assert "✓ met" in text
    assert "✗ missed" in text
    with pytest.raises(ValueError, match="a row of 1 cells under a head of 2"):
        render(Page("t", "l", sections=(Section("s", (Table(("a", "b"), (("only",),)),)),)))


def test_an_empty_page_is_a_page(tmp_path):
    path = write_page(tmp_path / "deep" / "index.html", Page("Bare", "Nothing yet."))
    read = Reader(path.read_text())
    assert "Nothing yet." in read.words
    assert not any(tag in ("nav", "dl", "section", "footer") for tag, _ in read.tags)


def test_options_of_a_command_are_kept_whole_and_the_text_is_unchanged():
    command = "run --out a-b.png -n 3 <x>"
    page = render(Page("t", "l", sections=(Section("s", (Code(command),)),)))
    assert "<span>--out</span> a-b.png <span>-n</span> 3" in page
    assert command in "".join(Reader(page).words)
