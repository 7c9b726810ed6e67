"""What the commands do, once their arguments are read. What a run is, its system knows: see `systems.system`.

`sample` has a file of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax

from diffusion_jax.cli.notices import say
from diffusion_jax.config import load_config, not_found, parse_overrides
from diffusion_jax.files import check_folder
from diffusion_jax.parallel.accelerator import configure
from diffusion_jax.parallel.memory import enough_memory
from diffusion_jax.runs import holds_run, is_run, read_json, run_folder
from diffusion_jax.systems.measuring import WRITTEN, check_metrics, folder_of, measure
from diffusion_jax.systems.resume import contents_of
from diffusion_jax.systems.system import System
from diffusion_jax.systems.table import SYSTEMS, config_at, keys, load_run, system_at, system_named, system_of
from diffusion_jax.training import INPUTS, train_run
from diffusion_jax.typing import UserError, one_of

__all__ = ["convert", "encode", "evaluate", "report", "train"]


def _silent(text: str) -> None:
    """What the other processes of a run say."""


def train(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Train or resume the run of a config."""
    config = load_config(arguments.config, parse_overrides(rest), keys)
    configure(say, devices=not arguments.no_progress)
    tell = say if jax.process_index() == 0 else _silent
    try:
        with enough_memory(system_of(config).lighter(config)):
            folder = train_run(config, overwrite=arguments.overwrite, progress=not arguments.no_progress, say=tell)
    except UserError as error:
        raise UserError(f"{error}{not_found(config, keys, arguments.config, str(error))}") from error
    tell(f"run in {folder}")
    return 0


def encode(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Write the latents of a config's training pictures."""
    config = load_config(arguments.config, parse_overrides(rest), keys)
    system = system_of(config)
    if system.encode is None:
        raise UserError(f"--config {arguments.config!r} is of system {config.system!r}, whose pictures are not encoded")
    configure(say)
    try:
        return system.encode(arguments, config, say)
    except UserError as error:
        raise UserError(f"{error}{not_found(config, keys, arguments.config, str(error))}") from error


def evaluate(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Measure a run and write its numbers."""
    if arguments.samples < 2:
        raise UserError(f"--samples {arguments.samples} is not at least 2")
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed {arguments.seed} is not from 0 to {2**32 - 1}")
    if arguments.out is not None:
        check_folder(arguments.out)
    system = _measured_by(arguments)
    if system.evaluate is None and not (arguments.metric or system.metrics):
        raise UserError(f"the system of the run in {arguments.run!r} measures nothing itself: give --metric")
    check_metrics(arguments.metric, system.metrics)
    _compare_data(arguments)
    configure(say)
    if system.evaluate is None:
        folder_of(arguments, WRITTEN)
        return measure(load_run(arguments.run, data=arguments.data), system.metrics, arguments, say)
    return system.evaluate(arguments, say)


def _compare_data(arguments: argparse.Namespace) -> None:
    """Says so where what lies at --data is not what the run was trained on, as far as it noted that."""
    if arguments.data is None:
        return
    noted, config = system_at(arguments.run)[1] / INPUTS, config_at(arguments.run, arguments.data)
    before = read_json(noted).get("data.path") if noted.is_file() else None
    if before is not None and before != contents_of(config).get("data.path", before):
        say(f"--data {arguments.data}: its files are others than those that the run was trained on, by name or size")


def _measured_by(arguments: argparse.Namespace) -> System:
    """The system that an option is of, or else that of the run."""
    own = [system_at(arguments.run)[0]] if holds_run(arguments.run) else []
    for system in (*own, *map(system_named, SYSTEMS)):
        if any(getattr(arguments, option) not in (None, False) for option in system.options):
            return system
    return system_at(arguments.run)[0]


def convert(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Weights into another library's format."""
    convert = _writer(arguments).convert
    assert convert is not None
    return convert(arguments, say)


def _writer(arguments: argparse.Namespace) -> System:
    """The system whose weights or run lies at the path, or else one that writes the format asked for."""
    able = {name: system_named(name) for name in SYSTEMS}
    able = {name: system for name, system in able.items() if system.convert is not None}
    path, format = Path(arguments.path), arguments.format
    if format is not None:
        one_of("--format", format, [name for system in able.values() for name in system.formats])
    if holds_run(path):
        # Of a folder with several runs the last: what stands by itself.
        inside = [system for name, system in able.items() if is_run(run_folder(path) / name)]
        found = [inside[-1] if inside else system_at(path)[0]]
    else:
        # Those that load nothing published by themselves claim less, and are asked first (`systems.table.PUBLISHED`).
        asked = sorted(able.values(), key=lambda system: system.published is not None)
        found = [system for system in asked if system.publishes(path, arguments.model)]
    if format is not None and holds_run(path) and found[0].formats and format not in found[0].formats:
        raise UserError(
            f"--format {format!r}: the run in {arguments.path!r} is written as {' or '.join(found[0].formats)}; nearest: "
            f"{found[0].formats[0]!r}"
        )
    writes = [system for system in (*found, *able.values()) if format is None or format in system.formats]
    if format is None and found and found[0].convert is None:
        raise UserError(f"the run in {arguments.path!r} is of a system that writes no other library's format")
    return writes[0]


def report(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Write the page of an evaluated run."""
    system = system_at(arguments.run)[0]
    if system.report is None:
        raise UserError(f"no page is made of the run in {arguments.run!r}: its system has none")
    _compare_data(arguments)
    return system.report(arguments, say)
