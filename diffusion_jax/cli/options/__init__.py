"""The commands and their arguments, a file a command. Nothing heavy is imported to read them."""

from __future__ import annotations

import argparse

from diffusion_jax.cli.options import config, convert, encode, evaluate, report, sample, train, unclip, vocabulary
from diffusion_jax.cli.options.words import Help, Parser, Version

__all__ = ["COMMANDS", "parser"]

COMMANDS = ("train", "sample", "unclip", "evaluate", "encode", "convert", "vocabulary", "report", "config")


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    top = Parser(
        prog="diffusion-jax",
        formatter_class=Help,
        description="Train, sample and measure CLIP, autoencoders and diffusion models in JAX.",
        epilog="example: diffusion-jax sample --run runs/digits --prompt 'a bold seven' --out seven.png\n"
        "         diffusion-jax COMMAND --help shows the examples of a command",
    )
    top.add_argument("--version", action=Version, nargs=0, help="the versions of this package, of JAX and of Flax")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for command in (train, sample, unclip, evaluate, encode, convert, vocabulary, report, config):
        command.add(commands)
    return top
