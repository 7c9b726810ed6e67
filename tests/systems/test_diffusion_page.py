"""The page of a diffusion run: every section that there is something for, and the command for what there is not."""

import argparse
import dataclasses
import json
import re

import numpy as np
import pytest
from bare import bare_run, picture_run

from diffusion_jax.cli import main
from diffusion_jax.files import write_atomic
from diffusion_jax.report.page import render
from diffusion_jax.runs import write_json, written
from diffusion_jax.systems.diffusion import measures, shown
from diffusion_jax.systems.diffusion.conditions import Nothing
from diffusion_jax.systems.diffusion.drawn import order
from diffusion_jax.systems.diffusion.measures import METRICS
from diffusion_jax.systems.diffusion.page import _commands, _how_compared, page_of
from diffusion_jax.systems.diffusion.picture_sections import picture_sections
from diffusion_jax.systems.measuring import measure_by
from diffusion_jax.systems.resume import contents_of
from diffusion_jax.systems.table import config_at


def quiet(text):
    """Says nothing."""


def arguments(run):
    """Those of `evaluate`."""
    out = str(run.path / "report")
    return argparse.Namespace(run=str(run.path), out=out, split="test", samples=12, seed=0, features=None)


def headings(page):
    return [section.heading for section in page.sections]


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(shown, "EACH", 2)
    monkeypatch.setattr(shown, "SWEPT_EACH", 2)
    monkeypatch.setattr(shown, "ALONE", 4)


def test_a_run_told_a_label_is_shown_whole(tmp_path):
    run = bare_run(tmp_path, "label")
    folder = tmp_path / "report"
    folder.mkdir()
    assert measure_by(run, METRICS, arguments(run), quiet) == 0
    part = {f"{name}{error}": 1.25 for name in ("ode", "vlb", "levels") for error in ("", "_error")}
    bits = {"told": part, "null": part, "scans": 5, "split": "test", "grey_levels": 17, "uniform": 4.09}
    write_atomic(folder / "bits_per_dim.json", json.dumps(bits).encode())
    page = page_of(run, folder, quiet)
    assert headings(page) == [
        "What it draws", "Guidance", "From noise to a picture", "Beside the data", "Nearest training pictures", "Training",
        "How it was made",
    ]  # fmt: skip
    text = render(page)
    wanted = (
        "seven", "guidance 1 (off)", "guidance 5", "real, held out", "Fréchet distance", "KID", "1.250 ± 1.250",
        "given nothing", "Held-out loss by noise level", "The third training picture", "diffusion-jax evaluate",
    )  # fmt: skip
    for said in wanted:
        assert said in text, said
    assert (
        "Not measured yet" not in text
        and "<script" not in text
        and "http" not in re.sub(r"http://www.w3.org\S+", "", text)
    )
    assert text.count('class="ink"') == text.count("<img")  # digits are ink
    assert "nan" not in re.sub(r'base64,[^"]*', "", text)


def test_a_run_that_draws_unasked_and_was_not_measured(tmp_path):
    """Grey pictures are shown as they are, and not as ink on paper."""
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    run = picture_run(tmp_path, {"name": "arrays", "path": str(tmp_path / "data.npz"), "validation": 0.2, "test": 0.2})
    page = page_of(run, tmp_path / "report", quiet)
    assert headings(page) == [
        "What it draws",
        "From noise to a picture",
        "Beside the data",
        "Training",
        "How it was made",
    ]
    text = render(page)
    assert "Not measured yet:" in text and "--bits-per-dim" in text
    assert 'class="ink"' not in text and text.count("<img") == 2 + 2 * 4 and "real, held out" in text
    assert "examples of “" in page.lead
    assert page.tiles == () and "asked for nothing" in page.lead
    # One metric alone, in features of its own.
    near = {"features": "lite0", "samples": 7, "distance": 1.0, "distance_real": 2.0, "ratio": 0.5}
    (tmp_path / "report").mkdir()
    write_atomic(tmp_path / "report" / "measures.json", json.dumps({"nearest": near}).encode())
    found = page_of(run, tmp_path / "report", quiet)
    assert [tile.label for tile in found.tiles] == ["Distance to the training"]
    # Measured before the run went on: not numbers of these weights.
    for weights, tiles in ((run.fingerprint, 1), ("others", 0)):
        text = json.dumps({"nearest": near | {"weights": weights}})
        write_atomic(tmp_path / "report" / "measures.json", text.encode())
        assert len(page_of(run, tmp_path / "report", quiet).tiles) == tiles
    measured = [line for line in _commands(run, {"nearest": near}, {}) if "evaluate" in line]
    assert measured[0].endswith("--samples 7 --features lite0")


