"""What README.md and docs/*.md say that can be tried: their code, the numbers beside it, their commands, names and links.

A number beside code is right when what the code gives is within one unit of the last digit that is written, and within 5%
of it; or within `slack` of it, where it is that of a network trained on another machine. Read as claims are, in a comment
on a line of a statement and before the comment's first semicolon:

    # [8, 2]                      the shape of what was assigned; letters are any size; several values, several shapes
    # about .57, 1.2              the numbers that the statement printed, or the value of what was assigned
    # mean about 2, std about 1   the same of its mean and its standard deviation

and a block without a language after one of code is what it prints, word for word but for its numbers. A block of code with a
title, ```python title="mine.py", is that file: it is written, not run.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
NUMBER = r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?"
SHAPE = re.compile(r"(?<!in )\[([a-z]|\d+)((?:, (?:[a-z]|\d+))*)\]")
MEASURES: dict[str, Callable[[Any], Any]] = {"mean ": np.mean, "std ": np.std, "": lambda value: value}


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language ("" for none), its text, the line it begins at, the file that it is."""

    page: Path
    language: str
    text: str
    line: int
    title: str = ""

    def __str__(self) -> str:
        """As an editor finds it."""
        return f"{self.page.name}:{self.line}"


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The fenced blocks of a page in order, of one language where one is given."""
    found: list[Block] = []
    text = page.read_text()
    for match in re.finditer(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start(3)) + 1
        found.append(Block(page, match[1], match[3], line, match[2] or ""))
    return [block for block in found if language is None or block.language == language]


def write_files(page: Path, folder: Path) -> list[Path]:
    """The files that a page shows, written into a folder as a reader would."""
    found = [block for block in blocks(page) if block.title]
    for block in found:
        (folder / block.title).write_text(block.text)
    return [folder / block.title for block in found]


def commands(page: Path) -> list[str]:
    """Every `diffusion-jax`, `python` and `make` line of the blocks without a language, whole and without its comment.

    Those that show an error are left out.
    """
    text = "".join(block.text for block in blocks(page, "")).replace("\\\n", " ")
    text = re.sub(r"^.*\n(?=error: )", "", text, flags=re.MULTILINE)
    lines = (re.sub(r"\s+(#|\().*", "", line.strip()) for line in text.splitlines())
    return [line for line in lines if line.startswith(("diffusion-jax ", "python ", "make "))]


def number(text: str) -> float:
    """1,234.5, .5 or 97.2."""
    return float(text.replace(",", ""))


def tolerance(text: str) -> float:
    """How far from a written number a value may be: a unit of its last digit, and no more than 5%."""
    mantissa, _, exponent = text.lower().partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return min(unit, 0.05 * abs(number(text)) or unit)


def agree(written: str, value: float, where: str, slack: float = 0.0) -> None:
    """The value is what is written."""
    allowed = max(tolerance(written), slack * abs(number(written)))
    assert abs(value - number(written)) <= allowed, f"{where}: {written} is written, {value} comes out"


def run(
    page: Path,
    chosen: Callable[[Block], bool] = lambda block: True,
    space: dict[str, Any] | None = None,
    slack: float = 0.0,
) -> list[Block]:
    """Runs a page's code in one `space`, and holds it to what is written beside it and below it; the blocks that ran."""
    space = {} if space is None else space
    done = []
    every = blocks(page)
    for block, after in zip(every, [*every[1:], Block(page, "none", "", 0)]):
        if block.language != "python" or block.title or not chosen(block):
            continue
        out = "".join(_statement(node, block, space, slack) for node in ast.parse(block.text).body)
        # Nothing but the fence stands between code and its output.
        if after.language == "" and after.line == block.line + block.text.count("\n") + 2:
            _compare_output(after, out, slack)
        done.append(block)
    return done


def _statement(node: ast.stmt, block: Block, space: dict[str, Any], slack: float) -> str:
    """Runs one statement; what it printed."""
    captured = io.StringIO()
    code = compile(ast.Module([node], []), str(block), "exec")
    with contextlib.redirect_stdout(captured):
        exec(code, space)
    lines = block.text.splitlines()[node.lineno - 1 : node.end_lineno]
    comments = [line.partition("  # ")[2].partition(";")[0] for line in lines]
    for comment in filter(None, comments):
        _compare_comment(comment, node, captured.getvalue(), space, f"{block} + {node.lineno - 1}", slack)
    return captured.getvalue()


def _values(node: ast.stmt, space: dict[str, Any]) -> list[Any]:
    """What a statement assigned, or is."""
    if isinstance(node, ast.Assign):
        targets = node.targets[0]
    elif isinstance(node, ast.Expr):
        targets = node.value
    else:
        return []
    parts = targets.elts if isinstance(targets, ast.Tuple) else [targets]
    return [eval(ast.unparse(part), space) for part in parts]


def _compare_comment(comment: str, node: ast.stmt, out: str, space: dict[str, Any], where: str, slack: float) -> None:
    shapes = [tuple((m[1] + m[2]).split(", ")) for m in SHAPE.finditer(comment)]
    claims = re.findall(rf"(mean |std |)about ({NUMBER}(?:, {NUMBER})*)", comment)
    values = _values(node, space) if shapes or (claims and not out) else []
    if shapes:
        if len(values) == 1 and len(shapes) > 1:
            raise AssertionError(f"{where}: {len(shapes)} shapes are written of one value")
        for shape, value in zip(shapes, values, strict=True):
            got = np.shape(value)
            assert len(got) == len(shape), f"{where}: {shape} is written, {got} comes out"
            known = [(want, str(size)) for want, size in zip(shape, got) if want.isdigit()]
            assert all(want == size for want, size in known), f"{where}: {shape} is written, {got} comes out"
    for measure, text in claims:
        written = re.findall(NUMBER, text)
        found = re.findall(rf"(?<![\w.]){NUMBER}(?![\w.])", out) if out else [str(float(MEASURES[measure](values[0])))]
        assert len(found) == len(written), f"{where}: {written} is written, {found} comes out"
        for wanted, value in zip(written, found):
            agree(wanted, number(value), where, slack)


def _compare_output(block: Block, out: str, slack: float) -> None:
    """Line for line: the words as they are, the numbers as `agree` has it."""
    wanted, got = block.text.splitlines(), out.splitlines()
    assert len(wanted) == len(got), f"{block}: {len(wanted)} lines are written, {len(got)} come out:\n{out}"
    for i, (line, printed) in enumerate(zip(wanted, got)):
        where = f"{block} + {i}"
        assert re.sub(NUMBER, "0", line) == re.sub(NUMBER, "0", printed), f"{where}: {printed!r} comes out"
        for written, value in zip(re.findall(NUMBER, line), re.findall(NUMBER, printed)):
            agree(written, number(value), where, slack)
