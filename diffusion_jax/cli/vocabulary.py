"""`diffusion-jax vocabulary`: a tokenizer's vocabulary from the captions of a folder."""

from __future__ import annotations

import argparse
import os
import sys

from diffusion_jax.data.sources.caption_folder import CaptionFolder
from diffusion_jax.data.text.bpe import BpeTokenizer
from diffusion_jax.data.text.bpe_learning import check_merges, learn_vocabulary
from diffusion_jax.files import check_folder
from diffusion_jax.typing import UserError

__all__ = ["vocabulary"]

VOCABULARY = ("vocab.json", "merges.txt")


def vocabulary(arguments: argparse.Namespace) -> int:
    """Learn a vocabulary from the captions of a folder."""
    out = check_folder(arguments.out, VOCABULARY)
    if any(os.path.exists(out / name) for name in VOCABULARY):
        raise UserError(f"--out {str(out)!r} holds a vocabulary already; choose another folder")
    check_merges(arguments.merges)
    try:
        source = _source(arguments, "drop")
        texts = [text for texts in source.texts for text in texts]
        learn_vocabulary(texts, arguments.merges, out)
    except UserError:
        # Where too little is left without the empty captions, those are what is to be mended.
        _source(arguments, "refuse")
        raise
    size = BpeTokenizer.load(out).vocabulary_size
    print(f"{size} ids learned from {len(texts)} captions of {len(source)} pictures, in {out}", file=sys.stderr)
    return 0


def _source(arguments: argparse.Namespace, empty: str) -> CaptionFolder:
    columns = {name: getattr(arguments, name) for name in ("captions", "image_column", "caption_column")}
    return CaptionFolder(arguments.path, empty=empty, **columns)