def grey_arrays(folder):
    """A file of 30 grey pictures of two classes, as the data of a run."""
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8)
    np.savez(folder / "data.npz", images=images, labels=np.arange(30) % 2)
    return {"name": "arrays", "path": str(folder / "data.npz"), "validation": 0.3, "test": 0.3}


PARTS = {"label": {"name": "label"}, "image": {"name": "image", "factor": 4}}


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"name": "image", "factor": 4}, False),
        ({"name": "image", "kind": "masked"}, False),
        ({"name": "several", "parts": PARTS}, True),
    ],
    ids=["low resolution", "masked", "several"],
)
def test_what_a_picture_was_asked_with_stands_before_it_wherever_it_is_shown(tmp_path, told, named):
    run = picture_run(tmp_path, grey_arrays(tmp_path), told)
    made = shown.show(run, run.examples("test"), quiet)
    count = len(made.names)
    assert list(made.told) == ["asked with", "real"] and [len(of) for of in made.told.values()] == [count] * 2
    assert count == 4 and ({*made.names} <= {"0", "1"}) == named
    second = made.swept[1]
    whole = run.examples("test")[int(order(len(run.examples("test")))[second])]["image"] / 127.5 - 1
    np.testing.assert_allclose(made.told["real"][second][0], whole, atol=1e-6)
    if told.get("kind") == "masked":
        seen = np.ones((8, 8, 1))
        seen[2:6, 2:6] = 0
        np.testing.assert_allclose(made.told["asked with"][second][0], whole * seen, atol=1e-6)
    drawn, guidance, way = (section.blocks[0] for section in picture_sections(run, made, lambda images: images))
    assert drawn.body.count(">asked with<") == 1 + count  # the head, and on a phone above each
    assert '--cells:minmax(0,1fr) minmax(0,1fr) minmax(0,2fr)"' in drawn.body
    assert guidance.body.count("<img") == 4 * (2 + len(made.scales)) and ">asked with<" in guidance.body
    assert "Asked with, then real" in way.body and way.body.count("<img") == 2 + 2 * len(made.path.times)
    assert "as the picture" not in drawn.body + guidance.body + way.body and (">0<" in drawn.body) == named


