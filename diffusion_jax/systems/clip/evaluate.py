"""`diffusion-jax evaluate` of a CLIP: zero-shot, retrieval, linear probe and CLIP score on one's own pictures, or metrics."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusion_jax import build, runs
from diffusion_jax.data.pipeline import columns
from diffusion_jax.data.sources.caption_folder import CaptionFolder
from diffusion_jax.data.sources.class_folder import ClassFolder
from diffusion_jax.data.sources.overlap import check_apart
from diffusion_jax.files import check_folder
from diffusion_jax.metrics import recall
from diffusion_jax.parallel.memory import enough_memory
from diffusion_jax.systems.clip.held_out import about, measured
from diffusion_jax.systems.clip.measures import (
    Skipped,
    check_classes,
    clip_score_of,
    numbers_before,
    probe_of,
    read_templates,
    retrieval_of,
    save_numbers,
    zero_shot_of,
)
from diffusion_jax.systems.clip.pretrained import load_pretrained
from diffusion_jax.systems.clip.run import ClipRun, load_clip
from diffusion_jax.systems.measuring import WRITTEN, folder_of, measure, show
from diffusion_jax.systems.table import config_at, with_data
from diffusion_jax.typing import UserError

__all__ = ["METRICS", "OPTIONS", "captioned_folder", "evaluate", "report"]

OPTIONS = ("zero_shot", "retrieval", "linear_probe", "clip_score")
"""The options of `evaluate` that measure a CLIP on pictures of one's own."""


def evaluate(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """On the pictures that were named, or by metrics on the run's own data."""
    if any(getattr(arguments, name) is not None for name in OPTIONS):
        return _on_pictures(arguments, say)
    folder_of(arguments, WRITTEN)
    run = load_clip(arguments.run)
    with_data(run.config, arguments.data)
    if build.gives_pictures(run.config.data) and not arguments.metric:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in OPTIONS)
        raise UserError(f"the CLIP in {arguments.run!r} is measured on pictures of yours: give one of {flags}")
    for name in sorted({"samples", "seed"} & arguments.given) if not arguments.metric else ():
        raise UserError(f"--{name} is of the samples of a diffusion run; the run in {arguments.run!r} is a CLIP")
    return measure(run, METRICS, arguments, say)


def report(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """The page of an evaluated run."""
    return show(config_at(arguments.run, arguments.data), arguments, say)


def _retrieval(run: ClipRun, *, split: str) -> dict[str, Any]:
    """Recall between the arrays of a split and their first captions, both ways; equal captions are one answer."""
    data = build.source(run.config.data, split)
    captions = [data[i]["captions"][0] for i in range(len(data))]
    return recall(run.encode_image(columns(data)["image"]), run.encode_text(captions), identity=captions)


METRICS: dict[str, Callable[..., dict[str, Any]]] = {"retrieval": _retrieval}


def _on_pictures(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Every measure that was asked for, printed and written to clip_metrics.json."""
    base = Path(arguments.run)
    beside = base if base.is_dir() else base.parent
    given = arguments.out is not None
    place = arguments.out if given else beside / "report"
    folder = check_folder(place, ("clip_metrics.json",), "--out" if given else "the folder")
    with enough_memory("a batch of 64 pictures does not fit: use a device of more memory, or JAX_PLATFORMS=cpu"):
        return _measured(arguments, folder, say)


def _measured(arguments: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> int:
    numbers_before(folder / "clip_metrics.json")
    on_error = arguments.on_error or "raise"
    # Folders are read before the weights: a misspelt one should not cost a minute.
    classes = arguments.zero_shot and check_classes(ClassFolder(arguments.zero_shot, arguments.classes))
    templates = read_templates(arguments.templates) if arguments.zero_shot else ()
    captioned = {
        name: captioned_folder(arguments, getattr(arguments, name), "drop" if on_error == "skip" else "refuse")
        for name in ("retrieval", "clip_score")
        if getattr(arguments, name)
    }
    probes = [check_classes(ClassFolder(folder)) for folder in arguments.linear_probe or ()]
    if probes:
        check_apart(probes[0].files, probes[1].files, "the probe")
    run = _clip(arguments)
    if run.preprocess is None:
        raise UserError(
            f"the CLIP in {arguments.run!r} takes the demo's scans, not pictures; evaluate it without a folder"
        )
    split = arguments.split if "split" in arguments.given else None
    captioned = {name: measured(run, source, split) for name, source in captioned.items()}
    found: dict[str, Any] = {}
    skipped = {name: Skipped(on_error, "--on-error=skip") for name in OPTIONS}
    if classes:
        counts = zero_shot_of(run, classes, templates, skipped=skipped["zero_shot"], say=say)
        found["zero_shot"] = counts.summary() | {"classes": len(classes.class_names), "templates": len(templates)}
    if "retrieval" in captioned:
        found["retrieval"] = retrieval_of(run, captioned["retrieval"], skipped=skipped["retrieval"], say=say)
    if probes:
        found["linear_probe"] = probe_of(run, *probes, skipped=skipped["linear_probe"], say=say)
    if "clip_score" in captioned:
        found["clip_score"] = clip_score_of(run, captioned["clip_score"], skipped=skipped["clip_score"], say=say)
    for name, numbers in found.items():
        numbers |= skipped[name].numbers()
        if name in captioned and on_error == "skip":
            numbers["empty_captions"] = captioned[name].blank
    for name, source in captioned.items():
        found[name] |= about(run, source, split, name.replace("_", " "), say, skipped[name].files)
    # Printed first: numbers of an hour are not lost to a disk that is full by now.
    print(json.dumps(found, indent=2), flush=True)
    save_numbers(folder / "clip_metrics.json", found)
    say(f"written to {folder / 'clip_metrics.json'}")
    return 0


def captioned_folder(arguments: argparse.Namespace, folder: str, empty: str) -> CaptionFolder:
    """The captioned pictures of a folder, with the columns that were given."""
    given = {name: getattr(arguments, name) for name in ("captions", "image_column", "caption_column")}
    return CaptionFolder(folder, empty=empty, **given)


def _clip(arguments: argparse.Namespace) -> ClipRun:
    path = Path(arguments.run)
    if runs.holds_run(path):
        if arguments.exif is not None:
            raise UserError(
                f"--exif is for published weights; the run in {arguments.run!r} has its own preprocess.exif"
            )
        return load_clip(path)
    return load_pretrained(path, model=arguments.model, tokenizer=arguments.tokenizer, exif=bool(arguments.exif))
