"""Diffusion on pictures of any source, told nothing, a class or a caption: trained, stopped, gone on with, sampled."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import smallruns as tiny
from PIL import Image

from diffusion_jax import load_run
from diffusion_jax.cli import main
from diffusion_jax.report.pictures import to_uint8

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from sourced import FORMS, squares

CLASSES = str(tiny.ROOT / "configs" / "picture_classes.py")
SMALL = {
    "steps": 4, "batch_size": 8, "log_every": 2, "eval_every": 4, "checkpoint_every": 2, "optimizer.warmup_steps": 1,
    "optimizer.schedule": "constant", "model.width": 16, "model.layers": 1, "model.heads": 2, "sampler.num_steps": 3,
    "preprocess.size": 8, "preprocess.channels": 1, "data.flip": False, "data.validation": 0.2, "data.workers": 1,
}  # fmt: skip
TOLD = {
    "none": {"condition.name": "none", "condition.drop": 0.0, "sampler.guidance_scale": 1.0},
    "label": {},
    "text": {"condition.name": "text"},
}
COUNT = 24


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP whose text tower tells captions; of the digits' words, which is as good here as any."""
    folder = tmp_path_factory.mktemp("clip")
    assert main(tiny.clip_arguments(folder, steps=1, eval_every=1, checkpoint_every=1, optimizer__warmup_steps=0)) == 0
    return folder / "clip"


def spec_of(form, folder, told):
    """(the keys of `data` of these pictures, those that the config file has and the source does not take)."""
    images, labels, captions = squares(COUNT)
    made = FORMS[form](folder / "data", images, labels, captions if told == "text" else None)
    return {f"data.{key}": json.dumps(value) if isinstance(value, tuple) else value for key, value in made.items()}


def train(folder, name, told, spec, clip, **more):
    options = SMALL | TOLD[told] | spec | {"workdir": folder / name} | more
    if told == "none":
        options = {"condition": "{}"} | {key: value for key, value in options.items() if key != "condition.drop"}
    if told == "text":
        options["condition.encoder"] = clip
    return main(["train", "--no-progress", "--config", CLASSES, *tiny.flags(options)])


ALL = [(form, told) for form in FORMS for told in TOLD if (form, told) != ("folder", "label")]
FEW = {("folder", "none"), ("tar", "text")}
ROWS = [row if row in FEW else pytest.param(*row, marks=pytest.mark.slow) for row in ALL]


@pytest.mark.parametrize(("form", "told"), ROWS)
def test_every_source_and_what_is_told(form, told, clip, tmp_path, capsys):
    spec = spec_of(form, tmp_path, told)
    assert train(tmp_path, "whole", told, spec, clip) == 0
    runs = [load_run(tmp_path / "whole")]
    if (form, told) not in FEW:  # the few do not go on, for the time that it takes
        assert train(tmp_path, "parts", told, spec, clip, steps=2) == 0
        assert train(tmp_path, "parts", told, spec, clip) == 0
        runs.append(load_run(tmp_path / "parts"))
    assert len({run.fingerprint for run in runs}) == 1
    last = [json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])["val_loss"] for run in runs]
    assert len(set(last)) == 1 and np.isfinite(last[0])
    assert runs[0].image == (8, 8, 1) and (tmp_path / "whole" / "samples" / "step_000004.png").is_file()
    asked = {"none": [], "label": ["--label", "coat"], "text": ["--prompt", "a coat"]}[told]
    out = tmp_path / "drawn.png"
    command = ["sample", "--run", str(runs[0].path), "--num-images", "2", "--scale", "1", "--out", str(out)]
    assert main([*command, *asked]) == 0
    how = {"count": 2} if told == "none" else {"prompts": [asked[1]] * 2}
    with Image.open(out) as drawn:
        assert drawn.text.get({"label": "label", "text": "prompt"}.get(told)) == (asked or [None])[-1]
        # Pictures are shown as they are: dark is dark.
        tile = np.asarray(drawn)[2:10, 2:10].astype(int)
    np.testing.assert_allclose(tile, to_uint8(runs[0].generate(**how, seed=0)[0])[..., 0], atol=1)
