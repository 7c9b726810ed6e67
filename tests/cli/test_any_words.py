"""Any words on the command line end in exit code 0, or in 2 with one line: never in a traceback, and nothing is made.

What would compile or train is left out by standing in for it; what is tried is everything before.
"""

import contextlib
import functools
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import smallruns as tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_jax.cli import commands, main, parser, sample
from diffusion_jax.systems import table
from diffusion_jax.systems.clip import evaluate as clip_evaluate
from diffusion_jax.systems.diffusion import measures as diffusion_measures
from diffusion_jax.systems.diffusion.run import DiffusionRun

NUMBERS = [
    "0",
    "-1",
    "1",
    "3",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "10000000000000",
    "1_0",
    "٣",
    "",
    " ",
    "x",
    "None",
]
TEXTS = ["", "a seven", "\N{PARTY POPPER}", "\udcff", "\0", "x" * 5000, "a\nb", "--prompt", "-", "[a]", "{}", "%s", "é"]
NAMES = [
    "ddim",
    "heun",
    "apg",
    "cfg_plus_plus",
    "uniform",
    "karras",
    "exact",
    "photo",
    "hf",
    "openai",
    "float32",
    "ViT-B-32",
]
OPTIONS = ["eta=nan", "eta", "=", "eta=", "interval=0.3,5", "interval=5,0.3", "rescale=2", "eta=0.2", "a.b=1", "eta=()"]


@pytest.fixture(scope="module")
def place(run, tmp_path_factory):
    """A folder of files of every kind, and in it two runs."""
    folder = tmp_path_factory.mktemp("any")
    for name in ("clip", "diffusion"):
        shutil.copytree(run / name, folder / name)
    (folder / "empty").mkdir()
    (folder / "empty.txt").touch()
    (folder / "prompts.txt").write_text("a seven\n")
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "b[1] c").mkdir()
    (folder / "classes.json").write_text("[1]")
    (folder / "config.json").write_text("{}")
    for name, text in (("three", "return 3"), ("raises", "raise KeyError('x')"), ("none", "")):
        (folder / f"{name}.py").write_text(f"def get_config():\n    {text or 'pass'}\n")
    return folder, paths(folder)


def paths(folder):
    inside = [str(path) for path in sorted(folder.iterdir())]
    others = [
        "",
        ".",
        "/",
        "nothing",
        "/dev/null",
        "x" * 300,
        "a/" * 3000,
        "\0",
        "\udcff",
        "é/ü",
        tiny.CLIP,
        tiny.CLIP + ":no",
    ]
    return inside + others


def words(place, known, command, given_options, draw):
    """The arguments of a command: what it needs, and some options, each with a value of some kind."""
    subparsers = next(a for a in parser()._actions if a.choices and "sample" in a.choices)
    values = known + NUMBERS + TEXTS + NAMES + OPTIONS
    needed = {
        "sample": "run out",
        "evaluate": "run",
        "report": "run",
        "convert": "out",
        "vocabulary": "out",
        "train": "config",
    }
    made = [command]
    for option in subparsers.choices[command]._actions:
        name = option.option_strings[0] if option.option_strings else None
        if name == "-h" or option.dest == "distributed":
            continue
        must = option.dest in needed[command].split() or name is None
        if not must and option.dest not in given_options:
            continue
        count = option.nargs if isinstance(option.nargs, int) else 1
        own = {"run": [str(place), str(place / "clip")], "out": [str(place / "new.png"), str(place / "new")]}
        chosen = [draw(st.sampled_from(own.get(option.dest, values)) | st.sampled_from(values)) for _ in range(count)]
        if name is None:
            made += chosen
        elif count == 0:
            made.append(name)
        else:
            made += [name, *chosen] if count > 1 or draw(st.booleans()) else [f"{name}={chosen[0]}"]
    return made


def listing(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def check(place, command, data):
    subparsers = next(a for a in parser()._actions if a.choices and "sample" in a.choices)
    optional = [a.dest for a in subparsers.choices[command]._actions if a.option_strings and a.dest != "help"]
    chosen = data.draw(st.sets(st.sampled_from(sorted(optional)), max_size=4))
    if command == "sample" and not chosen & {"prompt", "prompts"}:
        chosen.add("prompt")
    arguments = words(*place, command, chosen, data.draw)
    before = listing(place[0])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    said = err.getvalue()
    assert code in (0, 2), (arguments, said)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == (code == 2), (arguments, said)
    assert "Traceback" not in said, (arguments, said)
    assert len(said) < 4000, (arguments, len(said))
    if code == 2:
        assert said.splitlines()[-1] == lines[0], (arguments, said)
        assert listing(place[0]) == before, arguments


@pytest.fixture
def no_work(monkeypatch, tmp_path, run):
    """What costs time is stood in for; weights are read once."""
    load = functools.cache(table.load_run)
    for module in (commands, sample):
        monkeypatch.setattr(module, "load_run", lambda path, **options: load(str(path), **options))
    monkeypatch.setattr(DiffusionRun, "generate", lambda self, prompts, **_: np.zeros((len(prompts), 8, 8, 1)))
    monkeypatch.setattr("experiments.digits.measures.measure", lambda *_, **__: None)
    for module in (diffusion_measures, clip_evaluate):
        monkeypatch.setattr(module, "measure", lambda *_, **__: 0)
    monkeypatch.setattr(commands, "train_run", lambda config, **_: Path("trained"))
    monkeypatch.setattr("diffusion_jax.systems.diffusion.likelihood.bits_per_dim", lambda *_, **__: stand_in())
    monkeypatch.chdir(tmp_path)


def stand_in():
    keys = ("ode", "vlb", "levels")
    part = dict.fromkeys(keys, 0.0) | {f"{key}_error": 0.0 for key in keys}
    return {"captioned": part, "null": part}


COMMANDS = ("sample", "evaluate", "report", "convert", "vocabulary", "train")
HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=12, deadline=None, suppress_health_check=HEALTH, derandomize=True)
@given(data=st.data())
def test_any_words_end_in_0_or_one_line(place, no_work, command, data):
    check(place, command, data)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=400, deadline=None, suppress_health_check=HEALTH)
@given(data=st.data())
def test_many_words_end_in_0_or_one_line(place, no_work, command, data):
    check(place, command, data)