def test_captions_have_real_pictures_of_theirs_beside_them(tmp_path, monkeypatch):
    run = picture_run(tmp_path, grey_arrays(tmp_path) | {"templates": ["a {}"]})
    run = dataclasses.replace(run, condition=Captioned())
    none = np.zeros(0)
    monkeypatch.setattr(shown, "_path", lambda *_: shown.Path("", none, none, none))
    monkeypatch.setattr(shown, "draw", lambda run, asked, *_, **__: np.zeros((len(asked), 8, 8, 1)))
    held = run.examples("test")
    made = shown.show(run, held, quiet)
    assert made.names == ["“a 0”", "“a 1”", "“a 2”"] and [len(real) for real in made.real] == [2, 2, 0]
    first = next(i for i in range(len(held)) if held[i]["label"] == 0)
    np.testing.assert_allclose(made.real[0][0], held[first]["image"] / 127.5 - 1, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Captioned(Nothing):
    """Asked by captions, one of which no picture has."""

    asks: tuple[str, ...] = ("prompt",)

    def shown(self, data, held_out):
        return ["a 0", "a 1", "a 0", "a 2"]


def test_where_the_data_have_moved_the_page_is_made_of_what_the_run_holds(tmp_path, capsys, monkeypatch):
    """Without real pictures, in a sentence; `evaluate` says which run it is of, and --data where they are."""
    run = picture_run(tmp_path, grey_arrays(tmp_path), "label")
    write_json(tmp_path / "config.json", written(run.config))
    (tmp_path / "samples").mkdir()
    np.savez(tmp_path / "samples" / "step_000040.npz", raw=np.zeros((8, 8, 8, 1)), ema=np.ones((8, 8, 8, 1)))
    pictured = picture_run(tmp_path, grey_arrays(tmp_path), {"name": "image"})
    moved = (tmp_path / "data.npz").rename(tmp_path / "other.npz")
    page = page_of(run, tmp_path / "report", quiet)
    text = render(page)
    assert headings(page)[:2] == ["What it draws", "Guidance"] and "real, held out" not in text
    assert "There are no held-out pictures to show: there is no file or folder" in text and "Loss while" in text
    page = page_of(pictured, tmp_path / "report", quiet)
    assert headings(page)[0] == "What it drew in training" and "Samples of step 40" in render(page)
    monkeypatch.setattr(measures, "load_run", lambda path, data: dataclasses.replace(run, config=config_at(path, data)))
    for command, code in ((["evaluate", "--samples", "6"], 2), (["report"], 0)):
        assert main([*command, "--run", str(tmp_path)]) == code
        said = capsys.readouterr().err
        assert f"the data that the run in '{tmp_path}' was trained on" in said and "say --data PATH" in said
    write_json(tmp_path / "inputs.json", contents_of(run.config) | {"data.path": "another"})
    assert main(["report", "--run", str(tmp_path), "--data", str(moved)]) == 0
    assert "its files are others than those" in capsys.readouterr().err
    assert "real, held out" in (tmp_path / "report" / "index.html").read_text()
    write_json(tmp_path / "config.json", {"system": "diffusion", "data": {"name": "digits"}})
    assert main(["report", "--run", str(tmp_path), "--data", str(moved)]) == 2
    assert "the run's data 'digits' have no `data.path`" in capsys.readouterr().err


def test_the_commands_that_make_it_again_are_those_that_made_it(tmp_path):
    place = tmp_path / "my shapes"
    place.mkdir()
    run = dataclasses.replace(bare_run(tmp_path), path=place)
    argv = ["/bin/diffusion-jax", "train", "--config", "a.py", "--config.data.path=my pictures"]
    (place / "environment.json").write_text(json.dumps({"command": argv}))
    scores = {"split": "validation", "samples": 60, "seed": 3, "features": "lite0"}
    assert _commands(run, {"samples": scores}, {"split": "validation", "scans": 5}) == [
        "diffusion-jax train --config a.py '--config.data.path=my pictures'",
        f"diffusion-jax evaluate --run '{place}' --split validation --samples 60 --seed 3 --features lite0",
        f"diffusion-jax evaluate --run '{place}' --bits-per-dim --split validation --scans 5",
        f"diffusion-jax report --run '{place}'",
    ]
    (place / "environment.json").write_text(json.dumps({"command": ["pytest"]}))
    assert _commands(run, {}, {}) == [f"diffusion-jax report --run '{place}'"]


def test_the_page_says_what_its_numbers_are_of(tmp_path):
    run = bare_run(tmp_path, "label")
    scores = {"features": "pixels", "guidance_scale": 1.0, "samples": 43, "pictures": 43, "dimensions": 64}
    first, second = _how_compared(run, scores)
    assert first.startswith("These numbers are of samples at guidance 1, and the pictures above are at 2.")
    assert "takes blurred ones for precise" in first and "rank 42 at most" in second
    enough = {"features": "lite0", "guidance_scale": 2.0, "samples": 500, "pictures": 500}
    assert _how_compared(run, scores | enough) == []


def test_one_seed_draws_the_page(tmp_path):
    """Sample i of every request and of every scale begins at one noise; a page is the same when written again."""
    run = bare_run(tmp_path, "label")
    made, again = (shown.show(run, run.examples("test"), quiet) for _ in range(2))
    np.testing.assert_array_equal(made.samples, again.samples)
    assert (
        made.names[0] == "zero" and len(made.names) == 10 and made.scale == 2.0 and made.scales == (1.0, 2.0, 3.0, 5.0)
    )
    assert made.samples.shape == (10, 2, 8, 8, 1) and made.sweep.shape == (4, 4, 2, 8, 8, 1)
    np.testing.assert_allclose(made.sweep[0, 1], made.samples[0], atol=1e-6)
    np.testing.assert_allclose(made.path.states[-1], made.samples[0, 0], atol=1e-4)
    np.testing.assert_array_equal(made.path.times[[0, -1]], [1.0, 0.0])
