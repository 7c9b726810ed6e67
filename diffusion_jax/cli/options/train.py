"""The arguments of `diffusion-jax train`."""

from __future__ import annotations

from typing import Any

from diffusion_jax.cli.options.words import Help, distributed

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    train = commands.add_parser(
        "train",
        help="train or resume the run of a config",
        formatter_class=Help,
        description="Train the run of a config file, or resume it. Config keys are overridden by --config.KEY=VALUE.",
        epilog="examples: diffusion-jax train --config configs/digits_clip.py\n"
        "          diffusion-jax train --config configs/digits_clip.py --config.steps=500 --config.workdir=runs/short\n"
        "          diffusion-jax train --config configs/digits_diffusion.py:flow   (a variant that the file names)",
    )
    train.overrides = True
    train.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="a config file, as in configs/")
    train.add_argument("--overwrite", action="store_true", help="delete the run that is in the folder and begin anew")
    distributed(train)
    train.add_argument(
        "--no-progress",
        action="store_true",
        help="no progress: what is resumed or changed, warnings, errors and the folder at the end alone are said",
    )
