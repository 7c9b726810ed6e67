"""EDM's augmentation: what is moved is what the labels say, exactly where that can be, and nothing else is touched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.data.pictures import edm_augmentation
from diffusion_jax.data.pictures.edm_augmentation import DOWN, LABELS, UP, moves
from diffusion_jax.typing import UserError

edm_augment = jax.jit(edm_augmentation.edm_augment, static_argnames=("probability", "flips"))
move = jax.jit(edm_augmentation.move)

PLACES = {"x_flip": 0, "y_flip": 1, "scale": 2, "cos": 3, "sin": 4, "a5_cos": 5, "a5_sin": 6, "x": 7, "y": 8}


def pictures(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def labelled(count, **values):
    rows = np.zeros((count, LABELS), np.float32)
    for name, value in values.items():
        rows[:, PLACES[name]] = value
    return jnp.asarray(rows)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_the_filters_are_dual_and_keep_cubics():
    """sum_n down[n] up[2k - n] is 1 at k = 0 and else 0; both have zeros of order 4 at pi."""
    up, down = (np.array([*reversed(taps), *taps[1:]]) for taps in (UP, DOWN))
    through = np.convolve(up, down)
    np.testing.assert_allclose(through[1::2], np.eye(7)[3], atol=1e-14)
    for taps in (up, down):
        n = np.arange(len(taps)) - len(taps) // 2
        np.testing.assert_allclose([(taps * (-1.0) ** n * n**m).sum() for m in range(4)], 0, atol=1e-12)


def test_nothing_is_touched_without_a_chance_and_only_turned_over_by_flips_alone():
    images = pictures(64, 5, 7, 3)
    same, labels = edm_augment(images, keys(64), probability=0.0, flips=0.0)
    np.testing.assert_array_equal(same, images)
    np.testing.assert_array_equal(labels, 0)
    moved, labels = edm_augment(images, keys(64), probability=0.0)
    assert 0.25 < labels[:, 0].mean() < 0.75 and not np.any(labels[:, 1:])
    np.testing.assert_array_equal(moved, np.where(labels[:, :1, None, None] == 1, images[:, :, ::-1], images))


EXACT = [
    ({"x_flip": 1}, lambda x: x[:, :, ::-1]),
    ({"y_flip": 1}, lambda x: x[:, ::-1]),
    ({"x_flip": 1, "y_flip": 1}, lambda x: x[:, ::-1, ::-1]),
    ({"cos": -1, "sin": 1}, lambda x: np.rot90(x, 1, (1, 2))),
    ({"cos": -2}, lambda x: x[:, ::-1, ::-1]),
    ({"cos": -1, "sin": -1}, lambda x: np.rot90(x, -1, (1, 2))),
    ({"x_flip": 1, "cos": -1, "sin": 1}, lambda x: np.rot90(x[:, :, ::-1], 1, (1, 2))),
    ({"x": 3 * 8 / 6}, lambda x: np.pad(x, [(0, 0), (0, 0), (3, 0), (0, 0)], "reflect")[:, :, :-3]),
    ({"y": -2 * 8 / 6}, lambda x: np.pad(x, [(0, 0), (0, 2), (0, 0), (0, 0)], "reflect")[:, 2:]),
]


@pytest.mark.parametrize(("values", "expected"), EXACT, ids=[str(values) for values, _ in EXACT])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_can_be_exact_is_exact_on_noise(values, expected, channels):
    images = pictures(2, 6, 6, channels)
    np.testing.assert_allclose(move(images, labelled(2, **values)), expected(np.asarray(images)), atol=2e-6)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (20, 32)])
def test_labels_say_where_each_point_came_from(height, width):
    """A picture whose values are its own coordinates shows after the move where its points were: A^-1 (p - t)."""
    y, x = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    here = np.stack([x, y], axis=-1)
    ramp = jnp.asarray(np.broadcast_to(here, (64, height, width, 2)), jnp.float32)
    moved, labels = edm_augment(ramp, keys(64, 3), probability=1.0)
    matrix, shift = (np.asarray(part, np.float64) for part in moves(labels, height, width))
    source = np.einsum("bij,bhwj->bhwi", np.linalg.inv(matrix), here - shift[:, None, None])
    # Near the border the mirror is seen, through the filters' taps.
    inside = (np.abs(source) < np.array([width, height]) / 2 - 6).all(axis=-1)
    assert (inside.reshape(64, -1).sum(axis=1) > 0).mean() > 0.7
    np.testing.assert_allclose(np.asarray(moved)[inside], source[inside], atol=2e-4)
    sides = (1 - 2 * labels[:, 0]) * (1 - 2 * labels[:, 1])
    np.testing.assert_allclose(np.linalg.det(matrix), sides * 4 ** (0.2 * labels[:, 2]), rtol=1e-5)


def test_each_step_is_what_the_table_says():
    def matrix(**values):
        return np.asarray(moves(labelled(1, **values), 16, 32)[0][0])

    np.testing.assert_allclose(matrix(scale=5), 2 * np.eye(2), rtol=1e-6)
    np.testing.assert_allclose(matrix(a5_cos=5), np.diag([2, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(matrix(a5_cos=-5), np.diag([2, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(matrix(a5_sin=5), np.diag([0.5, 2]), atol=1e-6)
    both = matrix(a5_cos=5 * 0.6, a5_sin=5 * 0.8)
    np.testing.assert_allclose(both @ [0.6, 0.8], [1.2, 1.6], rtol=1e-6)
    np.testing.assert_allclose(both @ [-0.8, 0.6], [-0.4, 0.3], rtol=1e-6)
    np.testing.assert_allclose(matrix(x_flip=1, scale=5, cos=-1, sin=1), [[0, 2], [2, 0]], atol=1e-6)
    np.testing.assert_allclose(moves(labelled(1, x=1, y=-2), 16, 32)[1][0], [4, -4])


def test_a_flat_picture_stays_flat_however_it_is_moved():
    moved, labels = edm_augment(jnp.full((32, 8, 8, 1), 0.5), keys(32), probability=1.0)
    assert np.all(labels[:, 2:] != 0)
    np.testing.assert_allclose(moved, 0.5, atol=1e-5)


def test_a_picture_is_moved_by_its_own_key_alone():
    images = pictures(8, 9, 6, 1)
    whole = edm_augment(images, keys(8), probability=0.9)
    for part, rest in zip(whole, edm_augment(images[5:6], keys(8)[5:6], probability=0.9)):
        np.testing.assert_allclose(part[5:6], rest, atol=1e-5)


def test_each_step_is_taken_as_often_and_as_far_as_the_table_says():
    count, share = 20_000, 0.3
    _, labels = edm_augment(jnp.zeros((count, 1, 1, 1)), keys(count, 7), probability=share)
    labels = np.asarray(labels, np.float64)
    near = 4 * np.sqrt(0.25 / count)
    assert labels[:, 0].mean() == pytest.approx(0.5, abs=near)
    assert labels[:, 1].mean() == pytest.approx(share / 2, abs=near)
    taken = labels != 0
    taken[:, 3] = taken[:, 4]  # the cosine of a very small turn is 1
    for place in (2, 3, 4, 5, 6, 7, 8):
        assert taken[:, place].mean() == pytest.approx(share, abs=near)
    for one, other in ((5, 6), (7, 8)):  # taken together
        np.testing.assert_array_equal(taken[:, one], taken[:, other])
    for one, other in ((2, 3), (3, 5), (5, 7), (1, 2)):  # and apart
        apart = taken[:, one].mean() * taken[:, other].mean()
        assert (taken[:, one] & taken[:, other]).mean() == pytest.approx(apart, abs=near)
    spread = np.where(taken, labels, np.nan)
    # A deviation of n draws of kurtosis k is off by sqrt((k - 1) / 4n) of itself: 3 of a normal, 4.5 of one times a cosine.
    for places, wanted, kurtosis in (([2, 7, 8], 1.0, 3.0), ([5, 6], np.sqrt(0.5), 4.5)):
        off = 4 * np.sqrt((kurtosis - 1) / (4 * share * count))
        np.testing.assert_allclose(np.nanstd(spread, axis=0)[places], wanted, rtol=off)
    turns = labels[taken[:, 3]]
    np.testing.assert_allclose((turns[:, 3] + 1) ** 2 + turns[:, 4] ** 2, 1, atol=1e-5)
    assert np.abs(np.mean(turns[:, 3:5], axis=0) - [-1, 0]).max() < 4 * np.sqrt(0.5 / len(turns))


@pytest.mark.parametrize("wrong", [{"probability": 1.2}, {"probability": -0.1}, {"flips": float("nan")}])
def test_a_share_out_of_range_is_one_line(wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong))} .* is not from 0 to 1"):
        edm_augment(pictures(1, 4, 4, 1), keys(1), **wrong)
