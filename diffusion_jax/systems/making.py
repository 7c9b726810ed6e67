"""How a run was made, for its page: versions, settings, and the command that began it, as the run noted them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.config import to_dict
from diffusion_jax.report.making import Making
from diffusion_jax.runs import read_json

__all__ = ["making_of", "trained_by"]


def _noted(path: Path) -> Any:
    file = path / "environment.json"
    return read_json(file) if file.is_file() else {}


def making_of(path: Path, config: ConfigDict, commands: Sequence[str]) -> Making:
    """All of the run in `path`, with the commands that make it again."""
    noted = _noted(path)
    versions = {"python": noted["python"], **noted["versions"]} if noted else {}
    versions |= {"devices": ", ".join(noted["devices"]), "git commit": noted["git_commit"]} if noted else {}
    kept = {key: value for key, value in to_dict(config).items() if key != "workdir"}
    return Making({}, {name: str(value) for name, value in versions.items() if value}, kept, commands)


def trained_by(path: Path) -> list[str]:
    """The command that trained the run in `path`, as it was said; none of one that was trained otherwise."""
    argv = _noted(path).get("command") or []
    return [f"diffusion-jax {shlex.join(argv[1:])}"] if list(argv[1:2]) == ["train"] else []
