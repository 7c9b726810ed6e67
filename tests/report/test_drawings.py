"""Drawings: colours by name on the page, colours by value in a PNG, clouds that move without a script."""

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.report.drawings import animation, drawing, drawing_png, svg
from diffusion_jax.report.page import PALETTE


def dot(canvas, colours):
    axes = canvas.subplots()
    axes.plot([0, 1], [0, 1], "o", color=colours["s1"])
    axes.set_title("A title", color=colours["ink"])


def test_a_drawing_on_a_page_has_the_pages_colours_and_font_and_is_the_same_twice():
    text = svg(dot, 200, 100, "two <dots>")
    assert text == svg(dot, 200, 100, "two <dots>") != svg(dot, 200, 100, "two other dots")
    assert ET.fromstring(text.replace("<svg", '<svg xmlns:xlink="x"', 1)).attrib["aria-label"] == "two <dots>"
    assert "var(--s1)" in text and "var(--ink)" in text and "A title" in text
    assert PALETTE["s1"][0] not in text and "font-family: inherit" in text and "Date" not in text


def test_two_drawings_of_one_page_share_no_id():
    figures = [drawing(dot, width=200, height=100, caption=c, alt="dots") for c in ("the one", "the other")]
    ids = [set(re.findall(r'id="(\w{10,})"', figure.body)) for figure in figures]
    assert all(ids) and not ids[0] & ids[1]


@pytest.mark.parametrize("dark", [False, True])
def test_a_png_is_on_its_paper_at_two_pixels_a_point(dark):
    image = Image.open(io.BytesIO(drawing_png(dot, width=200, height=100, dark=dark))).convert("RGB")
    assert image.size == (400, 200)
    assert "#{:02x}{:02x}{:02x}".format(*image.getpixel((1, 1))) == PALETTE["card"][dark].lower()


def test_an_animation_has_a_frame_a_label_and_leaves_out_what_is_outside():
    cloud = np.zeros((5, 3, 2))
    cloud[:, 1] = [0.5, 0.5]
    cloud[:, 2] = [3.0, 0.0]
    labels = [f"t = {i}" for i in range(5)]
    figure = animation({"one": cloud, "two": cloud}, labels, limit=1.0, seconds=2.0, alt="a", caption="c")
    assert figure.body.count("<g ") == 10 and all(figure.body.count(f">{label}<") == 2 for label in labels)
    assert figure.body.count("M100 100h0M150 50h0") == 10 and "<script" not in figure.body
    with pytest.raises(ValueError, match=r"4 labels for clouds of \[5\] frames"):
        animation({"one": cloud}, labels[:4], limit=1.0, seconds=2.0, alt="a", caption="c")
