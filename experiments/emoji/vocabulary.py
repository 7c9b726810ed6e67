"""The byte-pair vocabulary of the training captions, so that a word that no caption has still reaches CLIP in parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffusion_jax import build
from diffusion_jax.build.constructors import Spec
from diffusion_jax.data.text.bpe_learning import learn_vocabulary

__all__ = ["learned"]


def learned(data: Spec, merges: int, folder: Path, say: Callable[[str], None] = print) -> Path:
    """The folder of a vocabulary learned from the training captions of a config's `data`; reused where it is whole."""
    if all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
        say(f"reusing {folder}")
        return folder
    train = build.source(data, "train")
    captions = [caption for index in range(len(train)) for caption in train[index]["captions"]]
    say(f"learning {merges} merges from {len(captions)} captions (about 10 s)")
    return learn_vocabulary(captions, merges, folder)
