"""Diffusion told a class: loaded, asked by number and by name."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
import smallruns as tiny

from diffusion_jax import load_run
from diffusion_jax.typing import UserError


@pytest.fixture(scope="module")
def run(once):
    return load_run(once("label_run", tiny.make_label_run))


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


def test_other_classes_are_refused(run, tmp_path, capsys):
    folder = Path(shutil.copytree(run.path, tmp_path / "run"))
    (folder / "classes.json").write_text(json.dumps({"classes": ["a", "b"]}))
    tiny.fails(capsys, tiny.label_arguments(folder, steps=8), "was trained on the classes ['a', 'b']")
    (folder / "classes.json").unlink()
    with pytest.raises(UserError, match="does not say which classes"):
        load_run(folder)
