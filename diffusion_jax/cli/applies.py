"""Which options go with which: one that would change nothing is refused, and never passed over.

`GOES_WITH` holds for each command what an option needs (any of them), and `APART` what it does not go with.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from diffusion_jax.typing import UserError

__all__ = ["CLIP_MEASURES", "check_applies", "is_run"]

CLIP_MEASURES = ("zero_shot", "retrieval", "linear_probe", "clip_score")
"""The options of `evaluate` that measure a CLIP on pictures of one's own."""

CAPTIONED = ("retrieval", "clip_score")

GOES_WITH: dict[str, dict[str, tuple[str, ...]]] = {
    "sample": {"shard_size": ("prompts",), "scale": ("prompt",)},
    "evaluate": {
        "classes": ("zero_shot",),
        "templates": ("zero_shot",),
        "scans": ("bits_per_dim",),
        "divergence": ("bits_per_dim",),
        "model": CLIP_MEASURES,
        "tokenizer": CLIP_MEASURES,
        "exif": CLIP_MEASURES,
        "on_error": CLIP_MEASURES,
        "captions": CAPTIONED,
        "image_column": CAPTIONED,
        "caption_column": CAPTIONED,
    },
}
APART: dict[str, dict[str, tuple[str, ...]]] = {
    "evaluate": {
        "samples": ("bits_per_dim", *CLIP_MEASURES),
        "seed": CLIP_MEASURES,
        "bits_per_dim": CLIP_MEASURES,
    },
}
PATHS = ("run", "path", "out", "config", "prompts", *CLIP_MEASURES, "classes", "templates", "model", "tokenizer")
OF_WEIGHTS = {"evaluate": ("run", ("model", "tokenizer")), "convert": ("path", ("model",))}
"""Options that say what published weights do not; a run of one's own says it itself."""
OF_RUNS = {"convert": ("path", ("weights",))}


def check_applies(arguments: argparse.Namespace, given: Iterable[str]) -> None:
    """UserError for the first of the options that were `given` which would change nothing beside the others."""
    here, command = set(given), arguments.command
    for option in PATHS:
        value = getattr(arguments, option, None)
        if value == "" or (isinstance(value, list) and "" in value):
            raise UserError(f"{flag(option) if option != 'path' else 'the path'} is empty")
    for option, wanted in GOES_WITH.get(command, {}).items():
        if option in here and not here & {*wanted}:
            raise UserError(f"{flag(option)} needs {_or(wanted)}, without which it changes nothing")
    for option, others in APART.get(command, {}).items():
        beside = [other for other in others if other in here]
        if option in here and beside:
            raise UserError(f"{flag(option)} does not go with {flag(beside[0])}, where it changes nothing")
    if command == "evaluate" and "split" in here:
        plain = here & {"zero_shot", "linear_probe"}
        if plain and not here & {*CAPTIONED}:
            raise UserError(f"--split does not go with {flag(min(plain))}: all pictures of the folder are measured")
    for table, own in ((OF_WEIGHTS, True), (OF_RUNS, False)):
        where, options = table.get(command, ("", ()))
        wrong = [option for option in options if option in here]
        if wrong and Path(getattr(arguments, where)).exists() and is_run(getattr(arguments, where)) == own:
            what = "is a run, which says it itself" if own else "is no run, and has one kind of weights"
            raise UserError(f"{flag(wrong[0])} changes nothing: {getattr(arguments, where)!r} {what}")


def flag(option: str) -> str:
    """An option as it is written."""
    return "--" + option.replace("_", "-")


def is_run(path: str | Path) -> bool:
    """Whether a run lies in `path` or in its subfolder `clip`, rather than published weights."""
    places = (Path(path), Path(path) / "clip")
    return any((place / "config.json").is_file() and (place / "checkpoints").is_dir() for place in places)


def _or(options: Iterable[str]) -> str:
    *most, last = (flag(option) for option in options)
    return f"{', '.join(most)} or {last}" if most else last
