"""The commands, options, names, files and links of README.md and docs/*.md are those that there are."""

import argparse
import importlib
import re
import shlex

import pytest
import snippets

from diffusion_jax import build, cli, process, sampling
from diffusion_jax.config import load_config, parse_overrides
from diffusion_jax.nets import CLIP_MODELS
from diffusion_jax.systems.table import keys
from diffusion_jax.typing import UserError

ROOT = snippets.ROOT
PAGES = [*snippets.PAGES, ROOT / "CONTRIBUTING.md"]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
PLANNED_NAMES = {"VAE", "U-Net"}
MAKES_CONFIG = "def get_config("
each_page = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def in_backticks(page) -> list[str]:
    """What stands in backticks outside of the fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))


def parsers(parser) -> list[argparse.ArgumentParser]:
    """A parser, those of its commands, and those of theirs."""
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [parser, *(found for action in inner for child in action.choices.values() for found in parsers(child))]


def options() -> set[str]:
    """Every option of the commands, of the scripts, and the two of others' that the pages name."""
    found = {name for parser in parsers(cli.parser()) for name in parser._option_string_actions}
    for folder in ("experiments", "benchmarks"):
        found |= {
            name for path in (ROOT / folder).rglob("*.py") for name in re.findall(r'"(--[\w-]+)"', path.read_text())
        }
    return found | {"--xla_force_host_platform_device_count"}


@pytest.fixture
def configs(page, tmp_path, monkeypatch):
    """The configs that a page speaks of: those of the clone, where the reader stands, or its own in a folder of theirs."""
    files = snippets.write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path if files else ROOT)
    return [*CONFIGS, *(file for file in files if MAKES_CONFIG in file.read_text())]


@each_page
def test_commands_are_read_by_the_real_parser(page, configs):
    for line in snippets.commands(page):
        program, *rest = shlex.split(line)
        if program == "make":
            assert rest[-1] in TARGETS, line
        elif program == "python":
            assert rest[0] == "-m", line
            script = ROOT / rest[1].replace(".", "/")
            source = (script / "__main__.py" if script.is_dir() else script.with_suffix(".py")).read_text()
            assert all(f'"{word}"' in source for word in rest[2:] if word.startswith("--")), line
        else:
            arguments, overrides = cli.parser().parse_known_args(rest)
            file = {"train": "config", "encode": "config", "config": "file"}.get(arguments.command)
            assert not overrides or file, line
            if file:
                load_config(getattr(arguments, file), parse_overrides(overrides), keys)


@each_page
def test_options_and_config_keys_in_the_text_exist(page, configs):
    known = options()
    for text in in_backticks(page):
        before: dict[str, str] = {}
        for key, value in re.findall(r"--config\.([\w.]+)=([^\s`]+)", text):
            said = {key: value.strip('"')}
            # What stands before it may bring the key.
            assert any(_takes(config, key, one) for config in configs for one in (said, before | said)), (
                f"{page.name}: {text}"
            )
            before |= said
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", re.sub(r"--config\.\S+", "", text)):
            assert option in known, f"{page.name}: {text}"


def _takes(config, key: str, said: dict[str, str]) -> bool:
    """Whether a config, or a variant of it, takes what is said; where a page writes dots for a value, whether there is one."""
    variants = ["", *(f":{name}" for name in re.findall(r'^    "(\w+)": \{', config.read_text(), re.MULTILINE))]
    for variant in variants:
        try:
            loaded = load_config(f"{config}{variant}", {k: v for k, v in said.items() if v != "..."}, keys)
        except UserError:
            continue
        if said[key] != "..." or key in keys(loaded):
            return True
    return False


@each_page
def test_links_files_and_make_targets_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"
    for text in in_backticks(page):
        if text.startswith("make "):
            targets = re.findall(r"[a-z-]+", re.sub(r"\w+=\S*", "", text))[1:]
            assert set(targets) - {"demo"} <= set(TARGETS) | {"python"}, f"{page.name}: {text}"
        if re.match(r"(diffusion_jax|experiments|tests|benchmarks|configs|docs|data)/[\w./{},-]*$", text):
            for path in _expanded(text):
                assert (ROOT / path).exists() or (ROOT / "diffusion_jax" / path).exists(), f"{page.name}: {path}"


def _expanded(text: str) -> list[str]:
    """a/{b,c}.py as a shell has it."""
    match = re.match(r"(.*)\{(.*)\}(.*)", text)
    return [f"{match[1]}{part}{match[3]}" for part in match[2].split(",")] if match else [text]


def places() -> dict[str, object]:
    """The parts of the package by the names that the pages call them by."""
    names = [path.stem for path in (ROOT / "diffusion_jax").iterdir() if path.suffix == ".py" or path.is_dir()]
    return {name: None for name in names if not name.startswith("_")}


@each_page
def test_names_of_the_package_in_the_text_exist(page):
    for text in in_backticks(page):
        match = re.match(r"(?:diffusion_jax\.)?([a-z_]+)((?:\.\w+)+)(?:\(.*)?$", text)
        if match and match[1] in places() and not re.search(r"\.(py|md|csv|json|jsonl)$", match[0]):
            assert _resolves(match[1], match[2][1:].split(".")) or _is_key(match[1] + match[2]), f"{page.name}: {text}"


def _resolves(first: str, rest: list[str]) -> bool:
    found = importlib.import_module(f"diffusion_jax.{first}")
    for name in rest:
        if not hasattr(found, name):
            try:
                importlib.import_module(f"{found.__name__}.{name}")
            except (ImportError, AttributeError):
                return False
        found = getattr(found, name)
    return True


def _is_key(key: str) -> bool:
    """data.path is a key of a config, and no part of the package."""
    return any(_takes(config, key, {key: "..."}) for config in CONFIGS)


def listed(text: str, before: str, after: str) -> list[str]:
    """a, b and c between two pieces of text, its line breaks taken out."""
    flat = " ".join(text.split())
    return re.split(r", | and ", flat.partition(before)[2].partition(after)[0])


def test_the_readme_lists_what_there_is():
    text = (ROOT / "README.md").read_text()
    made = {name: make.__name__ for name, make in build.SCHEDULES.items()} | {"shifted": "Shifted"}
    assert sorted(listed(text, "schedules ", " (in configs")) == sorted(made.values())
    assert sorted(listed(text, "(in configs ", ")")) == sorted(f"`{name}`" for name in made)
    assert f"{len(build.SOLVERS)} families of solvers" in text
    models = {name.removesuffix("-quickgelu") for name in CLIP_MODELS}
    assert f"{len(models)} published CLIP, SigLIP and SigLIP 2 models" in text


def test_every_kind_of_guidance_stands_in_its_table():
    text = (ROOT / "docs" / "steering.md").read_text()
    rows = re.findall(r"^\| `(\w+)\(.*$", text.partition("| call |")[2].partition("```")[0], re.MULTILINE)
    assert len(rows) == 11 and all(callable(getattr(sampling, name)) for name in rows)
    assert "eleven kinds" in (ROOT / "README.md").read_text()
    assert callable(process.from_x0)
