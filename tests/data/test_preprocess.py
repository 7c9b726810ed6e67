"""Preprocessing against PIL itself on random noise, the sizes of torchvision's rule, odd files, and what is refused."""

import dataclasses
import io
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_jax.data.pictures import preprocess
from diffusion_jax.data.pictures.boxes import random_box
from diffusion_jax.data.pictures.preprocess import (
    HALF,
    OPENAI_MEAN,
    OPENAI_STD,
    SIGLIP,
    Preprocess,
)
from diffusion_jax.data.pictures.resizing import weights
from diffusion_jax.data.text.prompts import TEMPLATES, templates
from diffusion_jax.report.pictures import to_uint8
from diffusion_jax.typing import UserError

FILTERS = {name: Image.Resampling[name.upper()] for name in preprocess.FILTERS}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def levels(pre, normalised):
    """Back to 0 .. 255, and that these are whole numbers."""
    pixels = (np.asarray(normalised, np.float64) * pre.std + pre.mean) * 255
    np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-4)
    return np.round(pixels).astype(int)


def by_pil(pre, array):
    """The same with PIL's own calls, written out."""
    height, width = array.shape[:2]
    if pre.resize == "squash":
        wide, tall = pre.size, pre.size
    elif width <= height:
        wide, tall = pre.size, int(pre.size * height / width)
    else:
        wide, tall = int(pre.size * width / height), pre.size
    left, top = round((wide - pre.edge) / 2), round((tall - pre.edge) / 2)
    picture = Image.fromarray(array).resize((wide, tall), FILTERS[pre.interpolation])
    return np.asarray(picture.crop((left, top, left + pre.edge, top + pre.edge)))


SIDES = st.integers(1, 90)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(sorted(FILTERS)), st.data())
@example(1, 400, "bicubic", None)
@example(400, 1, "bilinear", None)
@example(397, 389, "nearest", None)  # 1.02 is no sum of powers of 2: the places are sums, as PIL makes them
@example(397, 101, "lanczos", None)
@example(101, 397, "hamming", None)
@example(200, 100, "box", None)
def test_the_weights_of_one_pass_are_those_of_pil(size, resized, interpolation, data):
    """One axis of noise, any part of the output, in NumPy's integers."""
    start = data.draw(st.integers(0, resized - 1)) if data is not None else 0
    row = noise(1, size, seed=size)
    wanted = np.asarray(Image.fromarray(row).resize((resized, 1), FILTERS[interpolation]))[0, start:]
    read, matrix = weights(size, resized, start, resized - start, interpolation)
    sums = matrix.astype(np.int64) @ row[0, read]
    np.testing.assert_array_equal(np.clip((sums + 2**21) >> 22, 0, 255), wanted)


@settings(max_examples=12, deadline=None)
@given(
    SIDES,
    SIDES,
    st.integers(1, 48),
    st.sampled_from(["shortest", "squash"]),
    st.sampled_from(sorted(FILTERS)),
    st.data(),
)
@example(89, 3, 16, "shortest", "bicubic", None)  # as tall as this, Pillow 13 resizes the height first
@example(89, 20, 30, "squash", "bicubic", None)
@example(1, 1, 7, "shortest", "bilinear", None)
def test_device_and_host_give_the_levels_of_pil(height, width, size, resize, interpolation, data):
    crop = data.draw(st.integers(1, size)) if data is not None else None
    pre = Preprocess(size, resize=resize, interpolation=interpolation, crop=crop)
    images = noise(2, height, width, 3, seed=height * width)
    wanted = np.stack([by_pil(pre, image) for image in images])
    found = jax.device_get(pre.on_device(images))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(levels(pre, found), wanted)
    np.testing.assert_array_equal(np.stack([pre.pixels(image) for image in images]), wanted)


