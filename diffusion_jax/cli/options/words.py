"""How arguments are read and told: parsers whose errors are one line, and what several commands take."""

from __future__ import annotations

import argparse
import difflib
from typing import Any

from diffusion_jax.typing import UserError

__all__ = ["Help", "Parser", "Version", "columns", "distributed", "moved"]


class Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that there are, and examples line by line."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        none = action.default is None or action.default is False or action.default == []  # 0 is a default
        return action.help if none else super()._get_help_string(action)


class Version(argparse.Action):
    """Prints the versions that a report of a fault needs, as installed; nothing is imported for it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:  # type: ignore[override]
        """Prints and leaves."""
        import platform
        from importlib.metadata import version

        from diffusion_jax import __version__

        others = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax"))
        print(f"diffusion_jax {__version__}, {others}, Python {platform.python_version()}")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """One line for bad arguments, like every other error. `overrides`: whether --config.KEY=VALUE may stand among them."""

    overrides = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's, but a misspelt option is named before the required one that is missing for it."""
        if self._subparsers is None:
            for argument in args or ():
                name = argument.partition("=")[0]
                known = list(self._option_string_actions)
                override = self.overrides and name.startswith("--config.")
                if len(name) > 2 and name.startswith("--") and not override and not _begins(name, known):
                    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                    hint = f"; did you mean {near[0]!r}?" if near else ""
                    raise UserError(f"argument {argument!r} is not known{hint} (see {self.prog} --help)")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse's, with the nearest of the choices."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = difflib.get_close_matches(
                str(value), [str(choice) for choice in action.choices or ()], n=1, cutoff=0.5
            )
            error.message += f"; did you mean {near[0]!r}?" if near else ""
            raise

    def error(self, message: str) -> None:  # type: ignore[override]
        """As a UserError."""
        raise UserError(f"{message} (see {self.prog} --help)")


def _begins(name: str, known: list[str]) -> bool:
    """Options may be abbreviated."""
    return any(option.startswith(name) for option in known)


def columns(command: argparse.ArgumentParser, when: str) -> None:
    """Which columns of a table of captions are read."""
    command.add_argument("--captions", metavar="NAME", help=f"{when}the table in the folder, if it has several")
    for name, what in (("image", "picture"), ("caption", "caption")):
        command.add_argument(f"--{name}-column", metavar="NAME", help=f"{when}the column of the {what}")


def moved(command: argparse.ArgumentParser) -> None:
    """Where the data of a run are."""
    command.add_argument(
        "--data",
        metavar="PATH",
        help="where the data lie that the run was trained on, if no longer where its config's data.path says",
    )


def distributed(command: argparse.ArgumentParser) -> None:
    """Several processes."""
    command.add_argument(
        "--distributed",
        nargs="?",
        const="",
        metavar="HOST:PORT,COUNT,INDEX",
        help="this is one of several processes: alone on Cloud TPU, Slurm, Open MPI or Kubernetes; elsewhere where "
        "process 0 listens, how many there are, and which this is",
    )
