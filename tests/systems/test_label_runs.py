"""Diffusion told a class: trained, gone on with, loaded, asked by number and by name."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
import smallruns as tiny

from diffusion_jax import load_run
from diffusion_jax.cli import main
from diffusion_jax.typing import UserError

LABEL = {"condition": "{}", "condition.name": "label", "condition.drop": 0.25}


def train(workdir, **options):
    chosen = tiny.SMALL_DIFFUSION | LABEL | {"workdir": workdir} | options
    return ["train", "--no-progress", "--config", tiny.DIFFUSION, *tiny.flags(chosen)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("label") / "run"
    assert main(train(folder)) == 0
    return load_run(folder)


def test_a_class_is_asked_by_number_and_by_name(run):
    assert run.asks == ("label",) and run.condition.classes[3] == "three" and run.network is not None
    images = run.generate(["three", 3, "9", "THREE"], seed=1)
    np.testing.assert_array_equal(run.generate([3, 3, 9, 3], seed=1), images)
    assert np.abs(run.generate(["four"], seed=1) - images[:1]).max() > 0
    assert run.condition.null["label"] == [10] and run.params["label"].shape == (11, 16)
    away = run.generate(["three"], negative="nine", guidance_scale=2.0, seed=1)
    assert np.abs(away - run.generate(["three"], guidance_scale=2.0, seed=1)).max() > 0
    with pytest.raises(UserError, match="label 'tree' is none of the classes; did you mean 'three'"):
        run.generate(["tree"])
    np.testing.assert_array_equal(run.told(run.examples("validation"), np.zeros((180, 8, 8, 1)))["label"].shape, (180,))


def test_it_goes_on_bit_for_bit(run, tmp_path):
    """Stopped after 3 of 6 steps: the rate's fall depends on `steps`, so that both know of six."""
    shorter = {"optimizer.schedule": "constant"}
    assert main(train(tmp_path / "whole", **shorter)) == 0
    assert main(train(tmp_path / "parts", **shorter, steps=3)) == 0
    assert main(train(tmp_path / "parts", **shorter)) == 0
    last = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("whole", "parts")]
    assert last[0]["step"] == last[1]["step"] == 6 and last[0]["val_loss"] == last[1]["val_loss"]
    assert load_run(tmp_path / "whole").fingerprint == load_run(tmp_path / "parts").fingerprint


def test_other_classes_are_refused(run, tmp_path, capsys):
    file = run.path / "classes.json"
    kept = file.read_text()
    try:
        file.write_text(json.dumps({"classes": ["a", "b"]}))
        tiny.fails(capsys, train(run.path, steps=8), "was trained on the classes ['a', 'b']")
        file.unlink()
        with pytest.raises(UserError, match="does not say which classes"):
            load_run(run.path)
    finally:
        file.write_text(kept)
