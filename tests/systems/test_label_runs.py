"""Diffusion told a class: loaded, asked by number and by name."""

import contextlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
import smallruns as tiny

from diffusion_jax import load_run
from diffusion_jax.build import guidance
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
    for scale in (1, [1.0, 1.0]):
        with pytest.raises(UserError, match="guidance scale 1 is no guidance, so that a negative changes nothing"):
            run.generate(["three", "two"], negative="nine", guidance_scale=scale)
    with pytest.raises(UserError, match="label 'tree' is none of the classes; did you mean 'three'"):
        run.generate(["tree"])
    np.testing.assert_array_equal(run.told(run.examples("validation"), np.zeros((180, 8, 8, 1)))["label"].shape, (180,))


@pytest.mark.parametrize(
    ("rule", "scale", "refused"),
    [
        (None, 1, True),
        ({"name": "apg", "interval": (0.3, 5)}, 1.0, True),
        ("cfg_zero", np.ones(3), True),
        (None, np.array([1.0, 2.0]), False),
        (None, 0.0, False),
        ("cfg_plus_plus", 1.0, False),
        ("own_parts:plain", 1.0, False),
    ],
)
def test_what_keeps_nothing_away_is_refused(rule, scale, refused):
    """CFG++ noises with the eps of the negative at any scale, and what a rule of one's own does nobody knows."""
    with pytest.raises(UserError, match="give another scale, or no negative") if refused else contextlib.nullcontext():
        guidance.check_negative(rule, scale, "nine")
    guidance.check_negative(rule, scale, None)


def test_other_classes_are_refused(run, tmp_path, capsys):
    folder = Path(shutil.copytree(run.path, tmp_path / "run"))
    (folder / "classes.json").write_text(json.dumps({"classes": ["a", "b"]}))
    said = ("was trained on the classes ['a', 'b']", "choose another --config.workdir, or --overwrite")
    tiny.fails(capsys, tiny.label_arguments(folder, steps=8), *said)
    (folder / "classes.json").unlink()
    with pytest.raises(UserError, match="does not say which classes"):
        load_run(folder)
