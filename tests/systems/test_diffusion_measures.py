"""What is measured of any diffusion run: requests, samples beside pictures, nearest training pictures, loss by noise level."""

import argparse
import dataclasses
import json

import numpy as np
import pytest
from bare import bare_run, picture_run
from PIL import Image

from diffusion_jax.data.labels import labels_of
from diffusion_jax.process import from_x0
from diffusion_jax.systems.diffusion import drawn as beside
from diffusion_jax.systems.diffusion.conditions import Nothing
from diffusion_jax.systems.diffusion.measures import nearest_training, samples_beside_data
from diffusion_jax.systems.diffusion.noise_levels import LEVELS, loss_by_noise
from diffusion_jax.systems.diffusion.scores import doubts, score_tiles
from diffusion_jax.systems.measuring import measure_by
from diffusion_jax.typing import UserError


def quiet(text):
    """Says nothing."""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return bare_run(tmp_path_factory.mktemp("label"), "label")


@pytest.fixture(scope="module")
def unasked(tmp_path_factory):
    return bare_run(tmp_path_factory.mktemp("none"))


def drawing(run, monkeypatch, images):
    """Makes every generation give these images, and counts them."""
    calls = []

    def generate(self, prompts=None, *, count=None, start=0, **_):
        calls.append(prompts)
        return images[start : start + (count or len(prompts))]

    monkeypatch.setattr(type(run), "generate", generate)
    return calls


def test_samples_are_asked_for_what_the_pictures_of_a_split_are(told, unasked):
    data = told.examples("test")
    rows = beside.order(len(data))[:20]
    assert beside.requests(told, data, rows) == [int(label) for label in labels_of(data)[rows]]
    assert beside.requests(unasked, data, rows) == [None] * 20
    captioned = dataclasses.replace(told, condition=Asking(("prompt",)))
    assert beside.requests(captioned, data, rows[:2]) == [data[int(row)]["captions"][0] for row in rows[:2]]
    several = dataclasses.replace(told, condition=Asking(("label", "prompt")))
    assert beside.requests(several, data, rows[:1])[0].keys() == {"label", "prompt"}
    strange = dataclasses.replace(told, condition=Asking(("weather",)))
    assert beside.requests(strange, data, rows[:3]) == ["rain", "sun", "rain"]
    assert sorted(beside.order(50)) == list(range(50)) and list(beside.order(50)) != list(range(50))


@dataclasses.dataclass(frozen=True)
class Asking(Nothing):
    """A condition that says what it is asked by, and nothing else."""

    asks: tuple[str, ...] = ()

    def shown(self, data, held_out):
        return ["rain", "sun"]


def test_blurring_is_the_binomial_of_three():
    spot = np.zeros((1, 5, 5, 1))
    spot[0, 2, 2] = 16.0
    np.testing.assert_array_equal(beside.blurred(spot)[0, 1:4, 1:4, 0], np.outer([1, 2, 1], [1, 2, 1]))
    flat = np.full((2, 4, 4, 3), 0.5)
    np.testing.assert_array_equal(beside.blurred(flat), flat)
    rows = np.ones((3, 7))
    assert beside.blurred(rows) is rows


def test_training_pictures_in_place_of_samples_score_as_their_floor(unasked, monkeypatch):
    """Every score of the samples is that of `_real` where they are the same pictures, and they are drawn once for all."""
    floor = beside.pictures(unasked, unasked.examples("train"), beside.order(1257)[:60])
    calls = drawing(unasked, monkeypatch, floor)
    shared = {}
    found = samples_beside_data(unasked, split="test", samples=60, say=quiet, shared=shared)
    for name in ("frechet", "kernel", "precision", "recall", "density", "coverage"):
        assert found[name] == found[f"{name}_real"]
    assert found["frechet_blurred"] > 2 * found["frechet_real"] and found["recall_blurred"] < found["recall_real"]
    assert found["features"] == "pixels" and found["split"] == "test" and found["pictures"] == 60
    kept = {}
    near = nearest_training(unasked, split="test", samples=60, say=quiet, shared=shared, keep=kept.__setitem__)
    assert len(calls) == 1
    # each sample is a training picture: at no distance from itself, and kept beside it
    assert near["distance"] == 0.0 == near["ratio"] and near["nearer"] == 1.0 and near["training"] == 1257
    np.testing.assert_array_equal(kept["nearest_training"][:, 0], kept["nearest_samples"])
    assert kept["nearest_training"].shape == (8, 3, 8, 8, 1) and kept["nearest_distances"].shape == (8, 3)


def test_too_few_to_measure_is_one_line_that_names_the_least(unasked, monkeypatch):
    calls = drawing(unasked, monkeypatch, np.zeros((6, 8, 8, 1), np.float32))
    with pytest.raises(UserError, match="samples 5: precision, coverage and KID need 6 at least; nearest: 6"):
        samples_beside_data(unasked, split="test", samples=5, say=quiet)
    few = {("held_out", "test"): ("validation", [None] * 4)}
    with pytest.raises(UserError, match=r"the validation split of the data holds 4 examples, and precision.* need 6"):
        samples_beside_data(unasked, split="test", samples=6, say=quiet, shared=few)
    assert not calls
    said = []
    found = samples_beside_data(unasked, split="test", samples=6, say=said.append)
    assert None not in found.values() and len(calls) == 1
    assert found["dimensions"] == 64 and any(
        "6 pictures in 64 features: their covariances have rank 5" in x for x in said
    )


