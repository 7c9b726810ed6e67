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
