"""The arguments of `diffusion-jax report`."""

from __future__ import annotations

from typing import Any

from diffusion_jax.cli.options.words import Help, moved

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    report = commands.add_parser(
        "report",
        help="write the page of an evaluated run",
        formatter_class=Help,
        description="Write index.html, one file with its pictures inside, from what `evaluate` wrote.",
        epilog="example: diffusion-jax report --run runs/digits",
    )
    report.add_argument("--run", required=True, metavar="DIR", help="the run's folder, such as runs/digits")
    moved(report)