def test_numbers_of_few_pictures_are_doubted_and_do_not_stand_at_the_top():
    scores = {
        "samples": 1000,
        "pictures": 499,
        "dimensions": 256,
        "frechet": 3.0,
        "kernel": 0.5,
        "kernel_deviation": 0.125,
    }
    scores |= {"precision": 0.0, "recall": 1.0, "coverage": 0.0}
    scores |= {f"{name}_real": 0.25 for name in ("frechet", "kernel", "precision", "recall", "coverage")}

    def tiles(**changed):
        found = score_tiles({"samples": scores | changed}, {})
        return [tile.label for tile in found], doubts(scores | changed)

    assert tiles() == (
        ["Fréchet distance"],
        ["A share (precision, recall, coverage) of 499 pictures is uncertain by 2.2 points."],
    )
    assert tiles(pictures=500) == (["Fréchet distance", "Precision", "Coverage"], [])
    labels, said = tiles(pictures=500, dimensions=3072)
    assert labels == ["Kernel distance (KID)", "Precision", "Coverage"]
    assert (
        said[0].startswith("500 pictures in 3,072 features: their covariances have rank 499 at most") and len(said) == 1
    )
    labels, said = tiles(samples=43, told=31.25, told_others=9.0)
    assert labels == ["Kernel distance (KID)", "Fidelity to what was told"] and "by 7.6 points" in said[1]


def test_numbers_are_replaced_after_a_line_and_printed_in_short(unasked, tmp_path, capsys):
    given = argparse.Namespace(run="x", out=str(tmp_path), split="test", samples=500, seed=0, features=None)
    metrics = {
        "of_samples": lambda run, *, samples: {"samples": samples, "value": 1 / 3},
        "of_none": lambda run: {"levels": [np.pi, 2.0, None], "within": {"a": 12345678.5}},
    }
    said = []
    assert measure_by(unasked, metrics, given, said.append) == 0
    assert len(said) == 1  # where it was written
    text = capsys.readouterr().out
    assert json.loads(text) == {
        "of_samples": {"samples": 500, "value": 0.333333},
        "of_none": {"levels": [3.14159, 2.0, None], "within": {"a": 12345700.0}},
    }
    assert '    "levels": [3.14159, 2.0, null],\n' in text
    kept = json.loads((tmp_path / "measures.json").read_text())
    assert kept["of_samples"]["value"] == 1 / 3 and kept["of_none"]["levels"][0] == np.pi
    given.samples = 4
    assert measure_by(unasked, metrics, given, said.append) == 0
    assert "measures.json has of_samples (of 500 samples, now of 4), of_none, replaced" in said[1] and len(said) == 3


def test_held_out_pictures_are_as_far_from_the_training_as_they_are(unasked, monkeypatch):
    real = beside.pictures(unasked, unasked.examples("test"), beside.order(360)[:50])
    drawing(unasked, monkeypatch, real)
    near = nearest_training(unasked, split="test", samples=50, say=quiet)
    assert near["ratio"] == pytest.approx(1.0) and near["nearer"] <= 0.02


@pytest.mark.parametrize("name", ["told", "unasked"])
def test_the_loss_by_noise_level_has_the_closed_form_of_a_constant_guess(name, request):
    """x0-hat = 0 is off by the mean square of the data at every level; v by ((alpha^2 + sigma^2) / sigma)^2 times that, which
    is 1 / sigma^2 where the variance is preserved.
    """
    run = request.getfixturevalue(name)
    run = dataclasses.replace(run)
    run.__dict__["denoise"] = from_x0(lambda xt, t, cond: 0 * xt, run.schedule)
    found = loss_by_noise(run, split="test", say=quiet, most=230)
    data = run.examples("test")
    images = np.stack([data[int(row)]["image"] for row in beside.order(len(data))[:230]]).astype(np.float64)
    np.testing.assert_allclose(found["told"]["x0"], (images**2).mean(), rtol=1e-5)
    logsnr = np.array(found["logsnr"])
    np.testing.assert_allclose(found["told"]["v"], (images**2).mean() * (1 + np.exp(logsnr)), rtol=1e-2)
    assert len(logsnr) == LEVELS and (np.diff(logsnr) > 0).all() and found["examples"] == 230
    assert found["variance"] == pytest.approx(images.var(axis=0).mean())
    assert ("null" in found) == (name == "told")


def test_validation_stands_for_a_test_split_that_there_is_not(tmp_path):
    """And broken pictures are passed over where training passed over them."""
    folder = tmp_path / "pictures"
    for i in range(12):
        place = folder / ("train" if i < 8 else "val") / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), 20 * i, np.uint8)).save(place)
    (folder / "val" / "a" / "8.png").write_bytes(b"no picture")
    options = {"name": "classes", "path": str(folder), "flip": False, "on_error": "skip", "error_share": 0.5}
    run = picture_run(tmp_path, options)
    said = []
    split, data = beside.held_out(run, "test", said.append)
    assert split == "validation" and "no test split" in said[0] and len(data) == 4
    shared, once = {}, []
    assert (
        all(beside.held_out(run, "test", once.append, shared)[0] == "validation" for _ in range(3)) and len(once) == 1
    )
    # in the order of their names 11.png comes after the broken one
    grey = sorted((beside.pictures(run, data, range(4))[:, 0, 0, 0] + 1) * 127.5)
    np.testing.assert_allclose(grey, [180.0, 200.0, 220.0, 220.0], atol=1e-3)
    careful = dataclasses.replace(run, config=run.config.copy_and_resolve_references())
    careful.config.data.on_error = "raise"
    with pytest.raises(UserError, match=r"8\.png"):
        beside.pictures(careful, beside.held_out(careful, "validation", quiet)[1], range(4))
