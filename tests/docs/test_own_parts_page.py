"""docs/own_parts.md from its first file to its last error, as a reader gives them; what it says came out comes out."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import snippets

from diffusion_jax.config import load_config
from diffusion_jax.systems.check import check
from diffusion_jax.systems.table import keys

PAGE = snippets.ROOT / "docs" / "own_parts.md"
SLACK = 0.05  # of a network trained on another machine
HOME = "/home/you"
WORDS = ("diffusion-jax", "mkdir", "cp", "cd", "sed")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The reader's folder with the page's files, and without those that another test imported by these names."""
    monkeypatch.chdir(tmp_path)
    for file in snippets.write_files(PAGE, tmp_path):
        monkeypatch.setitem(sys.modules, file.stem, None)
        del sys.modules[file.stem]
    return tmp_path


def test_its_files_are_short_and_their_names_are_there(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    for block in (block for block in snippets.blocks(PAGE) if block.title):
        most = 75 if block.title in ("parts.py", "reader.py") else 30
        assert len(block.text.splitlines()) <= most, block.title
    for name in set(re.findall(r"(?<![\w/])[a-z]+:[A-Za-z_]\w*(?=[`\"\s])", PAGE.read_text())) - {"resmlp:ResMPL"}:
        module, _, attribute = name.partition(":")
        if (folder / f"{module}.py").is_file():
            assert hasattr(importlib.import_module(module), attribute), name


def test_its_configs_are_right(folder):
    for name in ("config.py", "reader_config.py"):
        check(load_config(name, {}, keys))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_page_from_top_to_bottom(folder, monkeypatch):
    for name in ("XLA_FLAGS", "JAX_DEBUG_NANS"):  # the suite's, which a reader has not set and training is slow by
        monkeypatch.delenv(name, raising=False)
    (folder / "bin").mkdir()
    program = folder / "bin" / "diffusion-jax"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m diffusion_jax "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    place = folder
    for block in snippets.blocks(PAGE):
        if block.language == "python" and not block.title:
            space: dict = {}
            with jax.numpy_rank_promotion("allow"):
                assert snippets.run(PAGE, lambda one, block=block: one == block, space)
        elif block.language == "":
            for command, said in steps(block.text):
                if command.startswith("cd "):
                    place = (place / command[3:]).resolve()
                    continue
                done = subprocess.run(command, shell=True, cwd=place, capture_output=True, text=True, check=False)
                wrong = any(line.startswith("error: ") for line in said)
                assert (done.returncode != 0) == wrong, f"{command}\n{done.stderr[-2000:]}"
                said = [line.replace(HOME, str(folder)) for line in said]
                agree(said, (done.stdout + done.stderr).splitlines(), command)
    moved = Path(shutil.move(folder / "runs" / "told", folder / "elsewhere" / "told"))
    for file in folder.glob("*.py"):
        file.unlink()
    drawing = f"diffusion-jax sample --run {moved.name} --prompt disc --num-images 2 --out a.png".split()
    subprocess.run(drawing, cwd=moved.parent, check=True)


def steps(text: str) -> list[tuple[str, list[str]]]:
    """Each command of a block with the lines that it is said to print."""
    found: list[tuple[str, list[str]]] = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith(WORDS):
            found.append((re.sub(r"\s+#.*", "", line), []))
        elif found:
            found[-1][1].append(line)
    return found


def agree(said: list[str], printed: list[str], command: str) -> None:
    """Each line that is said was printed, in order, with numbers that agree."""
    rest = iter(printed)
    for line in said:
        words = re.sub(snippets.NUMBER, "0", line)
        match = next((other for other in rest if re.sub(snippets.NUMBER, "0", other) == words), None)
        assert match is not None, f"{command}: {line!r} was not printed, but\n" + "\n".join(printed)
        for written, value in zip(re.findall(snippets.NUMBER, line), re.findall(snippets.NUMBER, match), strict=True):
            snippets.agree(written, snippets.number(value), command, SLACK)
