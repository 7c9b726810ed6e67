"""Arguments, exit codes and configs that are wrong: one line each, and nothing left behind."""

import json
import os
import subprocess
import sys
import warnings

import pytest
import smallruns as tiny

from diffusion_jax import cli
from diffusion_jax.typing import UserError


@pytest.mark.parametrize("command", [None, "train", "sample", "evaluate", "report"])
def test_help_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"] if command is None else [command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"diffusion-jax {command or 'sample'} --" in text[text.index("example") :]
    assert "(default: None)" not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["trian"], "command 'trian' is not known; did you mean 'train'?"),
        (["sample", "--promt", "a two"], "argument '--promt' is not known; did you mean '--prompt'?"),
        (
            ["sample", "--run", "x", "--prompt", "a", "--out", "a.png", "--num-images", "two"],
            "invalid int value: 'two'",
        ),
        (["sample", "--run", "x", "--prompt", "a", "--out", "a.png", "more"], "argument 'more' is not known"),
        (["sample", "--run", "x", "--prompt", "a", "--out", "a.png", "--weights", "raw"], "'ema', 'params'"),
        (["report", "--run", "x", "--config.steps=3"], "argument '--config.steps=3' is not known"),
        (["evaluate", "--run", "x", "--samples=1"], "--samples 1 is not at least 2"),
        (["evaluate", "--run", "x", "--smaples=3"], "did you mean '--samples'?"),
        (["train"], "--config"),
        (["train", "--config", tiny.CLIP, "--overwriet"], "did you mean '--overwrite'?"),
        (["train", "--config", tiny.CLIP, "steps=3"], "argument 'steps=3' is not known"),
        (["train", "--config", tiny.CLIP, "--config.steps"], "write --config.steps=VALUE"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, said, capsys):
    tiny.fails(capsys, arguments, said)


def test_message_of_several_lines_is_one(capsys):
    def fail():
        raise UserError("the first\nand the second")

    assert cli.guarded(fail) == 2
    assert capsys.readouterr().err == "error: the first and the second\n"


def test_full_disk_is_one_line_and_other_defects_are_not_hidden(capsys):
    def full():
        raise OSError(28, "No space left on device", "/somewhere/file")

    def defect():
        raise OSError(5, "Input/output error")

    assert cli.guarded(full) == 2
    assert "No space left on device: /somewhere/file" in capsys.readouterr().err
    with pytest.raises(OSError, match="Input/output"):
        cli.guarded(defect)


def test_interruption_is_130(capsys):
    def stop():
        raise KeyboardInterrupt

    assert cli.guarded(stop) == 130
    assert capsys.readouterr().err == "interrupted: what had been saved is kept\n"


