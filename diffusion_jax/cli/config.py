"""`diffusion-jax config show` and `config check`: what a config comes to, before a step is paid for."""

from __future__ import annotations

import argparse

__all__ = ["config"]


def config(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Show or check the config in `arguments.file`, with the overrides in `rest`."""
    if arguments.action == "show":
        from diffusion_jax.cli.config_show import show

        return show(arguments.file, rest)
    from diffusion_jax.cli.config_check import check

    return check(arguments, rest)
