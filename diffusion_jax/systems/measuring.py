"""`diffusion-jax evaluate` and `report` of a run: metrics by name, or what the run's data bring to measure and show it.

A metric is a function of a run, metric(run, *, split, samples, seed, say) -> {name: number}; one of one's own is
`--metric mine:metric`. It is given those keywords that it has. A source may name what measures and shows runs on it, as
"module:attribute" in its `measures` and `page`: measures(run, folder, split, samples=, seed=, say=) writes its numbers into the
folder, page(path) writes a page and returns its path.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_jax import build
from diffusion_jax.build.constructors import wanted
from diffusion_jax.build.own import own, pick
from diffusion_jax.files import check_folder, write_atomic
from diffusion_jax.parallel.memory import enough_memory
from diffusion_jax.runs import read_json
from diffusion_jax.typing import UserError

__all__ = ["WRITTEN", "check_metrics", "folder_of", "measure", "measure_by", "show"]

NUMBERS = "measures.json"
WRITTEN = (NUMBERS, "metrics.json", "evaluation.npz")
Say = Callable[[str], None]
Metrics = Mapping[str, Callable[..., Mapping[str, Any]]]


def folder_of(arguments: argparse.Namespace, written: Sequence[str]) -> Path:
    """Where the numbers of `evaluate` go: `--out`, or `report` in the run's folder. UserError where they cannot be written."""
    if arguments.out is not None:
        return check_folder(arguments.out, written)
    return check_folder(Path(arguments.run) / "report", written, "the folder")


def check_metrics(names: Sequence[str], table: Metrics) -> None:
    """UserError for a metric that there is not."""
    for name in names:
        pick("metric", name, table)


def brought(config: Any, what: str) -> Any:
    """What the data of a config bring, their `measures` or `page`; None where they bring none."""
    if "data" not in config or build.gives_pictures(config.data):
        return None
    name = getattr(build.source(config.data, "train"), what, None)
    return None if name is None else own(what, name)


def measure(run: Any, table: Metrics, arguments: argparse.Namespace, say: Say) -> int:
    """The metrics that were asked for; without any, what the data bring, or all of the table."""
    theirs = None if arguments.metric else brought(run.config, "measures")
    names = arguments.metric or ([] if theirs is not None else list(table))
    if theirs is None and not names:
        raise UserError(
            f"nothing measures the run in {arguments.run!r}: name a --metric of yours as 'module:attribute'"
        )
    with enough_memory(f"lower --samples {arguments.samples}"):
        if theirs is not None:
            folder = folder_of(arguments, WRITTEN)
            theirs(run, folder, arguments.split, samples=arguments.samples, seed=arguments.seed, say=say)
            say(f"written to {folder / 'metrics.json'}")
            return 0
        return measure_by(run, {name: pick("metric", name, table) for name in names}, arguments, say)


def measure_by(run: Any, metrics: Metrics, arguments: argparse.Namespace, say: Say) -> int:
    """Each metric, printed and written to measures.json; those in the file that were not taken again stay."""
    folder = folder_of(arguments, (NUMBERS,))
    file = folder / NUMBERS
    before = read_json(file) if file.is_file() else {}
    given = {"split": arguments.split, "samples": arguments.samples, "seed": arguments.seed, "say": say}
    found: dict[str, Any] = {}
    for name, metric in metrics.items():
        numbers = metric(run, **wanted(metric, given))
        if not isinstance(numbers, Mapping):
            raise UserError(f"metric {name!r} returns a {type(numbers).__name__}; it returns numbers by name")
        found[name] = {key: _plain(name, key, value) for key, value in numbers.items()}
    # Printed first: numbers of an hour are not lost to a disk that is full by now.
    print(json.dumps(found, indent=2), flush=True)
    write_atomic(file, (json.dumps({**before, **found}, indent=2) + "\n").encode())
    say(f"written to {file}")
    return 0


def _plain(metric: str, key: Any, value: Any) -> Any:
    """A number or text as JSON holds it."""
    value = value.item() if hasattr(value, "item") and getattr(value, "size", 2) == 1 else value
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"metric {metric!r}: {key!r} is a {type(value).__name__}, which JSON does not hold") from error
    return value


def show(config: Any, arguments: argparse.Namespace, say: Say) -> int:
    """The page that the data of a run bring. UserError where they bring none."""
    page = brought(config, "page")
    if page is None:
        raise UserError(f"no page is made of runs on the data {config.data.name!r}: their source names no `page`")
    say(f"written: {page(Path(arguments.run))}")
    return 0
