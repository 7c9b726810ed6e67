"""The page of a diffusion run: every section that there is something for, and the command for what there is not."""

import argparse
import json
import re

import numpy as np
import pytest
from bare import bare_run, picture_run

from diffusion_jax.files import write_atomic
from diffusion_jax.report.page import render
from diffusion_jax.systems.diffusion import shown
from diffusion_jax.systems.diffusion.measures import METRICS
from diffusion_jax.systems.diffusion.page import _making, page_of
from diffusion_jax.systems.measuring import measure_by


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
    assert 'class="ink"' not in text and text.count("<img") == 1 + 2 * 4
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
    assert _making(run, tmp_path, {"nearest": near}, {}).commands[0].endswith("--samples 7 --features lite0")


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
