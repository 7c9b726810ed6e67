"""The arguments of `diffusion-jax vocabulary`."""

from __future__ import annotations

from typing import Any

from diffusion_jax.cli.options.words import Help, columns

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    vocabulary = commands.add_parser(
        "vocabulary",
        help="learn a tokenizer's vocabulary from captions",
        formatter_class=Help,
        description="Learn a byte-pair vocabulary from the captions of a folder of pictures, for models trained from scratch.",
        epilog="example: diffusion-jax vocabulary pictures --merges 500 --out vocabulary",
    )
    vocabulary.add_argument("path", metavar="DIR", help="a folder of pictures with captions")
    columns(vocabulary, "")
    vocabulary.add_argument("--merges", type=int, metavar="N", default=500, help="how many pairs are joined at most")
    vocabulary.add_argument("--out", required=True, metavar="DIR", help="the folder of vocab.json and merges.txt")