@settings(max_examples=100, deadline=None)
@given(
    SIDES,
    SIDES,
    st.integers(1, 48),
    st.sampled_from(["shortest", "squash"]),
    st.sampled_from(sorted(FILTERS)),
    st.data(),
)
def test_host_gives_the_levels_of_pil(height, width, size, resize, interpolation, data):
    pre = Preprocess(size, resize=resize, interpolation=interpolation, crop=data.draw(st.integers(1, size)))
    image = noise(height, width, 3, seed=height * width)
    np.testing.assert_array_equal(pre.pixels(image), by_pil(pre, image))


@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 427), (333, 500), (100, 75), (224, 224), (1000, 224)])
def test_the_usual_sizes_under_jit(height, width):
    pre, image = Preprocess(), noise(1, height, width, 3)
    found = jax.jit(pre.on_device)(image)
    np.testing.assert_array_equal(levels(pre, found)[0], by_pil(pre, image[0]))
    np.testing.assert_allclose(found, pre.batch(image), atol=1e-6)


def test_sizes_follow_torchvisions_rule():
    """int(224 x 500 / 333) = 336, not 336.3 rounded up; the offset (337 - 224) / 2 = 56.5 goes to the even 56."""
    pre = Preprocess()
    assert pre.resized(333, 500) == (224, 336)
    assert pre.resized(500, 333) == (336, 224)
    assert pre.resized(224, 224) == (224, 224)
    assert SIGLIP.resized(333, 500) == (224, 224)
    rows = np.repeat(np.arange(7, dtype=np.uint8)[:, None, None], 4, axis=1).repeat(3, axis=2)
    assert Preprocess(4).pixels(rows)[:, 0, 0].tolist() == [2, 3, 4, 5]  # (7 - 4) / 2 = 1.5 goes to the even 2
    rows = np.repeat(np.arange(5, dtype=np.uint8)[:, None, None], 4, axis=1).repeat(3, axis=2)
    assert Preprocess(4).pixels(rows)[:, 0, 0].tolist() == [0, 1, 2, 3]  # 0.5 goes to the even 0


def test_the_crop_of_hugging_face_begins_at_the_floor():
    """3 / 2 goes to the even 2 for torchvision and down to 1 for Hugging Face; on host and device alike."""
    rows = np.repeat(np.arange(7, dtype=np.uint8)[:, None, None], 4, axis=1).repeat(3, axis=2)
    floor = Preprocess(4, centre="floor")
    assert floor.pixels(rows)[:, 0, 0].tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(levels(floor, floor.on_device(rows[None]))[0], floor.pixels(rows))
    with pytest.raises(UserError, match="centre 'up' is not known"):
        Preprocess(4, centre="up")


def test_an_upscaled_pixel_and_flat_images_stay_flat():
    for value in (0, 1, 128, 255):
        for height, width in ((1, 1), (1, 9), (300, 2)):
            image = np.full((1, height, width, 3), value, np.uint8)
            assert (levels(SIGLIP, SIGLIP.on_device(image)) == value).all()
            assert (Preprocess(8).pixels(image[0]) == value).all()


def test_extreme_aspect_ratios_take_no_more_memory_than_the_crop():
    """3,000 : 2 would become 336,000 x 224 pixels: the crop alone is made, on either side."""
    pre = Preprocess()
    for image in (noise(3000, 2, 3), noise(1, 2000, 3)):
        np.testing.assert_array_equal(pre.pixels(image), levels(pre, pre.on_device(image[None]))[0])
    tracemalloc.start()
    assert pre.pixels(noise(100_000, 1, 3)).shape == (224, 224, 3)
    assert tracemalloc.get_traced_memory()[1] < 50e6  # the whole would take 15e9 bytes
    tracemalloc.stop()


def test_the_crop_alone_is_the_middle_of_the_whole(monkeypatch):
    image = noise(90, 7, 3)
    whole = Preprocess(20).pixels(image)
    monkeypatch.setattr(preprocess, "WHOLE", 0)
    np.testing.assert_array_equal(Preprocess(20).pixels(image), whole)


