"""Runs of older versions: a small CLIP and a diffusion run on it, kept as they were written, still give what they gave.

`golden/runs_format_1.tar.gz` was made before a config had a format number: two steps of each, and in expected.npz what the
runs gave then: embeddings, samples, and the losses of two steps more.
"""

import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from diffusion_jax import load_run, runs
from diffusion_jax.cli import main
from diffusion_jax.data.sources.digits import load_digits
from diffusion_jax.typing import UserError

sys.path.insert(0, str(Path(__file__).parent / "cli"))
import smallruns as tiny

GOLDEN = Path(__file__).parent / "golden" / "runs_format_1.tar.gz"
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def expected(old):
    with np.load(old / "expected.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.mark.parametrize("which", ["ema", "params"])
def test_they_give_what_they_gave(old, expected, which):
    clip, diffusion = load_run(old / "clip", which=which), load_run(old, which=which)
    prompts = ["a bold seven", "two"]
    how = {"solver": "heun", "num_steps": 3, "guidance_scale": 2.0, "negative": "a thin digit"}
    found = {
        "image": clip.encode_image(load_digits("test").columns()["image"][:4]),
        "text": clip.encode_text(prompts),
        "samples": diffusion.generate(prompts, seed=3),
        "heun": diffusion.generate(prompts, seed=3, **how),
    }
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[f"{which}_{name}"], **CLOSE, err_msg=name)


def test_their_configs_are_as_of_today(old):
    config = load_run(old).config
    assert config.condition.to_dict() == {"name": "text", "encoder": config.condition.encoder, "drop": 0.12}
    assert "text_encoder" not in config and "drop" not in config.loss
    assert runs.read_run(old / "diffusion")[1] == 1


@pytest.mark.slow
def test_they_go_on(old, expected, tmp_path, capsys):
    """Resumed by today's configs; the same losses come, and the config is then of today's format."""
    for name in ("clip", "diffusion"):
        shutil.copytree(old / name, tmp_path / name)
    short = {"steps": 4, "eval_every": 2, "checkpoint_every": 2, "log_every": 1, "optimizer.warmup_steps": 1}
    small = {"model.vision.width": 8, "model.text.width": 8, "model.vision.heads": 2, "model.text.heads": 2}
    # The diffusion run first: its text encoder must be the one that it was trained on.
    assert main(tiny.diffusion_arguments(tmp_path, **short, **{"model.width": 8, "model.heads": 2})) == 0
    assert main(tiny.clip_arguments(tmp_path, **short, **small)) == 0
    assert capsys.readouterr().err.count("resumed at step 2 of 4") == 2
    for name in ("clip", "diffusion"):
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses = [[row["step"], row["loss"]] for row in rows if "loss" in row]
        held_out = [[row["step"], row["val_loss"], row["val_loss_ema"]] for row in rows if "val_loss" in row]
        np.testing.assert_allclose(losses, expected[f"{name}_loss"], rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(held_out, expected[f"{name}_val"], rtol=1e-4, err_msg=name)
        assert runs.read_run(tmp_path / name)[1] == runs.FORMAT


@pytest.mark.parametrize("version", [3, 0, "2", None])
def test_a_format_of_a_later_version_is_one_line(old, tmp_path, version):
    shutil.copytree(old / "clip", tmp_path / "clip")
    file = tmp_path / "clip" / "config.json"
    file.write_text(json.dumps({"format": version, **json.loads(file.read_text())}))
    with pytest.raises(
        UserError, match=r"config\.json is of format .*, and this version reads 1 to 2: use the version"
    ):
        load_run(tmp_path / "clip")
