"""What a run is asked for, as the options of `sample` say it: `--prompt`, `--label`, `--image`, and `--prompts` FILE.

A run asks for nothing, for one thing, or for several at once. What is given of each is taken in turn, image i having the
i-th, from the first again after the last. A request to a run that asks for one thing is that thing, and to one that asks for
several a dict by their names, in which what is left out is the run's null.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_jax.cli.applies import ASKED, flag
from diffusion_jax.cli.notices import check_text
from diffusion_jax.data.labels import label_of
from diffusion_jax.data.sources.folders import hint, names_in, status
from diffusion_jax.data.text.text_files import parse_json, read_lines, shortened
from diffusion_jax.typing import UserError

__all__ = ["PICTURES", "Asked", "asked_of", "negative_of", "read_requests"]

PICTURES = ("image", "mask")
"""Those of `ASKED` that are files. What a run of one's own asks for under another name is said by `--prompt`."""
NEGATIVE = {"prompt": "negative", "label": "negative_label"}
TOLD = 8


@dataclasses.dataclass(frozen=True)
class Asked:
    """Requests for any number of images: those of each name in turn, or those of `rows`."""

    names: tuple[str, ...]
    given: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    rows: Sequence[Any] = ()

    def at(self, i: int) -> Any:
        """The request of image i."""
        if self.rows:
            return self.rows[i % len(self.rows)]
        each = {name: values[i % len(values)] for name, values in self.given.items()}
        return each if len(self.names) > 1 else each[self.names[0]]

    def parts(self, i: int) -> dict[str, Any]:
        """The same by the names of what is asked."""
        found = self.at(i)
        return dict(found) if len(self.names) > 1 else {self.names[0]: found}

    def different(self) -> list[Any]:
        """Requests that hold all that is asked for, each at least once."""
        return [self.at(i) for i in range(len(self.rows) or max(map(len, self.given.values())))]

    def note(self) -> dict[str, Any]:
        """What a folder of images keeps of them: the prompts, or all there is, and what lies in the pictures."""
        if self.names == ("prompt",):
            return {"prompts": list(self.rows or self.given["prompt"])}
        found: dict[str, Any] = {"requests": list(self.rows or [dict(self.given)])}
        every = [self.parts(i) for i in range(len(self.different()))]
        pictures = sorted({str(one[name]) for one in every for name in PICTURES if one.get(name) is not None})
        return found | ({"pictures": {name: _digest(name) for name in pictures}} if pictures else {})


def asked_of(run: Any, arguments: argparse.Namespace) -> Asked | None:
    """What the options ask of a run (a `systems.system.Drawing`), None of one that draws unasked.

    UserError where that is not what the run asks for, where it is asked for nothing, and for a class or a picture that there
    is not.
    """
    names = (run.asks,) if isinstance(run.asks, str) and run.asks else tuple(run.asks)
    given = [name for name in ASKED if getattr(arguments, name)]
    negative = [name for name in NEGATIVE.values() if getattr(arguments, name) is not None]
    said = [*given, *(["prompts"] if arguments.prompts is not None else [])]
    if not names:
        if said or negative:
            raise UserError(
                f"{_source(arguments)} draws unasked: {flag((said or negative)[0])} changes nothing; give "
                "--num-images alone"
            )
        return None
    by_option = {_option(name): name for name in names}
    for option, wanted in (*((option, option) for option in given), *((NEGATIVE[n], n) for n in NEGATIVE)):
        if option in (*given, *negative) and wanted not in by_option:
            raise UserError(f"{_source(arguments)} takes no {flag(option)}: it asks for {_told(names)}")
    if not said:
        raise UserError(f"{_source(arguments)} draws what it is asked for: give {_wanted(run, names)}")
    if arguments.prompts is not None and given and getattr(arguments, "pretrained", None) is None:
        raise UserError(f"{flag(given[0])} does not go with --prompts, whose lines say what each image is asked for")
    values = {
        by_option[option]: [_one(run, by_option[option], v, flag(option)) for v in getattr(arguments, option)]
        for option in given
    }
    if arguments.prompts is None:
        return Asked(names, values)
    rows = _read(run, names, arguments.prompts, texts=bool(values))
    if values:  # pictures that each line begins with which names no other
        own = [{name: one for name, one in row.items() if one is not None} for row in rows]
        rows = [{name: each[i % len(each)] for name, each in values.items()} | row for i, row in enumerate(own)]
    return Asked(names, rows=rows)


