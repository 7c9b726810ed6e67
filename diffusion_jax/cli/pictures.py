"""`diffusion-jax evaluate` of a CLIP on pictures of one's own: zero-shot, retrieval, linear probe, CLIP score."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusion_jax.clip_evaluation import (
    clip_score_of,
    probe_of,
    read_templates,
    retrieval_of,
    save_numbers,
    zero_shot_of,
)
from diffusion_jax.clip_run import ClipRun
from diffusion_jax.data.bpe import BpeTokenizer
from diffusion_jax.data.bpe_learning import learn_vocabulary
from diffusion_jax.data.caption_folder import CaptionFolder
from diffusion_jax.data.class_folder import ClassFolder
from diffusion_jax.pretrained import load_pretrained
from diffusion_jax.run import CONFIG, load_clip
from diffusion_jax.typing import UserError

__all__ = ["CLIP_MEASURES", "evaluate_pictures", "vocabulary"]

CLIP_MEASURES = ("zero_shot", "retrieval", "linear_probe", "clip_score")


def evaluate_pictures(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Every measure that was asked for, printed and written to clip_metrics.json."""
    if arguments.zero_shot is None and arguments.classes is not None:
        raise UserError("--classes needs --zero-shot, whose classes it names")
    # Folders are read before the weights: a misspelt one should not cost a minute.
    classes = arguments.zero_shot and ClassFolder(arguments.zero_shot, arguments.classes)
    templates = read_templates(arguments.templates) if arguments.zero_shot else ()
    captioned = {
        name: CaptionFolder(getattr(arguments, name), empty="drop")
        for name in ("retrieval", "clip_score")
        if getattr(arguments, name)
    }
    probes = [ClassFolder(folder) for folder in arguments.linear_probe or ()]
    run = _clip(arguments)
    if run.preprocess is None:
        raise UserError(
            f"the CLIP in {arguments.run!r} takes the demo's scans, not pictures; evaluate it without a folder"
        )
    found: dict[str, Any] = {}
    if classes:
        counts = zero_shot_of(run, classes, templates, say=say)
        found["zero_shot"] = counts.summary() | {"classes": len(classes.class_names), "templates": len(templates)}
    if "retrieval" in captioned:
        found["retrieval"] = retrieval_of(run, captioned["retrieval"], say=say)
    if probes:
        found["linear_probe"] = probe_of(run, *probes, say=say)
    if "clip_score" in captioned:
        found["clip_score"] = clip_score_of(run, captioned["clip_score"], say=say)
    base = Path(arguments.run)
    folder = Path(arguments.out) if arguments.out else (base if base.is_dir() else base.parent) / "report"
    save_numbers(folder / "clip_metrics.json", found)
    print(json.dumps(found, indent=2))
    say(f"written to {folder / 'clip_metrics.json'}")
    return 0


def vocabulary(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Learn a vocabulary from the captions of a folder."""
    source = CaptionFolder(arguments.path, empty="drop")
    out = Path(arguments.out)
    if (out / "vocab.json").exists():
        raise UserError(f"--out {str(out)!r} holds a vocabulary already; choose another folder")
    texts = [text for texts in source.texts for text in texts]
    learn_vocabulary(texts, arguments.merges, out)
    size = BpeTokenizer.load(out).vocabulary_size
    print(f"{size} ids learned from {len(texts)} captions of {len(source)} pictures, in {out}", file=sys.stderr)
    return 0


def _clip(arguments: argparse.Namespace) -> ClipRun:
    path = Path(arguments.run)
    if any((place / CONFIG).is_file() and (place / "checkpoints").is_dir() for place in (path, path / "clip")):
        return load_clip(path)
    return load_pretrained(path, model=arguments.model, tokenizer=arguments.tokenizer)
