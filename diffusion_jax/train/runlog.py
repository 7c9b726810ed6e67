"""What a run leaves beside its checkpoints, so that it can be read and repeated.

config.json (as resolved), environment.json (versions, devices, commit, command line), parameters.txt (clu's overview),
metrics.jsonl (a line {"step": .., "time": .., name: value} each time something is logged) and TensorBoard events. Step
n means "after n steps". A resumed run drops the lines beyond the step it resumes from: no step stands there twice.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.typing import Params, UserError

__all__ = ["RunLog", "environment", "read_metrics"]

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "clu", "grain", "numpy", "diffusion-jax")


def environment() -> dict[str, Any]:
    """What a run depends on besides its configuration; `git_commit` is None outside a git repository."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _git(*args: str) -> str | None:
    try:
        run = subprocess.run(
            ["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None


class RunLog:
    """The log of one run in `directory`. With several processes the first one writes, the others do nothing.

    The loop calls `start` before the first step, `add` with metrics of single steps and `write_means` at log points.
    Raises `UserError` where the disk does not take what is written.
    """

    def __init__(self, directory: str | Path, config: Mapping[str, Any] | None = None) -> None:
        self.directory = Path(directory)
        self.config = dict(config or {})
        self._active = jax.process_index() == 0
        self._tensorboard: Any = None
        self._means: dict[str, Any] = {}

    @property
    def metrics_path(self) -> Path:
        """The file that `read_metrics` reads."""
        return self.directory / "metrics.jsonl"

    def start(self, step: int, params: Params) -> None:
        """Writes what describes the run; drops the metrics beyond `step`, and all of them when it is 0."""
        if not self._active:
            return
        from clu import parameter_overview

        overview = parameter_overview.get_parameter_overview(params, include_stats=False)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            _write_whole(self.directory / "config.json", json.dumps(self.config, indent=2, default=str) + "\n")
            _write_whole(self.directory / "environment.json", json.dumps(environment(), indent=2) + "\n")
            _write_whole(self.directory / "parameters.txt", overview + "\n")
            kept = [line for line in _lines(self.metrics_path) if step > 0 and line["step"] <= step]
            _write_whole(self.metrics_path, "".join(json.dumps(line) + "\n" for line in kept))
        except OSError as error:
            raise _unwritable(self.directory, error) from error
        from diffusion_jax.train.tensorboard import TensorBoardWriter

        self.close()
        self._means = {}
        self._tensorboard = TensorBoardWriter(self.directory, purge_step=step + 1)

    def add(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Takes the metrics of some steps into the means that the next `write_means` writes."""
        from clu.metrics import Average

        for name in sorted({name for one in metrics for name in one}):
            values = np.array([one[name] for one in metrics if name in one], np.float32)
            mean = Average.from_model_output(values)
            self._means[name] = self._means[name].merge(mean) if name in self._means else mean

    def write_means(self, step: int, **others: float) -> None:
        """One line with the means of what was added since the last, and `others`."""
        means = {name: float(mean.compute()) for name, mean in self._means.items()}
        self._means = {}
        self.write(step, means | others)

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """One line of numbers by name, to metrics.jsonl and to TensorBoard. What is not finite is written as null."""
        if not self._active:
            return
        numbers = {name: float(value) for name, value in scalars.items()}
        line = {"step": int(step), "time": time.time()}
        line |= {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        try:
            with self.metrics_path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            if self._tensorboard is not None:
                self._tensorboard.write_scalars(step, numbers)
                self._tensorboard.flush()
        except OSError as error:
            raise _unwritable(self.metrics_path, error) from error

    def images(self, step: int, images: Mapping[str, Any]) -> None:
        """Images by name to TensorBoard, [N, H, W, C]: floats in [0, 1] or uint8."""
        if self._tensorboard is not None:
            self._tensorboard.write_images(step, images)

    def close(self) -> None:
        """Closes the event file; a later `start` opens another."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._tensorboard = None


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {error.strerror or error}")


def _write_whole(path: Path, text: str) -> None:
    """Replaces a file in one move, so that a killed process leaves the old or the new one."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text)
    os.replace(beside, path)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; the last may have been cut by a kill and is then left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    read = []
    for number, text in enumerate(lines):
        try:
            read.append(json.loads(text))
        except json.JSONDecodeError as error:
            if number + 1 < len(lines):
                raise UserError(f"{path} line {number + 1} is not JSON: {text[:60]!r}") from error
    return read


def read_metrics(directory: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl in order, each with "step", "time" and the metrics; null reads as nan.

    Raises `UserError` when there is no such file, or a line within it is not JSON.
    """
    path = Path(directory) / "metrics.jsonl"
    if not path.exists():
        raise UserError(f"there are no metrics at {path}")
    return [{k: math.nan if v is None else v for k, v in line.items()} for line in _lines(path)]
