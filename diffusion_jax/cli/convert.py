"""`diffusion-jax convert`: CLIP weights from one format into another."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax import build
from diffusion_jax.clip_run import ClipRun
from diffusion_jax.convert import FORMATS, load_clip, resize_image, resize_text, save_clip
from diffusion_jax.convert.files import DTYPES
from diffusion_jax.data.bpe import BpeTokenizer
from diffusion_jax.data.siglip_tokenizer import SiglipTokenizer
from diffusion_jax.nets import clip_model
from diffusion_jax.run import CHECKPOINTS, CONFIG
from diffusion_jax.run import load_clip as load_clip_run
from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["convert"]

VOCABULARIES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "spiece.model",
    "tokenizer.model",
    "bpe_simple_vocab_16e6.txt.gz",
)


def convert(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Read the weights at `path` and write them to `--out`."""
    source, out = Path(arguments.path), Path(arguments.out)
    one_of("--format", arguments.format, FORMATS)
    one_of("--dtype", arguments.dtype, DTYPES)
    if out.exists() and not arguments.overwrite and (out.is_file() or any(out.iterdir())):
        raise UserError(f"--out {str(out)!r} exists; choose another, or --overwrite to replace its weights")
    run: ClipRun | None = None
    sizes = {"image_size": arguments.image_size, "context_length": arguments.context_length}
    if any((place / CONFIG).is_file() and (place / CHECKPOINTS).is_dir() for place in (source, source / "clip")):
        run = load_clip_run(source, which=arguments.weights)
        config, params = _of_run(run, **sizes)
    else:
        given = None if arguments.model is None else clip_model(arguments.model)
        config, params = load_clip(source, config=given, **sizes)
    file = save_clip(out, config, params, arguments.format, dtype=arguments.dtype)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    beside = file.parent.resolve() == out.resolve() and _vocabulary(source if run is None else run, out)
    words = ", its vocabulary beside it" if beside else ""
    print(f"{count / 1e6:.2f} million parameters written to {file}{words}", file=sys.stderr)
    return 0


def _vocabulary(source: Path | ClipRun, out: Path) -> bool:
    """Puts the vocabulary of a run, or what lies beside weights, into the folder `out`; whether there was one."""
    if isinstance(source, ClipRun):
        if isinstance(source.tokenizer, BpeTokenizer):
            source.tokenizer.save(out)
            return True
        if not isinstance(source.tokenizer, SiglipTokenizer):
            return False
        source = Path(source.config.tokenizer.path)
    folder = source if source.is_dir() else source.parent
    files = [folder / name for name in VOCABULARIES if (folder / name).is_file()]
    for file in files if folder.resolve() != out.resolve() else ():
        shutil.copyfile(file, out / file.name)
    return bool(files)


def _of_run(run: ClipRun, *, image_size: int | None, context_length: int | None) -> tuple[dict[str, Any], Params]:
    """(config, params) of a CLIP run of one's own, as `load_clip` would give them."""
    given: dict[str, Any] = {"vocabulary_size": run.tokenizer.vocabulary_size}
    if run.preprocess is None:
        given |= build.source_size(run.config.data)
    config = build.clip_sizes(run.config.model, **given)
    prepared = run.preprocess
    if prepared is not None:
        names = ("mean", "std", "resize", "interpolation")
        config["preprocess"] = {name: getattr(prepared, name) for name in names}
    else:
        config["preprocess"] = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize": "squash", "interpolation": "bicubic"}
    params = jax.tree.map(np.asarray, run.params)
    if image_size is not None:
        config, params = resize_image(config, params, image_size)
    if context_length is not None:
        config, params = resize_text(config, params, context_length)
    return config, params
