"""`diffusion-jax convert`: CLIP weights from one format into another."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax import build
from diffusion_jax.convert import FORMATS, resize_image, resize_text, save_clip
from diffusion_jax.convert.clip_save import check_place
from diffusion_jax.convert.files import DTYPES
from diffusion_jax.data.pictures.preprocess import HALF, Preprocess
from diffusion_jax.data.text.bpe import BpeTokenizer
from diffusion_jax.data.text.siglip_tokenizer import SiglipTokenizer
from diffusion_jax.files import check_file, check_folder
from diffusion_jax.runs import holds_run
from diffusion_jax.systems.clip.pretrained import read_weights, vocabulary_beside
from diffusion_jax.systems.clip.run import ClipRun, clip_model_of, load_clip, preprocess_group
from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["convert"]

Files = dict[str, bytes]
VOCABULARIES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "spiece.model",
    "tokenizer.model",
    "bpe_simple_vocab_16e6.txt.gz",
)
PUBLISHED = 49408  # ids of CLIP's own vocabulary
CAPTIONS = ("", "a photo of a cat", "It's 10:30 -- NAÏVE cafés, Straße & <b>東京</b>!", "zero one two " * 40)
"""What a vocabulary is read back with: nothing, words, all kinds of characters, more than fits."""


def convert(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Read the weights at `path` and write them to `--out`."""
    source, out, format = Path(arguments.path), Path(arguments.out), arguments.format or FORMATS[0]
    one_of("--format", format, FORMATS)
    one_of("--dtype", arguments.dtype, DTYPES)
    if os.path.exists(out) and not arguments.overwrite and (out.is_file() or any(out.iterdir())):
        raise UserError(f"--out {str(out)!r} exists; choose another, or --overwrite to replace its weights")
    check_place(out, format)
    check_file(out) if format == "openai" else check_folder(out)
    sizes = {"image_size": arguments.image_size, "context_length": arguments.context_length}
    if holds_run(source):
        run = load_clip(source, which=arguments.weights)
        config, params = _of_run(run, **sizes)
        files, notes = _of_tokenizer(run)
        if run.preprocess is not None and run.preprocess.exif != Preprocess.exif:
            notes.append(f"no format holds preprocess.exif={run.preprocess.exif}: say it again where pictures are read")
    else:
        config, params = read_weights(source, arguments.model, **sizes)
        files, notes = _beside(source, config)
    if format == "openai" and files:
        files = {}
        notes.append("OpenAI's format is one file: the vocabulary is not in it, and is given where it is read")
    if format == "open_clip" and "vocab.json" in files and config["text"]["vocabulary_size"] != PUBLISHED:
        notes.append("open_clip takes CLIP's own vocabulary whatever lies beside: give it these ids")
    stale = [name for name in VOCABULARIES if os.path.isfile(out / name) and name not in files]
    if stale and format != "openai":
        raise UserError(f"--out {str(out)!r} holds {', '.join(stale)}, which is not of this model: remove it first")
    file = save_clip(out, config, params, format, dtype=arguments.dtype, beside=files)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    words = ", its vocabulary beside it" if files else ""
    say(f"{count / 1e6:.2f} million parameters written to {file}{words}; read back the same")
    for note in notes:
        say(f"note: {note}")
    return 0


def _of_tokenizer(run: ClipRun) -> tuple[Files, list[str]]:
    """(the files of a run's tokenizer by name, what is to be said of it). UserError if they do not read back the same."""
    tokenizer = run.tokenizer
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if isinstance(tokenizer, BpeTokenizer):
            tokenizer.save(place)
            back: Any = BpeTokenizer.load(place, context_length=tokenizer.context_length)
        elif isinstance(tokenizer, SiglipTokenizer):
            name = "spiece.model" if tokenizer.pad == tokenizer.end else "tokenizer.model"
            (place / name).write_bytes(tokenizer.model)
            back = SiglipTokenizer.load(place, tokenizer.context_length)
        else:
            return {}, [
                f"no format holds the run's {type(tokenizer).__name__}: texts must be given its ids, as with "
                f"load_pretrained(..., tokenizer=load_run({str(run.path)!r}).tokenizer)"
            ]
        one, other = (which.encode(CAPTIONS)["tokens"] for which in (tokenizer, back))
        if back != tokenizer or not np.array_equal(one, other):
            raise UserError(f"the vocabulary of {str(run.path)!r} does not read back the same from its files")
        return {file.name: file.read_bytes() for file in sorted(place.iterdir())}, []


def _beside(source: Path, config: dict[str, Any]) -> tuple[Files, list[str]]:
    """(the files of the vocabulary that lies beside weights, what is to be said of it)."""
    if "text" not in config:
        return {}, []
    folder = source if source.is_dir() else source.parent
    found = vocabulary_beside(source, (config.get("vision") or {}).get("pool") == "map")
    if found is None:
        return {}, [f"no vocabulary lies beside the weights in {str(folder)!r}: it is given where they are read"]
    notes = []
    if found["name"] == "bpe":
        size, length = config["text"]["vocabulary_size"], config["text"]["context_length"]
        ids = build.tokenizer(found, length).vocabulary_size
        if ids != size:
            what = "it is not written" if ids > size else "see that they belong together"
            notes.append(f"the vocabulary in {found['path']!r} has {ids} ids, the text tower {size}: {what}")
        if ids > size:
            return {}, notes
    return {name: (folder / name).read_bytes() for name in VOCABULARIES if (folder / name).is_file()}, notes


def _of_run(run: ClipRun, *, image_size: int | None, context_length: int | None) -> tuple[dict[str, Any], Params]:
    """(config, params) of a CLIP run of one's own, as `load_clip` would give them."""
    config = clip_model_of(run.config, run.tokenizer)
    config["preprocess"] = {"mean": list(HALF), "std": list(HALF), "resize": "squash", "interpolation": "bicubic"}
    if run.preprocess is not None:
        config["preprocess"] = preprocess_group(run.preprocess)
    params = jax.tree.map(np.asarray, run.params)
    if image_size is not None:
        config, params = resize_image(config, params, image_size)
    if context_length is not None:
        config, params = resize_text(config, params, context_length)
    return config, params
