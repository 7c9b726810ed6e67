"""The help names what there is: its lists are those of the tables, its examples are read by the commands' own parser."""

import argparse
import re
import shlex
import subprocess
import sys
from importlib.metadata import version

import pytest

from diffusion_jax import __version__, build, cli
from diffusion_jax.build import guidance as steering
from diffusion_jax.convert import FORMATS
from diffusion_jax.convert.dit import LAYOUTS as OF_DITS
from diffusion_jax.convert.files import DTYPES
from diffusion_jax.convert.unet import LAYOUTS
from diffusion_jax.data.text.prompts import TEMPLATES
from diffusion_jax.nets import CLIP_MODELS
from diffusion_jax.pipelines.fine_tuning.convert import FORMATS as TUNED
from diffusion_jax.sampling.likelihood import DIVERGENCES

LISTS = {
    ("sample", "--solver"): build.SOLVERS,
    ("sample", "--grid"): build.GRIDS,
    ("sample", "--guidance"): steering.GUIDANCE,
    ("evaluate", "--divergence"): DIVERGENCES,
    ("evaluate", "--templates"): TEMPLATES,
    ("convert", "--format"): [*FORMATS, *LAYOUTS, *OF_DITS[1:], TUNED[0]],
    ("convert", "--dtype"): DTYPES,
}


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def help_of(command: str, option: str) -> str:
    return commands()[command]._option_string_actions[option].help


def named(text: str) -> list[str]:
    """a, b, c of 'when: a, b (said of b) or c, or a file'."""
    bare = re.sub(r" \([^)]*\)", "", text).partition(", or a ")[0].rpartition(": ")[2]
    return re.split(r", | or ", bare)


def test_a_list_is_read_as_it_is_written():
    assert named("with --x: a, b_2 (default: the run's) or c, or a file") == ["a", "b_2", "c"]


@pytest.mark.parametrize(("where", "table"), LISTS.items(), ids=[" ".join(where) for where in LISTS])
def test_a_list_in_the_help_is_the_table(where, table):
    assert sorted(named(help_of(*where))) == sorted(table)


@pytest.mark.parametrize("command", ["evaluate", "convert"])
def test_models_that_the_help_names_are_known(command):
    names = re.findall(r"(?:ViT|RN)[\w-]+", help_of(command, "--model"))
    assert names and set(names) <= set(CLIP_MODELS)


def test_options_of_a_guidance_that_the_help_names_are_taken():
    options = re.findall(r"(\w+)=([\d.,]*\d)", help_of("sample", "--guidance-option"))
    assert {"eta", *steering.LIMITS} == {key for key, _ in options}
    for key, text in options:
        numbers = [float(number) for number in text.split(",")]
        steering.check({"name": "apg", key: numbers if len(numbers) > 1 else numbers[0]})


def examples() -> list[str]:
    """Every line of every epilog that begins with the program's name, and what continues none."""
    inner = {
        a.metavar: a.choices
        for c in commands().values()
        for a in c._actions
        if isinstance(a, argparse._SubParsersAction)
    }
    every = [*commands().values(), *inner["ACTION"].values()]
    texts = [cli.parser().epilog, *(command.epilog for command in every)]
    lines = [line.strip() for text in texts for line in re.sub(r"^examples?: ", "", text).splitlines()]
    return [line.partition("   (")[0] for line in lines if "COMMAND" not in line]


def test_examples_are_read_by_the_parser():
    assert len(examples()) >= 16
    for line in examples():
        program, *rest = shlex.split(line)
        assert program == "diffusion-jax", line
        arguments, overrides = cli.parser().parse_known_args(rest)
        assert arguments.command in cli.COMMANDS
        assert all(override.startswith("--config.") for override in overrides), line


def test_every_command_is_in_the_help():
    assert tuple(commands()) == cli.COMMANDS
    assert re.search(r"`diffusion-jax (.*?)`", cli.__doc__).group(1).split(" | ") == list(cli.COMMANDS)


def test_version_is_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"diffusion_jax {__version__}, jax {version('jax')}, jaxlib ") and out.count("\n") == 1
    assert f"flax {version('flax')}" in out


def test_python_m_is_the_command_and_needs_no_network_library_to_say_its_version(tmp_path):
    code = (
        "import runpy, sys; sys.argv = ['-m', '--version']\n"
        "try: runpy.run_module('diffusion_jax', run_name='__main__')\n"
        "except SystemExit as stop: print(stop.code, sorted({'flax', 'optax', 'orbax', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[0].startswith(f"diffusion_jax {__version__}, ")
    assert done.stdout.splitlines()[1] == "0 []"
    for module in ("diffusion_jax", "diffusion_jax.cli"):
        done = subprocess.run([sys.executable, "-m", module, "trian"], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "did you mean 'train'?" in done.stderr
