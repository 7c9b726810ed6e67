"""Classes by number and by name, and the labels of any source."""

import numpy as np
import pytest

from diffusion_jax.data.examples import Examples, raw, to_unit
from diffusion_jax.data.labels import label_names, label_of, labels_of
from diffusion_jax.typing import UserError

NAMES = ("Ankle boot", "Bag", "7", "Shirt")


@pytest.mark.parametrize(
    ("asked", "row"), [("Bag", 1), ("bag", 1), (" ankle boot ", 0), (3, 3), ("3", 3), ("7", 2), (np.int32(1), 1)]
)
def test_a_class_by_name_and_by_number(asked, row):
    assert label_of(NAMES, asked) == row


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("bags", "did you mean 'Bag'"),
        ("whale", r"known: Ankle boot, Bag, 7, Shirt\)"),
        (4, "nearest: 3"),
        (-1, "nearest: 0"),
        (True, "no number and no name"),
        (1.0, "no number and no name"),
    ],
)
def test_what_is_no_class(asked, said):
    with pytest.raises(UserError, match=said):
        label_of(NAMES, asked)


IMAGENET = (
    "tench, Tinca tinca",
    "Cardigan, Welsh corgi",
    "crane",
    "cardigan",
    "crane",
    "maillot",
    "maillot, tank suit",
)


@pytest.mark.parametrize(
    ("asked", "row"),
    [
        ("tench", 0),
        ("tinca TINCA", 0),
        ("tench, Tinca tinca", 0),
        ("cardigan", 3),
        ("Cardigan", 1),
        ("maillot", 5),
        (4, 4),
    ],
)
def test_a_class_of_several_names(asked, row):
    """A whole name before a part of one, the case as it is before any other."""
    assert label_of(IMAGENET, asked) == row


def test_a_name_of_several_classes():
    with pytest.raises(UserError, match="'crane' is the name of the classes 2, 4: give the number of one"):
        label_of(IMAGENET, "crane")
    with pytest.raises(UserError, match="did you mean 'Tinca tinca'"):
        label_of(IMAGENET, "tinca tinka")


class Rows:
    """Two examples, read by number."""

    def __init__(self, *labels):
        self.found = labels

    def __len__(self):
        return len(self.found)

    def __getitem__(self, index):
        return {"image": np.full((2, 2, 1), index, np.uint8), "label": self.found[index]}


def test_labels_and_their_names():
    data = Examples(Rows(0, 2, 1), lambda image: image)
    np.testing.assert_array_equal(labels_of(data), [0, 2, 1])
    assert label_names(data) == ("0", "1", "2") and raw(data).found == (0, 2, 1)
    assert not hasattr(data, "columns") and not hasattr(data, "nothing")
    for wrong, said in (
        (Rows(0, None), "example 1 has no label"),
        (Rows(0, -1), "whole numbers"),
        (Rows(0.5), "whole"),
    ):
        with pytest.raises(UserError, match=said):
            labels_of(wrong)
    few = Rows(0, 1)
    few.class_names = ("one",)
    with pytest.raises(UserError, match="label 1 of the data has no name"):
        label_names(few)


def test_pictures_become_unit_range_and_floats_stay():
    np.testing.assert_allclose(to_unit(np.array([0, 255, 51], np.uint8)), [-1, 1, -0.6], atol=1e-6)
    floats = np.array([-3.0, 0.5], np.float32)
    np.testing.assert_array_equal(to_unit(floats), floats)
