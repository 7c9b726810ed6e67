"""`diffusion-jax evaluate` and `report` of a run: metrics by name, or what the run's data bring to measure and show it.

A metric is a function of a run, metric(run, *, split, samples, seed, say) -> {name: number}; one of one's own is
`--metric mine:metric`. It is given those keywords that it has; beside these there are `features`, the name of what is compared
in, `shared`, a dict in which metrics that are taken together leave things for each other, and `keep(name, array)`, by which it
leaves arrays for a page. A source may name what measures and shows runs on it, as
"module:attribute" in its `measures` and `page`: measures(run, folder, split, samples=, seed=, say=) writes its numbers into the
folder, page(path) writes a page and returns its path.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax import build
from diffusion_jax.build.constructors import wanted
from diffusion_jax.build.own import own, pick
from diffusion_jax.files import check_folder, write_atomic
from diffusion_jax.parallel.memory import enough_memory
from diffusion_jax.runs import read_json
from diffusion_jax.typing import UserError

__all__ = [
    "ARRAYS",
    "NUMBERS",
    "WRITTEN",
    "brought",
    "check_metrics",
    "folder_of",
    "measure",
    "measure_by",
    "numbers_as_text",
    "read_arrays",
    "show",
]

NUMBERS, ARRAYS = "measures.json", "measures.npz"
WRITTEN = (NUMBERS, ARRAYS, "metrics.json", "evaluation.npz")
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


def measure(run: Any, table: Metrics, arguments: argparse.Namespace, say: Say, *, bring: bool = True) -> int:
    """The metrics that were asked for; without any, what the data bring (unless `bring` is false), or all of the table."""
    theirs = brought(run.config, "measures") if bring and not arguments.metric else None
    names = arguments.metric or ([] if theirs is not None else list(table))
    if theirs is None and not names:
        raise UserError(
            f"nothing measures the run in {arguments.run!r}: name a --metric of yours as 'module:attribute'"
        )
    if theirs is not None and arguments.features is not None:
        raise UserError(
            f"--features {arguments.features} changes nothing of what the data {run.config.data.name!r} measure themselves: "
            "name a --metric, such as samples"
        )
    with enough_memory(f"lower --samples {arguments.samples}"):
        if theirs is not None:
            folder = folder_of(arguments, WRITTEN)
            theirs(run, folder, arguments.split, samples=arguments.samples, seed=arguments.seed, say=say)
            say(f"written to {folder / 'metrics.json'}")
            return 0
        return measure_by(run, {name: pick("metric", name, table) for name in names}, arguments, say)


def measure_by(run: Any, metrics: Metrics, arguments: argparse.Namespace, say: Say) -> int:
    """Each metric, printed in short and written to measures.json; those in the file that were not taken again stay.

    What is replaced is said before it is measured.
    """
    folder = folder_of(arguments, (NUMBERS, ARRAYS))
    file, beside = folder / NUMBERS, folder / ARRAYS
    before = read_json(file) if file.is_file() else {}
    arrays: dict[str, np.ndarray] = {}
    given = {"split": arguments.split, "samples": arguments.samples, "seed": arguments.seed, "say": say, "shared": {}}
    chosen = arguments.features
    given |= {"features": chosen or "pixels", "keep": lambda name, array: arrays.__setitem__(name, np.asarray(array))}
    if chosen is not None and not any("features" in wanted(metric, given) for metric in metrics.values()):
        raise UserError(f"--features {chosen} changes nothing: {', '.join(metrics)} compare in none")
    if replaced := _replaced(before, metrics, given):
        say(f"{file} has {replaced}, replaced when measured anew: --out DIR keeps them apart")
    found: dict[str, Any] = {}
    for name, metric in metrics.items():
        numbers = metric(run, **wanted(metric, given))
        if not isinstance(numbers, Mapping):
            raise UserError(f"metric {name!r} returns a {type(numbers).__name__}; it returns numbers by name")
        found[name] = {key: _plain(name, key, value) for key, value in numbers.items()}
    # Printed first: numbers of an hour are not lost to a disk that is full by now.
    print(numbers_as_text(found), flush=True)
    write_atomic(file, (json.dumps({**before, **found}, indent=2) + "\n").encode())
    if arrays:
        out = io.BytesIO()
        np.savez(out, **{**read_arrays(beside), **arrays})  # type: ignore[arg-type]
        write_atomic(beside, out.getvalue())
    say(f"written to {file}")
    return 0


def _replaced(before: Mapping[str, Any], metrics: Metrics, given: Mapping[str, Any]) -> str:
    """Which numbers of before are taken again, and of how many samples they were and will be; "" for none."""
    found = []
    for name in (name for name in metrics if name in before):
        was = before[name].get("samples") if isinstance(before[name], Mapping) else None
        now = wanted(metrics[name], given).get("samples")
        found.append(name if was is None or now is None else f"{name} (of {was} samples, now of {now})")
    return ", ".join(found)


def numbers_as_text(value: Any, before: str = "") -> str:
    """Numbers as JSON for a reader: of six significant digits, and a list in one line. The files hold them in full."""
    if not isinstance(value, Mapping):
        return json.dumps(_short(value))
    rows = [f"{before}  {json.dumps(str(key))}: {numbers_as_text(one, before + '  ')}" for key, one in value.items()]
    return "{\n" + ",\n".join(rows) + f"\n{before}}}" if rows else "{}"


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _short(one) for key, one in value.items()}
    return [_short(one) for one in value] if isinstance(value, list | tuple) else value


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays that metrics left, {} where there are none. UserError for a file that is damaged."""
    if not file.is_file():
        return {}
    try:
        with np.load(file) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is damaged ({error}): delete it and evaluate the run again") from error


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
