"""The arguments of `diffusion-jax config show` and `config check`."""

from __future__ import annotations

from typing import Any

from diffusion_jax.cli.options.words import Help, Parser

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command and what it does."""
    config = commands.add_parser(
        "config",
        help="show or check a config before a step is paid for",
        formatter_class=Help,
        description="Show what a config file comes to and what its tables offer, or build all of it and say what it costs.",
        epilog="examples: diffusion-jax config show configs/digits_clip.py\n"
        "          diffusion-jax config show configs/digits_diffusion.py:flow --config.model.width=64\n"
        "          diffusion-jax config check configs/digits_clip.py --out batch.png",
    )
    actions = config.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    show = actions.add_parser(
        "show",
        help="print the config with all that it leaves out, and what each table offers",
        formatter_class=Help,
        description="Print the config as it is resolved, with the keys that it leaves out, and for each group which names\n"
        "there are and what the chosen one takes. No data are read and nothing is built. Keys are overridden by\n"
        "--config.KEY=VALUE, so that another name shows its own keys. What is wrong is marked, and the first of it is\n"
        "the error that the command ends with.",
        epilog="example: diffusion-jax config show configs/digits_diffusion.py --config.schedule.name=discrete",
    )
    check = actions.add_parser(
        "check",
        help="build everything, write nothing into the run's folder, and say what training will cost",
        formatter_class=Help,
        description="Validate the config, read its data, build its model, loss and optimizer, and print: examples,\n"
        "parameters, FLOPs an image, bytes of the state, and the first batch, which is also written as a picture.\n"
        "No step is taken and the run's folder is not touched. Keys are overridden by --config.KEY=VALUE.",
        epilog="examples: diffusion-jax config check configs/digits_clip.py\n"
        "          diffusion-jax config check configs/digits_clip.py --config.batch_size=512 --compile --out batch.png",
    )
    for action in (show, check):
        action.overrides = True
        action.add_argument("file", metavar="FILE[:VARIANT]", help="a config file, as in configs/")
    check.add_argument("--out", metavar="FILE", help="the PNG of the first batch (default: NAME_batch.png, here)")
    check.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    check.add_argument(
        "--compile", action="store_true", help="compile the step too, for XLA's own FLOPs and the memory that it needs"
    )