def negative_of(run: Any, asked: Asked | None, arguments: argparse.Namespace) -> Any:
    """What to keep away from, as the run takes it; None for nothing."""
    said = {name: getattr(arguments, option) for name, option in NEGATIVE.items()}
    found = {name: _one(run, name, value, flag(NEGATIVE[name])) for name, value in said.items() if value is not None}
    if asked is None or not found:
        return None
    return found if len(asked.names) > 1 else next(iter(found.values()))


def _source(arguments: argparse.Namespace) -> str:
    pretrained = getattr(arguments, "pretrained", None)
    return f"the run in {arguments.run!r}" if pretrained is None else f"the pipeline in {pretrained!r}"


def _option(name: str) -> str:
    return name if name in ASKED else "prompt"


def _told(names: Sequence[str]) -> str:
    *most, last = (flag(_option(name)) for name in names)
    return f"{', '.join(most)} and {last}" if most else last


def _wanted(run: Any, names: Sequence[str]) -> str:
    """Which options to give, with the first classes of a run that is asked for one."""
    classes = _classes(run)
    known = ", ".join(classes[:TOLD]) + (", ..." if len(classes) > TOLD else "")
    options = [f"{flag(_option(name))}{f' ({known})' if name == 'label' and classes else ''}" for name in names]
    return f"{' or '.join(options)}{', or both' if len(names) == 2 else ''}, or --prompts FILE"


def _classes(run: Any) -> tuple[str, ...]:
    return tuple(getattr(run, "class_names", ()))


def _one(run: Any, name: str, value: Any, where: str) -> Any:
    """What is asked under a name. UserError for a class that there is not, and for a picture that is not there."""
    if name == "label" and (classes := _classes(run)):
        row = label_of(classes, value)
        return classes[row] if classes.count(classes[row]) == 1 else row  # a name that several have says nothing
    if name in PICTURES and value is not None:
        path = Path(str(value))
        if status(path) is None:
            raise UserError(
                f"{where}: the picture {shortened(str(value))} does not exist{hint(path.name, names_in(path.parent))}"
            )
        return str(value)
    check_text(where, value if isinstance(value, str) else None)
    return value


def _read(run: Any, names: Sequence[str], file: str, *, texts: bool = False) -> list[Any]:
    """The requests of a file, one a line: as they are, or, to a run that asks for several things, as JSON objects.

    A text alone is a prompt, to a run that asks for no label, which it might be; nor may it be the path of a picture, but where
    lines are `texts`, the pictures being given.
    """
    lines = read_requests(file)
    if len(names) == 1:
        wheres = [f"{file}, line {i}" for i in range(1, len(lines) + 1)]
        return [_one(run, names[0], _alone(names[0], line, w), w) for line, w in zip(lines, wheres, strict=True)]
    found = []
    for number, line in enumerate(lines, 1):
        where = f"{Path(file).name}, request {number}"
        example = json.dumps(dict.fromkeys(names, "..."))
        if (
            not line.startswith("{")
            and "prompt" in names
            and "label" not in names
            and (texts or status(Path(line)) is None)
        ):
            found.append({"prompt": _one(run, "prompt", line, where)})
            continue
        if not line.startswith("{"):
            raise UserError(f"{where} is {shortened(line)}: the run asks for {_told(names)}, a line each as {example}")
        request = parse_json(line, where)
        if not isinstance(request, dict) or not request or not set(request) <= set(names):
            raise UserError(f"{where} has {', '.join(map(repr, request)) or 'nothing'}: it may have {', '.join(names)}")
        found.append({name: _one(run, name, value, where) for name, value in request.items()})
    return found


def _alone(name: str, line: str, where: str) -> Any:
    """The line, or what a JSON object of the one name says in it. UserError for an object of other names."""
    try:
        told = line.startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        told = False  # a text that begins with a brace
    if not told:
        return line
    found = parse_json(line, where)
    if list(found) != [name]:
        raise UserError(
            f"{where} has {', '.join(map(repr, found)) or 'nothing'}: it may have {name}; what is the same for all is said by "
            "options"
        )
    if not isinstance(found[name], str if name != "label" else str | int):
        raise UserError(f"{where} has {name} {shortened(json.dumps(found[name]))}, which is no text")
    return found[name]


def read_requests(name: str) -> list[str]:
    """The lines of a file of requests. UserError for one that is not there, and for one without any."""
    path = Path(name)
    if status(path) is None:
        raise UserError(f"prompt file {shortened(name)} does not exist{hint(path.name, names_in(path.parent))}")
    prompts = read_lines(path)
    if not prompts:
        raise UserError(f"prompt file {name!r} holds no prompt")
    return prompts


def _digest(name: str) -> str:
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()
