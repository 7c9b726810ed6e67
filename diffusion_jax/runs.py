"""The folder of a run: `config.json`, `checkpoints/`, and the notes and files that its system keeps beside them.

`config.json` holds the resolved config with the number of its `format`, which is raised whenever an older run has to be read
otherwise; a system makes an older config one of today (`System.upgrade`). `own.json` and `own/` hold what the run took of
parts of one's own (`build.own`), and `example.json` what a system has to know of the data, so that a run can be used where
they are not.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.build import own
from diffusion_jax.config import flatten, to_dict
from diffusion_jax.files import write_atomic
from diffusion_jax.typing import PyTree, UserError, nearest_path, path_of

__all__ = [
    "CHECKPOINTS", "CONFIG", "EXAMPLE", "FORMAT", "changed_parts", "fingerprint", "holds_run", "is_run", "keep_parts",
    "nearest", "place", "read_config", "read_json", "read_run", "remember_parts", "run_folder", "write_json", "written",
]  # fmt: skip

CONFIG, CHECKPOINTS, OWN, EXAMPLE = "config.json", "checkpoints", "own.json", "example.json"
FORMAT = 2
"""1: `text_encoder` and `loss.drop` of diffusion; 2: the groups `condition` and `space`."""


def fingerprint(params: PyTree) -> str:
    """A digest of every array's path, shape and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(np.asarray(leaf))
        digest.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def read_run(path: str | Path) -> tuple[ConfigDict, int]:
    """(the config of the run in `path` as it was written, its format).

    UserError where there is none, which names the nearest run, and for a format of a later version.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        raise UserError(f"there is no run in {place(Path(path))}: {CONFIG} is missing{nearest(Path(path))}")
    found = read_json(file)
    version = found.pop("format", 1)
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise UserError(
            f"{file} is of format {version!r}, and this version reads 1 to {FORMAT}: use the version that wrote the run"
        )
    return ConfigDict(found), version


def read_config(path: str | Path) -> ConfigDict:
    """The config of the run in `path` as it was written, without its format. UserError as `read_run`."""
    return read_run(path)[0]


def written(config: ConfigDict) -> dict[str, Any]:
    """A config as a run's `config.json` holds it, in the format of today."""
    return {"format": FORMAT, **to_dict(config)}


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file. UserError where there is none."""
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} holds no JSON object")
    return value


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """A JSON object into a file, whole or not at all."""
    write_atomic(file, (json.dumps(value, indent=2) + "\n").encode())


def changed_parts(path: Path, config: ConfigDict) -> list[str]:
    """The parts of one's own that a config names whose files are others than those that the run in `path` noted."""
    noted = read_json(path / OWN) if (path / OWN).is_file() else {}
    now = own.record(own.own_files(flatten(config).values()))
    return [module for module, note in now.items() if noted.get(module, note)["sha256"] != note["sha256"]]


def keep_parts(path: Path, config: ConfigDict) -> None:
    """Notes the parts of one's own that a config names, and keeps a copy of their files in the run."""
    files = own.own_files(flatten(config).values())
    for module, file in files.items():
        place = path.joinpath("own", *module.split("."))
        copy = place / file.name if file.name == "__init__.py" else place.with_name(f"{place.name}.py")
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(copy, file.read_bytes())
    if files:
        write_json(path / OWN, own.record(files))


def remember_parts(path: Path, *, warn: bool = True) -> None:
    """Makes the parts of one's own that a run names findable; warns where one has changed since."""
    if (path / OWN).is_file():
        for line in own.remember(read_json(path / OWN), path.resolve() / "own"):
            if warn:
                warnings.warn(line)  # noqa: B028 - of the run, wherever it is loaded


def run_folder(path: Any) -> Path:
    """The path of a run. UserError for what is no path, and for a folder of published weights."""
    path = path_of("path", path)
    file = path / CONFIG
    config = read_json(file) if file.is_file() else {}
    published = config.keys() & {"model_type", "architectures"} or (path / "open_clip_config.json").is_file()
    if published and "system" not in config:
        raise UserError(f"{str(path)!r} holds published weights, not a run: load_pretrained reads them")
    return path


def is_run(path: Path) -> bool:
    """Whether a run lies in this very folder."""
    return (path / CONFIG).is_file()


def holds_run(path: str | Path) -> bool:
    """Whether a trained run lies in a folder or in one below it, rather than published weights."""
    places = [Path(path), *sorted(Path(path).glob("*/"))] if Path(path).is_dir() else []
    return any(is_run(one) and (one / CHECKPOINTS).is_dir() for one in places)


def place(path: Path) -> str:
    """The path as given, and from where it is meant when it is relative."""
    return repr(str(path)) if path.is_absolute() else f"{str(path)!r} (from {Path.cwd()})"


def nearest(path: Path) -> str:
    """What a message about a folder without a run ends with: the run, or the folder of runs, that was meant, perhaps."""
    below = sorted(str(file.parent) for file in path.glob(f"*/{CONFIG}")) if path.is_dir() else []
    if below:
        return f"; in it are {', '.join(map(repr, below))}"
    parent = path.parent if path.parent.is_dir() else Path("runs")
    there = sorted(parent.iterdir()) if parent.is_dir() else []
    names = [str(p) for p in there if p.is_dir() and (is_run(p) or any(p.glob(f"*/{CONFIG}")))]
    near = nearest_path(str(path), names)
    return f"; did you mean {near!r}?" if near else ""
