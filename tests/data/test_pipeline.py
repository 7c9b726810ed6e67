"""Batches as a function of (seed, step), and augmentation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.data.pictures.augmentation import add_noise, random_shift
from diffusion_jax.data.pipeline import batches, caption_table
from diffusion_jax.typing import UserError


class Table:
    """Twenty rows, given all at once."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {"value": index, "pair": np.array([index, -index]), "name": "text is left aside"}

    def columns(self):
        return {"value": np.arange(20), "pair": np.stack([np.arange(20), -np.arange(20)], 1)}


class Items:
    """The same without `columns`."""

    __len__ = Table.__len__
    __getitem__ = Table.__getitem__


def jittered(batch, rng):
    return {"nested": {"value": batch["value"] + rng.random(len(batch["value"]))}}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), size=st.sampled_from([1, 3, 8, 20, 27]))
def test_every_epoch_holds_every_example_once(seed, size):
    stream = batches(Table(), size, seed)
    values = np.concatenate([stream(step)["value"] for step in range(-(-60 // size))])
    for epoch in range(3):
        assert sorted(values[epoch * 20 : (epoch + 1) * 20]) == list(range(20))
    assert list(values[:20]) != list(values[20:40])


def test_a_batch_is_a_function_of_seed_and_step():
    one, two = (batches(Table(), 6, 4, jittered) for _ in range(2))
    later = two(9)  # asked for first: no state
    for step in range(9):
        one(step)
    np.testing.assert_array_equal(one(9)["nested"]["value"], later["nested"]["value"])
    assert (batches(Table(), 6, 5, jittered)(9)["nested"]["value"] != later["nested"]["value"]).any()


def test_sources_without_columns_give_the_same_batches():
    a, b = batches(Table(), 7, 0)(3), batches(Items(), 7, 0)(3)
    assert a.keys() == b.keys() == {"value", "pair", "index"}
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_processes_share_one_global_batch():
    whole = batches(Table(), 12, 1, jittered)(5)["nested"]["value"]
    parts = [
        batches(Table(), 12, 1, jittered, process_index=i, process_count=3)(5)["nested"]["value"] for i in range(3)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_what_cannot_be_batched_is_refused():
    with pytest.raises(UserError, match="batch_size 10 is not divided by the 4 processes; nearest: 8"):
        batches(Table(), 10, 0, process_count=4)
    with pytest.raises(UserError, match="batch_size 0"):
        batches(Table(), 0, 0)

    class Empty(Table):
        def __len__(self):
            return 0

    with pytest.raises(UserError, match="empty"):
        batches(Empty(), 1, 0)


class Offsets(np.random.Generator):
    """A generator that always draws the same offsets, rows then columns."""

    def __init__(self, *offsets):
        super().__init__(np.random.PCG64(0))
        self.offsets = list(offsets)

    def __new__(cls, *offsets):
        return super().__new__(cls)

    def uniform(self, low, high, size):
        return np.full(size, self.offsets.pop(0))


def test_a_whole_shift_moves_pixels_and_fills_with_background():
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    moved = random_shift(image, Offsets(1.0, -2.0), 2.0)
    wanted = np.full((4, 4), -1.0)
    wanted[1:, :2] = image[0, :3, 2:, 0]
    np.testing.assert_array_equal(moved[0, :, :, 0], wanted)


@settings(max_examples=20, deadline=None)
@given(st.floats(-1, 1), st.floats(-1, 1))
def test_a_fraction_of_a_shift_moves_the_centre_of_mass_by_it(rows, columns):
    image = np.full((1, 9, 9, 1), -1.0, np.float32)
    image[0, 4, 4] = 1.0
    ink = (random_shift(image, Offsets(rows, columns), 1.0)[0, :, :, 0] + 1) / 2
    assert ink.sum() == pytest.approx(1, abs=1e-5)
    centre = [(ink * axis).sum() for axis in np.meshgrid(np.arange(9), np.arange(9), indexing="ij")]
    assert centre == pytest.approx([4 + rows, 4 + columns], abs=1e-4)


def test_no_shift_and_no_noise_give_the_images_back():
    images = np.zeros((2, 3, 3, 1), np.float32)
    rng = np.random.default_rng(0)
    assert random_shift(images, rng, 0.0) is images
    assert add_noise(images, rng, 0.0) is images
    for refused in (random_shift, add_noise):
        with pytest.raises(UserError, match="negative; nearest: 0"):
            refused(images, rng, -0.5)


def test_noise_has_its_standard_deviation_and_stays_in_range():
    noised = add_noise(np.zeros((50, 20, 20, 1), np.float32), np.random.default_rng(0), 0.1)
    assert noised.std() == pytest.approx(0.1, rel=4 / np.sqrt(2 * noised.size))
    assert noised.dtype == np.float32
    assert np.abs(add_noise(np.ones((5, 8, 8, 1), np.float32), np.random.default_rng(0), 2.0)).max() == 1.0


def test_examples_of_different_numbers_of_captions():
    source = [{"captions": ["a", "b", "c"]}, {"captions": ["b"]}, {"captions": ("d", "a")}]
    table = caption_table(source)
    assert table.unique == ("a", "b", "c", "d")
    drawn = [{table.unique[row] for row in table.pick(np.full(200, i), np.random.default_rng(0))} for i in range(3)]
    assert drawn == [{"a", "b", "c"}, {"b"}, {"d", "a"}]
    # Which example stands in a row, as in place of a broken one, changes nothing for the others.
    one, other = (table.pick(np.r_[first, np.full(99, 0)], np.random.default_rng(5)) for first in (1, 2))
    np.testing.assert_array_equal(one[1:], other[1:])
    shares = np.bincount(table.pick(np.zeros(3000, int), np.random.default_rng(1)), minlength=4) / 3000
    np.testing.assert_allclose(shares, [1 / 3, 1 / 3, 1 / 3, 0], atol=4 * np.sqrt(2 / 9 / 3000))
    with pytest.raises(UserError, match="example 1 has no captions"):
        caption_table([{"captions": ["a"]}, {"image": 0}])
