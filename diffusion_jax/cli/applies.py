"""Which options go with which: one that would change nothing is refused, and never passed over.

`GOES_WITH` holds for each command what an option needs (any of them), and `APART` what it does not go with.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable

from diffusion_jax.cli.options.pretrained import OPTIONS as OF_PRETRAINED
from diffusion_jax.typing import UserError

__all__ = ["PICTURE_MEASURES", "check_applies", "flag"]

PICTURE_MEASURES = ("zero_shot", "retrieval", "linear_probe", "clip_score")
"""The options of `evaluate` that measure a CLIP on pictures of one's own."""

CAPTIONED = ("retrieval", "clip_score")

GOES_WITH: dict[str, dict[str, tuple[str, ...]]] = {
    "sample": dict.fromkeys(OF_PRETRAINED, ("pretrained",)),
    "evaluate": {
        "classes": ("zero_shot",),
        "templates": ("zero_shot",),
        "scans": ("bits_per_dim",),
        "divergence": ("bits_per_dim",),
        "model": PICTURE_MEASURES,
        "tokenizer": PICTURE_MEASURES,
        "exif": PICTURE_MEASURES,
        "on_error": PICTURE_MEASURES,
        "captions": CAPTIONED,
        "image_column": CAPTIONED,
        "caption_column": CAPTIONED,
    },
}
APART: dict[str, dict[str, tuple[str, ...]]] = {
    "sample": {
        "weights": ("pretrained",),
        "label": ("prompts",),
        "scale": ("prompts", "format"),
    },
    "evaluate": {
        "samples": ("bits_per_dim", *PICTURE_MEASURES),
        "seed": PICTURE_MEASURES,
        "data": PICTURE_MEASURES,
        "bits_per_dim": PICTURE_MEASURES,
        "metric": ("bits_per_dim", *PICTURE_MEASURES),
        "features": ("bits_per_dim", *PICTURE_MEASURES),
    },
}
ASKED = ("prompt", "label", "image", "mask")
"""The options that say what `sample` is asked to draw: into one picture, unless a folder is asked for."""
PATHS = (
    "run",
    "pretrained",
    "lora",
    "data",
    "path",
    "out",
    "config",
    "autoencoder",
    "decoder",
    "prior",
    "upsampler",
    "file",
    "prompts",
    "image",
    "mask",
    "features",
    *PICTURE_MEASURES,
    "classes",
    "templates",
    "model",
    "tokenizer",
    "vae",
)
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
    alone = [option for option in ASKED if option in here]
    if command == "sample" and "shard_size" in here and alone and not here & {"prompts", "format"}:
        raise UserError(f"--shard-size does not go with {flag(alone[0])}, where it changes nothing")
    if command == "evaluate" and "split" in here:
        plain = here & {"zero_shot", "linear_probe"}
        if plain and not here & {*CAPTIONED}:
            raise UserError(f"--split does not go with {flag(min(plain))}: all pictures of the folder are measured")
    from diffusion_jax.runs import holds_run  # after what costs nothing: it brings JAX

    for table, own in ((OF_WEIGHTS, True), (OF_RUNS, False)):
        where, options = table.get(command, ("", ()))
        wrong = [option for option in options if option in here]
        if wrong and os.path.exists(getattr(arguments, where)) and holds_run(getattr(arguments, where)) == own:
            what = "is a run, which says it itself" if own else "is no run, and has one kind of weights"
            raise UserError(f"{flag(wrong[0])} changes nothing: {getattr(arguments, where)!r} {what}")


def flag(option: str) -> str:
    """An option as it is written."""
    return "--" + option.replace("_", "-")


def _or(options: Iterable[str]) -> str:
    *most, last = (flag(option) for option in options)
    return f"{', '.join(most)} or {last}" if most else last
