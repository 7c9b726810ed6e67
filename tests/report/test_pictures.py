"""Bytes of images: the map to uint8, the layout of grids, PNG files that carry their settings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffusion_jax.report.pictures import encode_png, grid, save_grid, save_png, sprite, to_uint8
from diffusion_jax.typing import UserError


def constant(value: float, count: int = 1, channels: int = 1) -> np.ndarray:
    return np.full((count, 3, 2, channels), value, np.float32)


def test_to_uint8_closed_form():
    values = np.array([-2.0, -1.0, 0.0, 1.0 / 255, 1.0, 9.0], np.float32)
    assert to_uint8(values).tolist() == [0, 0, 128, 128, 255, 255]


@given(st.integers(0, 255))
def test_to_uint8_inverts_the_usual_decoding(byte: int):
    assert to_uint8(np.array([byte / 127.5 - 1], np.float32)).tolist() == [byte]


def test_to_uint8_refuses_nan_and_says_how_many():
    with pytest.raises(UserError, match="2 of 4"):
        to_uint8(np.array([0.0, np.nan, np.inf, 1.0], np.float32))


def test_grid_places_each_image_row_by_row():
    images = np.concatenate([constant(v) for v in (-1.0, 0.0, 1.0)])
    laid = grid(images, columns=2, gap=1, ink=False)
    assert laid.shape == (1 + 2 * (3 + 1), 1 + 2 * (2 + 1), 1)
    assert np.all(laid[1:4, 1:3] == 0)
    assert np.all(laid[1:4, 4:6] == 128)
    assert np.all(laid[5:8, 1:3] == 255)
    borders = np.ones(laid.shape[:2], bool)
    borders[1:4, 1:3] = borders[1:4, 4:6] = borders[5:8, 1:3] = False
    assert np.all(laid[borders] == 255)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.sampled_from([1, 3]))
def test_grid_size(count: int, columns: int, scale: int, gap: int, channels: int):
    laid = grid(constant(0.3, count, channels), columns, scale, gap)
    wide = min(columns, count)
    rows = -(-count // wide)
    assert laid.shape == (rows * (3 * scale + gap) + gap, wide * (2 * scale + gap) + gap, channels)


def test_ink_is_dark_on_white_and_colour_is_left_alone():
    assert grid(constant(1.0), 1, gap=0).max() == 0
    assert grid(constant(-1.0), 1, gap=0).min() == 255
    assert grid(constant(1.0, channels=3), 1, gap=0).min() == 255


def test_enlarging_keeps_constants_and_never_bleeds_into_a_neighbour():
    images = np.concatenate([constant(-1.0), constant(1.0)])
    laid = grid(images, columns=2, scale=5, gap=0)
    assert np.all(laid[:, :10] == 255)
    assert np.all(laid[:, 10:] == 0)


def test_sprite_has_the_image_as_opacity_and_clear_gaps():
    images = np.concatenate([constant(-1.0), constant(1.0)])
    layer = sprite(images, columns=2, gap=1)
    assert layer.shape == (3, 5, 2)
    assert np.all(layer[..., 0] == 0)
    assert np.all(layer[:, 2, 1] == 0)
    assert np.all(layer[:, 3:, 1] == 255)
    assert 0 < layer[0, 0, 1] < 30
    colour = sprite(constant(0.5, 2, 3), columns=2, gap=1)
    assert colour.shape == (3, 5, 4)
    assert colour[..., 3].tolist() == [[255, 255, 0, 255, 255]] * 3


@pytest.mark.parametrize("make", [grid, sprite])
def test_bad_layouts_are_named(make):
    with pytest.raises(UserError, match="0 images"):
        make(constant(0.0, 0), 1)
    with pytest.raises(UserError, match="columns 0"):
        make(constant(0.0), 0)
    with pytest.raises(UserError, match="scale 0"):
        make(constant(0.0), 1, 0)
    with pytest.raises(UserError, match="2 channels"):
        make(constant(0.0, channels=2), 1)


def test_png_round_trip_with_settings(tmp_path):
    settings = {"prompt": "a “bold” seven, ½ & <b>", "seed": "0", "guidance_scale": "3.0"}
    images = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 1)).astype(np.float32)
    path = save_grid(tmp_path / "new" / "seven.png", images, columns=2, scale=3, metadata=settings)
    with Image.open(path) as picture:
        assert {name: picture.info[name] for name in settings} == settings
        assert np.array_equal(np.asarray(picture), grid(images, 2, 3, 2)[..., 0])
    assert [p.name for p in path.parent.iterdir()] == ["seven.png"]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_kind_of_pixel_survives(tmp_path, channels: int):
    picture = np.random.default_rng(channels).integers(0, 256, (5, 4, channels), np.uint8)
    with Image.open(save_png(tmp_path / "x.png", picture)) as read:
        assert np.array_equal(np.asarray(read).reshape(picture.shape), picture)


def test_save_png_lays_out_float_images(tmp_path):
    images = constant(0.5, 5)
    with Image.open(save_png(tmp_path / "x.png", images)) as read:
        assert np.array_equal(np.asarray(read), grid(images, 3)[..., 0])


def test_encoding_is_a_function_of_its_input():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert (
        encode_png(picture, {"seed": "1"}) == encode_png(picture, {"seed": "1"}) != encode_png(picture, {"seed": "2"})
    )