def test_normalisation_and_its_inverse():
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0] = 255
    found = Preprocess(4)(image)
    assert found.dtype == np.float32
    wanted = (np.array([1.0, 0, 0]) - OPENAI_MEAN) / OPENAI_STD
    np.testing.assert_allclose(found, np.broadcast_to(wanted, (4, 4, 3)), rtol=1e-6)
    np.testing.assert_allclose(Preprocess(4, HALF, HALF)(image)[0, 0], [1, -1, -1], atol=1e-6)
    half = Preprocess(4, [0.5] * 3, [0.5] * 3)  # lists, as JSON gives them
    assert half == Preprocess(4, HALF, HALF)
    assert hash(half) == hash(Preprocess(4, HALF, HALF))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_unit_range_there_and_back(seed, as_jax):
    images = np.random.default_rng(seed).uniform(-1, 1, (2, 3, 4, 3)).astype(np.float32)
    images = jnp.asarray(images) if as_jax else images
    pre = Preprocess(4)
    there = pre.from_unit_range(images)
    assert isinstance(there, jax.Array if as_jax else np.ndarray)
    np.testing.assert_allclose(pre.to_unit_range(there), images, atol=1e-6)


def test_an_image_in_the_unit_range_is_the_same_image():
    """Levels u and images u / 127.5 - 1 give one and the same input; grey becomes three equal channels."""
    image, pre = noise(2, 5, 5, 3), Preprocess(5)
    unit = image.astype(np.float32) / np.float32(127.5) - 1
    np.testing.assert_allclose(pre.from_unit_range(unit), pre.batch(image), atol=1e-6)
    np.testing.assert_array_equal(to_uint8(unit), image)
    grey = unit[..., :1]
    np.testing.assert_array_equal(pre.from_unit_range(grey), pre.from_unit_range(np.repeat(grey, 3, axis=-1)))
    np.testing.assert_array_equal(pre.on_device(image[..., :1]), pre.on_device(np.repeat(image[..., :1], 3, axis=-1)))
    gradient = jax.grad(lambda x: pre.from_unit_range(x).sum())(jnp.asarray(unit))
    np.testing.assert_allclose(gradient[0, 0, 0], 0.5 / np.array(OPENAI_STD), rtol=1e-5)


def saved(picture, kind="PNG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def test_modes_become_rgb_as_pil_makes_them():
    """Alpha is dropped, grey repeated, a palette looked up, CMYK converted; 16-bit grey keeps its high byte."""
    rgb, pre = noise(6, 6, 3), Preprocess(6)
    np.testing.assert_array_equal(pre.pixels(saved(Image.fromarray(rgb))), rgb)
    rgba = np.concatenate([rgb, noise(6, 6, 1, seed=1)], axis=-1)
    np.testing.assert_array_equal(pre.pixels(saved(Image.fromarray(rgba))), rgb)
    np.testing.assert_array_equal(pre.pixels(rgba), rgb)
    grey = np.repeat(rgb[..., :1], 3, axis=-1)
    for one in (
        rgb[..., 0],
        rgb[..., :1],
        saved(Image.fromarray(rgb[..., 0])),
        saved(Image.fromarray(rgb[..., 0]).convert("LA")),
    ):
        np.testing.assert_array_equal(pre.pixels(one), grey)
    palette = Image.fromarray(rgb).quantize(16)
    wanted = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(pre.pixels(saved(palette)), wanted)
    seen = saved(palette, transparency=bytes([0, 128] * 8))  # PIL warns of these, and warnings are errors here
    np.testing.assert_array_equal(pre.pixels(seen), wanted)
    cmyk = Image.fromarray(rgb).convert("CMYK")
    np.testing.assert_array_equal(pre.pixels(cmyk), np.asarray(cmyk.convert("RGB")))
    deep = (rgb[..., 0].astype(np.uint16) << 8) + 77
    np.testing.assert_array_equal(pre.pixels(saved(Image.fromarray(deep))), grey)
    dots = Image.fromarray(rgb[..., 0]).convert("1")
    np.testing.assert_array_equal(pre.pixels(saved(dots)), np.asarray(dots.convert("RGB")))


def test_a_palette_is_resized_before_or_after_rgb_as_asked():
    palette = Image.fromarray(noise(12, 12, 3)).quantize(8)
    after, before = Preprocess(5).pixels(palette), Preprocess(5, rgb="before").pixels(palette)
    colours = {tuple(colour) for colour in np.asarray(palette.convert("RGB")).reshape(-1, 3).tolist()}
    assert {tuple(pixel) for pixel in after.reshape(-1, 3).tolist()} <= colours
    np.testing.assert_array_equal(before, by_pil(Preprocess(5), np.asarray(palette.convert("RGB"))))
    assert palette.mode == "P"  # what was given is left as it was


def test_exif_orientation_is_obeyed_when_asked(tmp_path):
    rgb = noise(4, 4, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    (tmp_path / "a.png").write_bytes(saved(Image.fromarray(rgb), exif=exif.tobytes()))
    np.testing.assert_array_equal(Preprocess(4).pixels(tmp_path / "a.png"), rgb)
    np.testing.assert_array_equal(Preprocess(4, exif=True).pixels(str(tmp_path / "a.png")), np.rot90(rgb, -1))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6))
