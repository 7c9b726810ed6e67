"""From config groups to how pictures are prepared: sizes and channels that the pictures tell, and reading keys."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from diffusion_jax import build
from diffusion_jax.build.key_ranges import RANGES
from diffusion_jax.data.pictures.preprocess import HALF, Preprocess
from diffusion_jax.data.pictures.survey import channels_of, size_of, survey
from diffusion_jax.typing import UserError

GREY, COLOUR, TALL = np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8), np.zeros((12, 8, 3), np.uint8)


def items(*images):
    return [{"image": image, "name": f"p{i}"} for i, image in enumerate(images)]


def test_size_and_channels_are_those_of_the_pictures_unless_they_are_said():
    made = build.pictures(None, items(GREY, GREY))
    assert made == Preprocess(8, HALF, HALF, exif=True, channels=1)
    assert build.pictures({}, items(COLOUR)) == dataclasses.replace(made, channels=3)
    said = {
        "size": 5,
        "channels": 1,
        "resize": "squash",
        "interpolation": "box",
        "exif": False,
        "background": [0, 0, 9],
    }
    made = build.pictures(ConfigDict(said))  # all is said: no data are asked
    assert (made.size, made.channels, made.resize, made.background, made.exif) == (5, 1, "squash", (0, 0, 9), False)
    assert (
        build.pictures({}, shape=(7, 7, 1)).channels == 1 and build.pictures({"channels": 3}, shape=(7, 7, 3)).size == 7
    )
    assert build.pictures({"size": 4}, items(COLOUR, TALL)).pixels(TALL).shape == (4, 4, 3)
    assert build.pictures({"size": 4}, items(TALL), crop="none").resize == "squash"
    assert build.pictures({"size": 8, "channels": 3, "resize": "none"}, crop="none").resize == "none"


@pytest.mark.parametrize(
    ("spec", "images", "said"),
    [
        (
            {"size": 8},
            (GREY, COLOUR),
            r"are grey \('p0'\) and some are in colour \('p1'\): say preprocess.channels=3",
        ),
        (
            {},
            (COLOUR, TALL),
            r"preprocess.size is not said, .* \('p0' is of 8 x 8, 'p1' of 12 x 8\): say preprocess.size=8",
        ),
        ({}, (TALL,), r"not squares of one size \('p0' is of 12 x 8\)"),
        ({"sise": 8}, (COLOUR,), "key of preprocess 'sise' is not known; did you mean 'size'"),
        ({"mean": HALF}, (COLOUR,), "key of preprocess 'mean' is not known"),
        ({}, (), "the source is empty"),
    ],
)
def test_pictures_that_do_not_say_what_they_are_to_be(spec, images, said):
    with pytest.raises(UserError, match=said) as error:
        build.pictures(spec, items(*images))
    assert "\n" not in str(error.value)


def test_a_survey_looks_at_headers_over_the_whole_source(tmp_path):
    names = []
    for i in range(300):
        names.append(tmp_path / f"{i}.png")
        names[-1].write_bytes(b"broken")
    Image.fromarray(TALL).save(names[299])
    found = survey(items(*names))
    assert found.looked == 1 and size_of_error(found) and channels_of(found) == 3
    assert dict(found.sizes) == {(12, 8): "p299"}
    with pytest.raises(
        UserError, match=r"none of 128 pictures that were looked at can be read; one of them: .*not an image"
    ):
        survey(items(*names[:-1]))
    grey = items(GREY, GREY)
    found = survey(grey)
    assert (channels_of(found), size_of(found)) == (1, 8)


def size_of_error(found):
    with pytest.raises(UserError, match="not squares of one size"):
        size_of(found)
    return True


def test_reading_keys_and_crops():
    spec = {"name": "folder", "path": "x"}
    options = build.reading(spec)
    assert options == {
        "crop": "random", "crop_scale": (0.9, 1.0), "flip": False, "on_error": "raise", "error_share": 0.5, "workers": 0,
        "eval_pairs": 512,
    }  # fmt: skip
    crop = build.cropping(Preprocess(4), build.reading({**spec, "crop": "none"}))
    np.testing.assert_array_equal(crop(TALL, np.random.default_rng(0)), Preprocess(4, resize="squash").pixels(TALL))
    assert (
        build.cropping(Preprocess(4), options).distort
        and not build.cropping(Preprocess(4), options, distort=False).distort
    )
    with pytest.raises(UserError, match=r"data.crop 'centre' is not known; did you mean 'center'"):
        build.reading({**spec, "crop": "centre"})


def test_a_key_that_a_source_takes_itself_is_the_sources_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taking.py").write_text(
        "class Taking:\n    pictures = True\n    def __init__(self, split, flip=True, augment='much'): ...\n"
    )
    spec = {"name": "taking:Taking", "flip": True, "augment": "much", "augment_flips": 0.5, "crop": "center"}
    assert build.altered(spec) == {"augment": 0.0, "augment_flips": 0.5}
    assert not build.reading(spec)["flip"] and build.reading(spec)["crop"] == "center"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data.flip", 1, "is 1; it is True or False; nearest: True"),
        ("data.error_share", 1.5, "is 1.5; it is a share from 0 to 1; nearest: 1.0"),
        ("data.class_names", (), "it is the path of a file of names, as text, or a list of the names"),
        ("data.templates", 3, "it is the name of templates"),
        ("data.label_key", 3, "it is the name of a key"),
        ("preprocess.channels", 4, "is 4; it is 3, or 1 for grey, or None .*; nearest: 3"),
        ("preprocess.channels", 0, "nearest: 1"),
        ("preprocess.background", (1, 2), "three levels in 0 .. 255"),
        ("preprocess.resize", "non", "preprocess.resize 'non' is not known; did you mean 'none'"),
        ("data.crop", "none ", "data.crop 'none ' is not known; did you mean 'none'"),
    ],
)
def test_keys_out_of_their_range(key, value, said):
    with pytest.raises(UserError, match=said):
        RANGES[key].check(key, value)


def test_the_channels_of_a_tower_are_those_of_its_pictures():
    sizes = {"vision": {"image_size": 8, "channels": 1}, "logit_bias": False}
    assert build.preprocess({}, sizes).channels == 1 and build.preprocess({"channels": 1}, sizes).channels == 1
    with pytest.raises(UserError, match=r"'preprocess.channels' and 'model.vision.channels' are 3 and 1"):
        build.preprocess({"channels": 3}, sizes)


def test_captions_are_asked_of_the_data():
    class Named(list):
        uncaptioned = "nothing to read"

    texts = [{"image": GREY, "captions": ["a"]}]
    assert build.captioned({"name": "folder"}, texts) is texts
    for spec, data, said in (
        ({"name": "folder"}, Named(items(GREY)), "^nothing to read$"),
        (
            {"name": "classes"},
            items(GREY),
            "data 'classes': the examples have no captions; say data.templates=photo to",
        ),
    ):
        with pytest.raises(UserError, match=said):
            build.captioned(spec, data)
