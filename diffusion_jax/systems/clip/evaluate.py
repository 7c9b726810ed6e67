"""`diffusion-jax evaluate` of a CLIP on pictures of one's own: zero-shot, retrieval, linear probe, CLIP score."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusion_jax.cli.applies import CLIP_MEASURES, is_run
from diffusion_jax.data.sources.caption_folder import CaptionFolder
from diffusion_jax.data.sources.class_folder import ClassFolder
from diffusion_jax.data.sources.overlap import check_apart
from diffusion_jax.data.text.bpe import BpeTokenizer
from diffusion_jax.data.text.bpe_learning import check_merges, learn_vocabulary
from diffusion_jax.files import check_folder
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
from diffusion_jax.systems.clip.run import ClipRun
from diffusion_jax.systems.diffusion.run import load_clip
from diffusion_jax.typing import UserError

__all__ = ["evaluate_pictures", "vocabulary"]

VOCABULARY = ("vocab.json", "merges.txt")


def evaluate_pictures(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Every measure that was asked for, printed and written to clip_metrics.json."""
    folder = Path(arguments.out)
    numbers_before(folder / "clip_metrics.json")
    on_error = arguments.on_error or "raise"
    # Folders are read before the weights: a misspelt one should not cost a minute.
    classes = arguments.zero_shot and check_classes(ClassFolder(arguments.zero_shot, arguments.classes))
    templates = read_templates(arguments.templates) if arguments.zero_shot else ()
    captioned = {
        name: _captioned(arguments, getattr(arguments, name), "drop" if on_error == "skip" else "refuse")
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
    skipped = {name: Skipped(on_error, "--on-error=skip") for name in CLIP_MEASURES}
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


def _captioned(arguments: argparse.Namespace, folder: str, empty: str) -> CaptionFolder:
    columns = {name: getattr(arguments, name) for name in ("captions", "image_column", "caption_column")}
    return CaptionFolder(folder, empty=empty, **columns)


def vocabulary(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Learn a vocabulary from the captions of a folder."""
    out = check_folder(arguments.out, VOCABULARY)
    if any(os.path.exists(out / name) for name in VOCABULARY):
        raise UserError(f"--out {str(out)!r} holds a vocabulary already; choose another folder")
    check_merges(arguments.merges)
    try:
        source = _captioned(arguments, arguments.path, "drop")
        texts = [text for texts in source.texts for text in texts]
        learn_vocabulary(texts, arguments.merges, out)
    except UserError:
        # Where too little is left without the empty captions, those are what is to be mended.
        _captioned(arguments, arguments.path, "refuse")
        raise
    size = BpeTokenizer.load(out).vocabulary_size
    print(f"{size} ids learned from {len(texts)} captions of {len(source)} pictures, in {out}", file=sys.stderr)
    return 0


def _clip(arguments: argparse.Namespace) -> ClipRun:
    path = Path(arguments.run)
    if is_run(path):
        if arguments.exif is not None:
            raise UserError(
                f"--exif is for published weights; the run in {arguments.run!r} has its own preprocess.exif"
            )
        return load_clip(path)
    return load_pretrained(path, model=arguments.model, tokenizer=arguments.tokenizer, exif=bool(arguments.exif))