def test_a_random_crop_is_a_part_of_the_image(height, width, seed):
    """Each pixel holds its own row and column: the part has the asked area and aspect, and one rng gives it again."""
    place = np.stack(np.broadcast_arrays(np.arange(height)[:, None], np.arange(width)[None], 0), -1).astype(np.uint8)
    pre = Preprocess(6, HALF, HALF)
    found = levels(pre, pre.random_resized_crop(place, np.random.default_rng(seed)))
    again = levels(pre, pre.random_resized_crop(place, np.random.default_rng(seed)))
    np.testing.assert_array_equal(found, again)
    assert found[..., 0].max() < height
    assert found[..., 1].max() < width


def test_the_area_and_aspect_of_random_crops():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(1000, 1000, rng, (0.2, 0.4), (0.5, 2.0)) for _ in range(2000)])
    left, top, width, height = boxes.T
    share, aspect = width * height / 1e6, width / height
    assert 0.199 < share.min() < 0.21
    assert 0.39 < share.max() < 0.401
    assert share.mean() == pytest.approx(0.3, abs=0.005)
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.05)
    assert 0.498 < aspect.min() < 0.51
    assert 1.95 < aspect.max() < 2.01
    assert left.min() >= 0
    assert (left + width).max() <= 1000
    assert (top + height).max() <= 1000
    assert (left / (1000 - width)).mean() == pytest.approx(0.5, abs=0.02)
    # Nothing of 90% of this area has such an aspect: the largest central part of aspect 4/3 is taken.
    assert random_box(100, 10, rng, (0.9, 1.0), (3 / 4, 4 / 3)) == (43, 0, 13, 10)
    assert random_box(10, 100, rng, (0.9, 1.0), (3 / 4, 4 / 3)) == (0, 43, 10, 13)


