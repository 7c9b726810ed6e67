"""The arguments of `diffusion-jax encode`."""

from __future__ import annotations

from typing import Any

from diffusion_jax.cli.options.words import Help

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    encode = commands.add_parser(
        "encode",
        help="write the latents of training pictures to disk",
        formatter_class=Help,
        description="Encode the training pictures of a diffusion config once, by an autoencoder, into a folder of shards that\n"
        "training reads in their place (space.cache). Keys are overridden by --config.KEY=VALUE; with data.flip\n"
        "the pictures are encoded as they are and turned left to right.",
        epilog="example: diffusion-jax encode --autoencoder runs/fashion/vae --config configs/fashion_mnist.py:latent "
        "--out latents\n"
        "         diffusion-jax train --config configs/fashion_mnist.py:latent --config.space.cache=latents",
    )
    encode.overrides = True
    encode.add_argument(
        "--autoencoder",
        required=True,
        metavar="DIR",
        help="an autoencoder run, or a published one (diffusers' folder vae)",
    )
    encode.add_argument(
        "--config", required=True, metavar="FILE[:VARIANT]", help="the diffusion config that is to be trained"
    )
    encode.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    encode.add_argument("--batch-size", type=int, metavar="N", default=64, help="pictures at a time")
    encode.add_argument("--shard-size", type=int, metavar="N", default=4096, help="examples a file")
    encode.add_argument("--dtype", default="float32", metavar="NAME", help="of the files: float32 or float16")
    encode.add_argument("--overwrite", action="store_true", help="replace the latents at --out")
    encode.add_argument("--no-progress", action="store_true", help="no progress bar")
