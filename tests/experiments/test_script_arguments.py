"""What is wrong with a script's arguments is one line, said before anything is computed."""

import importlib
import sys
from pathlib import Path

import pytest

from diffusion_jax.typing import UserError
from experiments import arguments

MAIN = dict.fromkeys(("spiral", "digits", "steering"), ".__main__")


@pytest.mark.parametrize(("seed", "nearest"), [(-1, 0), (2**32, 2**32 - 1)])
def test_a_seed_that_is_none(seed, nearest):
    with pytest.raises(UserError, match=f"seed {seed} is not a whole number from 0 to 4294967295; nearest: {nearest}$"):
        arguments.one_seed(seed)
    assert arguments.one_seed(7) == 7


def test_a_folder_that_cannot_be(tmp_path):
    assert arguments.made_folder("--out", tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    for path in ("file", "file/below", "n" * 300):
        with pytest.raises(UserError, match=r"^--out .* cannot be made a folder: "):
            arguments.made_folder("--out", tmp_path / path)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("spiral --seed -1", "seed -1 is not a whole number"),
        ("spiral --out file", "--out 'file' cannot be made a folder: it is a file"),
        ("digits --seed -1 --out new", "seed -1 is not a whole number"),
        ("digits --out file", "--out 'file' cannot be made a folder"),
        ("steering --seed -1", "seed -1 is not a whole number"),
        ("solvers --out new --docs file", "--docs 'file' cannot be made a folder"),
        ("digits.pictures --out file", "'file' exists; choose another --out"),
    ],
)
def test_every_script_says_it_first(script, said, tmp_path, monkeypatch, capsys):
    """In this process: a process each would take seconds of importing."""
    name, *rest = script.split()
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    monkeypatch.setattr(sys, "argv", [name, *rest])
    assert importlib.import_module(f"experiments.{name}{MAIN.get(name, '')}").main() == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {said}") and captured.err.count("\n") == 1 and not captured.out