def refused(call, *parts):
    """One line of UserError that has every part."""
    with pytest.raises(UserError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    assert all(part in line for part in parts), line


def test_arrays_that_are_refused():
    pre = Preprocess(4)
    refused(lambda: pre(noise(3, 8, 9)), "(3, 8, 9)", "transpose(1, 2, 0)")
    refused(lambda: pre(noise(2, 8, 9, 3)), "(2, 8, 9, 3)", "batch")
    refused(lambda: pre(noise(8, 9, 5)), "(8, 9, 5)")
    refused(lambda: pre(noise(0, 9, 3)), "(0, 9, 3)")
    refused(lambda: pre(noise(9)), "(9,)")
    refused(lambda: pre(noise(8, 9, 3).astype(np.float32)), "float32", "uint8")
    refused(lambda: pre(None), "NoneType")
    refused(lambda: pre.batch([]), "no images")
    refused(lambda: pre.on_device(noise(2, 3, 8, 9)), "transpose(0, 2, 3, 1)")
    refused(lambda: pre.on_device(noise(8, 9, 3)), "(8, 9, 3)")
    refused(lambda: pre.on_device(noise(0, 8, 9, 3)), "(0, 8, 9, 3)")
    refused(lambda: pre.on_device(noise(1, 8, 9, 3).astype(np.int32)), "int32")
    refused(lambda: jax.jit(pre.on_device)(jnp.zeros((1, 8, 9, 3))), "float32")
    refused(lambda: pre.from_unit_range(np.full((1, 4, 4, 3), 200.0)), "200", "[-1, 1]")
    refused(lambda: pre.from_unit_range(np.full((1, 4, 4, 3), np.nan)), "nan")
    refused(lambda: pre.from_unit_range(np.zeros((1, 3, 4, 4))), "(1, 3, 4, 4)")
    refused(lambda: pre.from_unit_range(np.zeros((0, 4, 4, 3))), "(0, 4, 4, 3)")
    refused(lambda: pre.from_unit_range(noise(1, 4, 4, 3)), "uint8")
    refused(lambda: pre.to_unit_range(np.zeros((1, 4, 4, 1))), "(1, 4, 4, 1)")


def test_files_that_are_refused(tmp_path):
    pre, whole = Preprocess(4), saved(Image.fromarray(noise(64, 64, 3)), "JPEG")
    (tmp_path / "cat.jpg").write_bytes(whole)
    (tmp_path / "cut.jpg").write_bytes(whole[:900])
    (tmp_path / "cut.png").write_bytes(saved(Image.fromarray(noise(64, 64, 3)))[:2000])
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    refused(lambda: pre(tmp_path / "caat.jpg"), "caat.jpg", "nearest: cat.jpg")
    refused(lambda: pre(tmp_path / "cut.jpg"), "cut.jpg", "cannot be read")
    refused(lambda: pre(str(tmp_path / "cut.png")), "cut.png", "cannot be read")
    refused(lambda: pre(tmp_path / "text.jpg"), "text.jpg", "not an image")
    refused(lambda: pre(tmp_path), str(tmp_path))
    refused(lambda: pre(b""), "0 bytes")
    refused(lambda: pre(whole[:900]), "900 bytes")
    refused(lambda: pre(Image.fromarray(np.zeros((4, 4), np.float32))), "'F'")
    refused(lambda: pre(Image.new("La", (4, 4))), "'La'")


def test_settings_that_are_refused():
    refused(lambda: Preprocess(0), "size 0")
    refused(lambda: Preprocess(224, crop=256), "256", "nearest: 224")
    refused(lambda: Preprocess(crop=0), "crop 0")
    refused(lambda: Preprocess(resize="shortes"), "did you mean 'shortest'")
    refused(lambda: Preprocess(interpolation="cubic"), "did you mean 'bicubic'")
    refused(lambda: Preprocess(rgb="never"), "'never'")
    refused(lambda: Preprocess(std=(1.0, 0.0, 1.0)), "std", "above 0")
    refused(lambda: Preprocess(mean=(0.5, 0.5)), "mean", "three")
    rng = np.random.default_rng(0)
    refused(lambda: Preprocess(4).random_resized_crop(noise(4, 4, 3), rng, scale=(0.5, 2.0)), "scale (0.5, 2.0)")
    assert dataclasses.replace(SIGLIP, size=256).edge == 256


def test_templates_have_one_place_for_the_name():
    assert all(template.count("{}") == 1 for group in TEMPLATES.values() for template in group)
    assert templates("photo") == ("a photo of a {}.",)
    refused(lambda: templates("pet"), "did you mean 'pets'")