def test_train_takes_overrides(run):
    config = json.loads((run / "clip" / "config.json").read_text())
    assert config["steps"] == tiny.SMALL["steps"]
    assert config["model"]["vision"]["width"] == 16
    assert config["optimizer"]["b2"] == 0.98  # the file's


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"stepz": 3}, "config key 'stepz' does not exist; did you mean 'steps'?"),
        ({"optimizer__learning_rat": 1}, "did you mean 'optimizer.learning_rate'?"),
        ({"optimizer": 1}, "'optimizer' is a group; set one of optimizer."),
        ({"steps": "many"}, "takes a value of type int, like 600; 'many' is not one"),
        ({"steps": 0}, "config key 'steps' is 0; it is a whole number of at least 1"),
        ({"seed": -1}, "config key 'seed' is -1; it is a whole number from 0 to 4294967295"),
        ({"batch_size": 12}, "batch_size 12 is not divided by the 8 devices of the mesh; nearest: 8 or 16"),
        ({"mesh__data": 3}, "mesh data=3"),
        ({"system": "clop"}, "system 'clop' is not known; did you mean 'clip'?"),
        ({"system": "diffusion"}, "'loss' is missing; a config of system 'diffusion' has one"),
        ({"model__name": "clib"}, "model 'clib' is not known; did you mean 'clip'?"),
        ({"model__vision__heads": 3}, "3"),
        ({"model__dtype": "float16"}, "dtype 'float16' is not known"),
        ({"data__name": "digit"}, "data 'digit' is not known; did you mean 'digits'?"),
        ({"data__shift": -1}, "config key 'data.shift' is -1.0; it is a number of pixels from 0 to 8; nearest: 0.0"),
        ({"optimizer__name": "adam"}, "optimizer 'adam' is not known; did you mean 'adamw'?"),
        ({"optimizer__schedule": "cosin"}, "schedule 'cosin' is not known; did you mean 'cosine'?"),
        ({"optimizer__warmup_steps": 9}, "'optimizer.warmup_steps' is 9 of the 6 of key 'steps'; nearest: 5"),
        ({"optimizer__learning_rate": 0}, "config key 'optimizer.learning_rate' is 0.0; it is a number above 0"),
        ({"ema__decay": 1}, "config key 'ema.decay' is 1.0; it is a share in [0, 1); nearest: 0.999999"),
    ],
)
def test_wrong_clip_config_is_one_line_and_leaves_no_folder(tmp_path, capsys, changed, said):
    tiny.fails(capsys, tiny.clip_arguments(tmp_path / "run", **changed), said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prediction": "eps"}, "prediction 'eps' cannot represent t = 1.0 under Cosine"),
        ({"sigma_data": 0}, "config key 'sigma_data' is 0.0; it is a standard deviation above 0"),
        ({"prediction": "w"}, "prediction 'w' is not known"),
        ({"time": "t100"}, "time 't100' is not known; did you mean 't1000'?"),
        ({"loss__space": "veloc"}, "loss.space 'veloc' is not known; did you mean 'velocity'?"),
        ({"loss__weight": "simpel"}, "loss.weight 'simpel' is not known; did you mean 'simple'?"),
        ({"loss__times": "unifrom"}, "loss.times 'unifrom' is not known; did you mean 'uniform'?"),
        ({"condition__drop": 1.5}, "config key 'condition.drop' is 1.5; it is a share in [0, 1); nearest: 0.999999"),
        ({"schedule__name": "cosin"}, "schedule 'cosin' is not known; did you mean 'cosine'?"),
        ({"sampler__solver": "ddmp"}, "solver 'ddmp' is not known; did you mean 'ddpm'?"),
        ({"sampler__grid": "unifrom"}, "grid 'unifrom' is not known; did you mean 'uniform'?"),
        (
            {"sampler__num_steps": 0},
            "config key 'sampler.num_steps' is 0; it is a whole number of at least 1; nearest: 1",
        ),
        ({"sampler__guidance_scale": 1e999}, "takes a value of type float, like 3.0; 'inf' is not one"),
        ({"model__heads": 3}, "3"),
    ],
)
def test_wrong_diffusion_config_is_one_line_and_leaves_no_folder(run, tmp_path, capsys, changed, said):
    tiny.fails(
        capsys, tiny.diffusion_arguments(tmp_path / "run", **({"condition.encoder": run / "clip"} | changed)), said
    )
    assert not (tmp_path / "run").exists()


def test_missing_files_are_named_with_the_nearest(run, tmp_path, capsys):
    spelt = tiny.CLIP.replace("digits_clip", "digit_clip")
    tiny.fails(capsys, ["train", "--config", spelt], f"{spelt!r} does not exist; did you mean {tiny.CLIP!r}?")
    tiny.fails(capsys, ["train", "--config", f"{tiny.DIFFUSION}:flows"], "did you mean 'flow'?")
    arguments = tiny.diffusion_arguments(tmp_path / "run", condition__encoder=run / "clib")
    tiny.fails(capsys, arguments, f"no run in '{run / 'clib'}'", f"did you mean '{run / 'clip'}'?")
    tiny.fails(
        capsys,
        tiny.diffusion_arguments(tmp_path / "run", condition__encoder=run / "diffusion"),
        "of system 'diffusion', not 'clip'",
    )
    assert not (tmp_path / "run").exists()


def test_backend_that_is_not_there_is_one_line(tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "nosuch"}
    command = [sys.executable, "-m", "diffusion_jax.cli", *tiny.clip_arguments(tmp_path / "run")]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tiny.ROOT)
    assert process.returncode == 2, process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: JAX finds no device: ")
    assert "nosuch" in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr


def test_a_warning_is_one_line_without_its_place(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.guarded(lambda: warnings.warn("a grid\n that does not fit", stacklevel=1) or 0) == 0
        with pytest.warns(DeprecationWarning, match="old"):  # others are shown as ever
            cli.guarded(lambda: warnings.warn("old", DeprecationWarning, stacklevel=1) or 0)
    assert capsys.readouterr().err == "warning: a grid that does not fit\n"
