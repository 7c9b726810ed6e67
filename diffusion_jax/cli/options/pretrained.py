"""The arguments of `diffusion-jax sample --pretrained`: what only published pipelines take."""

from __future__ import annotations

import argparse

__all__ = ["OPTIONS", "of_pretrained"]

OPTIONS = (
    "size", "strength", "tile", "tokenizer", "prediction", "lora", "param_dtype", "model", "vae", "second", "negative_second",
    "clip_skip", "original_size", "crop", "target_size", "aesthetic_score", "negative_aesthetic_score",
)  # fmt: skip
"""Their names."""


def of_pretrained(sample: argparse.ArgumentParser) -> None:
    """Adds them."""
    group = sample.add_argument_group("with --pretrained")
    group.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="of one file, which holds no words: a folder or file with CLIP's vocabulary",
    )
    group.add_argument(
        "--prediction",
        choices=("eps", "v"),
        help="of one file of Stable Diffusion 2, which does not say it: what the network predicts",
    )
    group.add_argument(
        "--lora",
        metavar="FILE[=SCALE]",
        action="append",
        default=[],
        help="a LoRA to merge into it, such as style.safetensors=0.7; repeat it for several",
    )
    group.add_argument(
        "--param-dtype",
        choices=("float32", "bfloat16"),
        help="what its weights are kept in; bfloat16 takes half the memory (default: float32)",
    )
    group.add_argument(
        "--size",
        metavar="PIXELS",
        help="an edge, such as 512, or HEIGHTxWIDTH (default: the model's)",
    )
    group.add_argument("--strength", type=float, metavar="S", help="with --image: how far it is noised, in (0, 1]")
    group.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="decode in tiles of so many pixels, a multiple of 32, for less memory",
    )
    group.add_argument(
        "--model",
        metavar="NAME",
        help="of one file: what it holds where it does not say, such as sd-2.1 or dit-xl-2-256",
    )
    group.add_argument("--vae", metavar="PATH", help="of a DiT's file: its autoencoder's folder")
    group.add_argument(
        "--second",
        metavar="TEXT",
        help="of XL: the second text encoder's prompt (default: the first's)",
    )
    group.add_argument("--negative-second", metavar="TEXT", help="of XL: what that keeps away from")
    group.add_argument("--clip-skip", type=int, metavar="N", help="features of the text so many blocks earlier")
    for name, what in (
        ("original-size", "the picture's size before it was scaled, HEIGHTxWIDTH"),
        ("crop", "where its crop begins, TOPxLEFT"),
        ("target-size", "the size that is aimed at, HEIGHTxWIDTH"),
    ):
        group.add_argument(f"--{name}", metavar="PIXELS", help=f"of XL: it is told {what}")
    for name, usual in (("aesthetic-score", 6.0), ("negative-aesthetic-score", 2.5)):
        group.add_argument(f"--{name}", type=float, metavar="N", help=f"of XL's refiner: usually {usual}")
