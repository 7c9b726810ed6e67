"""Figures: drawings in the page's colours, pictures with words, layouts that agree with their labels."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.report.figures import (
    Chart,
    Series,
    bars,
    chart_png,
    filmstrip,
    gallery,
    image_grid,
    line_chart,
    matrix,
    sheet_png,
)
from diffusion_jax.report.page import PALETTE


def images(count: int, seed: int = 0, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 8, 8, channels)).astype(np.float32)


def chart(**changes) -> Chart:
    lines = (
        Series("a & b", [0, 10, 20], [1.0, 0.1, 0.01], "s1", faint=True),
        Series("c", [0, 20], [0.5, 0.05], "s2", dashed=True, marks=True),
    )
    return Chart(**{"series": lines, "x_label": "training step", "y_label": "loss", "log_y": True} | changes)


def pictures(body: str) -> list[tuple[str, Image.Image]]:
    """(alt, image) of every img."""
    found = re.findall(r'<img[^>]* alt="([^"]*)" src="data:image/png;base64,([^"]+)">', body)
    assert len(found) == body.count("<img")
    return [(alt, Image.open(io.BytesIO(base64.b64decode(data)))) for alt, data in found]


def test_chart_speaks_in_the_pages_colours_and_font():
    body = line_chart(chart(), title="t", caption="c", alt='says "so"').body
    assert not re.search(r"#[0-9a-f]{6}", body)
    assert {"s1", "s2", "rule", "muted"} <= set(re.findall(r"var\(--(\w+)\)", body))
    assert "DejaVu" not in body
    assert ">training step<" in body
    assert ">loss<" in body
    assert 'aria-label="says &quot;so&quot;"' in body
    assert "a &amp; b" in body
    assert "metadata" not in body
    assert not re.search(r'(src|href)="http', body)


def test_charts_on_one_page_share_no_ids_and_are_repeatable():
    first, again = (line_chart(chart(), title="", caption="", alt="").body for _ in range(2))
    other = line_chart(chart(y_label="other"), title="", caption="", alt="").body
    unique = [set(re.findall(r'id="((?:m|p|C|c)[0-9a-f]{8,})"', body)) for body in (first, other)]
    assert first == again
    assert unique[0]
    assert not unique[0] & unique[1]


def test_one_line_needs_no_key():
    assert "key" in line_chart(chart(), title="", caption="", alt="").body
    assert "key" not in line_chart(chart(series=chart().series[:1]), title="", caption="", alt="").body


def test_percent_and_chosen_ticks():
    share = Series("s", [1, 2, 8], [0.5, 0.75, 1.0])
    body = line_chart(Chart((share,), "w", "y", percent=True, x_ticks=(1, 8)), title="", caption="", alt="").body
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", body)
    assert "100%" in texts
    assert [t for t in texts if t in {"1", "2", "4", "6", "8"}] == ["1", "8"]


def test_grid_has_a_picture_with_words_for_every_cell():
    cells = [[images(4, r * 3 + c) for c in range(3)] for r in range(2)]
    figure = image_grid(cells, ["<one>", "two"], ["a", "b", "c"], alt="all", caption="look", per_line=2)
    found = pictures(figure.body)
    assert [alt for alt, _ in found] == [f"{r}, {c}: 4 images" for r in ("&lt;one&gt;", "two") for c in ("a", "b", "c")]
    assert {picture.size for _, picture in found} == {(2 * 64 + 4, 2 * 64 + 4)}
    assert all(picture.mode == "LA" for _, picture in found)
    assert figure.body.count('class="ink"') == 6


def test_colour_is_not_inverted_on_dark_paper_and_white_pictures_have_an_edge():
    body = image_grid([[np.ones((2, 8, 8, 3), np.float32)]], [], ["x"], alt="", caption="").body
    assert 'class="ink"' not in body
    picture = pictures(body)[0][1]
    assert picture.mode == "RGBA" and picture.size == (2 * (64 + 2) + 4, 64 + 2)
    pixels = np.asarray(picture)
    assert (pixels[1:65, 1:65] == 255).all() and (pixels[:, 66:70, 3] == 0).all()
    for line in (pixels[0, :66], pixels[:, 0], pixels[:, 65], pixels[:, 70]):
        assert (line[:, :3] < 200).all() and (line[:, 3] > 0).all() and (line[:, 3] < 255).all()


def test_images_of_a_grid_are_of_one_size_however_many_a_cell_has():
    """A column is as wide as its images, a group that is smaller takes its share of it, and of none is an empty place."""
    cells = [[images(1), images(8), images(3)], [images(1), images(8), images(0)]]
    body = image_grid(cells, [], ["told", "drawn", "real"], alt="", caption="", per_line=8).body
    assert "--cells:minmax(0,1fr) minmax(0,8fr) minmax(0,3fr)" in body and "grid bare stack" in body
    assert re.findall(r'style="([^"]*--share[^"]*)"', body) == [
        "max-width:96px;--share:0.125", "max-width:288px;--share:0.375", "max-width:96px;--share:0.125",
    ]  # fmt: skip
    assert [alt for alt, _ in pictures(body)] == [
        "row 1, told: 1 images", "row 1, drawn: 8 images", "row 1, real: 3 images",
        "row 2, told: 1 images", "row 2, drawn: 8 images",
    ]  # fmt: skip
    assert body.count('class="none"') == 1
    fewer = image_grid([[images(8)], [images(2)]], ["a", "b"], ["x"], alt="", caption="", per_line=8).body
    assert "--cells" not in fewer and "--part:0.25;--share:0.25" in fewer


def test_grid_refuses_labels_that_do_not_agree():
    with pytest.raises(ValueError, match="do not agree with 1 row and 2 column labels"):
        image_grid([[images(1)]], ["r"], ["a", "b"], alt="", caption="")


def test_filmstrip_leaves_a_place_empty_where_there_is_no_frame():
    frames = list(images(3))
    figure = filmstrip([("x", frames), ("guess", [*frames[:2], None])], ["1.0", "0.5", "0.0"], alt="", caption="")
    assert [alt for alt, _ in pictures(figure.body)] == ["x, 1.0", "x, 0.5", "x, 0.0", "guess, 1.0", "guess, 0.5"]
    assert figure.body.count('class="cell"') == 6


def test_matrix_rows_are_captions_and_the_diagonal_is_marked():
    values = np.array([[1.0, 0.5], [0.0, 0.75]], np.float32)
    body = matrix(values, images(2), ["first <b>", "second"], alt="", caption="").body
    told = re.findall(
        r'<div class="cell( same)?" title="image (\d) and caption (\d): ([^"]+)"><i style="opacity:(.*?)"', body
    )
    assert told == [
        (" same", "1", "1", "1.00", "1.00"),
        ("", "2", "1", "0.00", "0.00"),
        ("", "1", "2", "0.50", "0.50"),
        (" same", "2", "2", "0.75", "0.75"),
    ]
    assert "first &lt;b&gt;" in body
    assert "first <b>" not in body


def test_matrix_of_equal_values_is_drawn():
    body = matrix(np.full((2, 2), -0.5, np.float32), images(2), ["a", "b"], alt="", caption="").body
    assert "nan" not in body
    assert "−0.50" in body


def test_gallery_pairs_images_with_their_caption():
    body = gallery(["a", "b"], images(2), images(2, 1), ("real", "drawn"), alt="", caption="").body
    assert [alt for alt, _ in pictures(body)] == ["real: a", "drawn: a", "real: b", "drawn: b"]


def test_bars_are_in_proportion_to_the_greatest():
    body = bars({"x": (2.0, "2 s"), "y": (8.0, "8 s"), "z": (0.0, "0 s")}, alt="", caption="").body
    assert re.findall(r"width:([\d.]+)%", body) == ["25.00", "100.00", "0.00"]
    assert "0.00%" in bars({"z": (0.0, "0 s")}, alt="", caption="").body


@pytest.mark.parametrize("dark", [False, True])
def test_sheets_and_charts_as_png_carry_settings_and_their_paper(dark: bool):
    sheet = sheet_png(
        [[images(4), images(4, 1)]], ["costs $5 & $6"], ["a", "b"], per_line=2, dark=dark, metadata={"seed": "7"}
    )
    for data in (sheet, chart_png([("T", chart())], dark=dark, metadata={"seed": "7"})):
        picture = Image.open(io.BytesIO(data))
        assert picture.info["seed"] == "7"
        corner = picture.convert("RGB").getpixel((0, 0))
        assert "#{:02x}{:02x}{:02x}".format(*corner) == PALETTE["card"][dark]


def test_a_head_that_is_longer_than_its_column_is_wrapped_and_not_laid_over_the_next():
    cells, rows = [[images(1), images(1)]], ["r"]
    short, long = (
        np.asarray(Image.open(io.BytesIO(sheet_png(cells, rows, names, per_line=1))).convert("L")).astype(int)
        for names in (["a", ""], ["a head of many short words", ""])
    )
    assert long.shape[1] == short.shape[1] and long.shape[0] > short.shape[0]
    added = long.shape[0] - short.shape[0]
    # Nothing is written above the second column, and something above the first.
    heads = long[: 60 + added - 20] < 200
    assert heads[:, 320:400].any() and not heads[:, 420:].any()


def test_sheet_draws_each_image_at_its_place():
    full = np.ones((1, 8, 8, 1), np.float32)
    data = sheet_png([[full, -full]], ["r"], ["a", "b"], per_line=1, scale=4)
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(int)
    ink = np.argwhere(pixels[:, 320:] < 60)
    body = ink[ink[:, 0] > 60]
    assert np.ptp(body, axis=0).tolist() == [31, 31]
