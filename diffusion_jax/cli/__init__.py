"""`diffusion-jax train | sample | unclip | evaluate | encode | convert | vocabulary | report | config`: how it is called.

Exit codes: 0 done, 1 a defect of ours (with a traceback), 2 something the user can mend (one line), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from diffusion_jax.cli.applies import check_applies
from diffusion_jax.cli.notices import logged_in_lines
from diffusion_jax.cli.options import COMMANDS, parser
from diffusion_jax.typing import UserError, one_of

__all__ = ["COMMANDS", "guarded", "main", "parser"]

OVERRIDDEN = ("train", "config", "encode")
"""The commands that take --config.KEY=VALUE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    return _leave(guarded(lambda: _command(argv)))


def _leave(code: int) -> int:
    """The code, by `hosts.leave` where JAX was needed at all."""
    if "diffusion_jax.parallel.hosts" not in sys.modules:
        return code
    return sys.modules["diffusion_jax.parallel.hosts"].leave(code)


def _command(argv: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    if given and not given[0].startswith("-"):
        one_of("command", given[0], COMMANDS)
    if any("\0" in word for word in given):
        raise UserError("an argument holds a null character, which no path and no prompt does")
    arguments, rest = parser().parse_known_args(given)
    if rest and arguments.command not in OVERRIDDEN:
        raise UserError(f"argument {rest[0]!r} is not known (see diffusion-jax {arguments.command} --help)")
    arguments.given = _given(given)
    check_applies(arguments, arguments.given)
    if getattr(arguments, "distributed", None) is not None:
        from diffusion_jax.parallel.hosts import join

        join(arguments.distributed)
    if arguments.command == "vocabulary":
        from diffusion_jax.cli.vocabulary import vocabulary

        return vocabulary(arguments)
    if arguments.command == "sample":
        from diffusion_jax.cli.sample import sample

        return sample(arguments, rest)
    if arguments.command == "unclip":
        from diffusion_jax.cli.unclip import unclip

        return unclip(arguments)
    if arguments.command == "config":
        from diffusion_jax.cli.config import config

        return config(arguments, rest)
    from diffusion_jax.cli import commands

    return getattr(commands, arguments.command)(arguments, rest)


def _given(argv: Sequence[str]) -> frozenset[str]:
    """The names of the options that were written, rather than left at their defaults."""
    again = parser()
    _suppress(again)
    return frozenset(vars(again.parse_known_args(argv)[0]))


def _suppress(parser: argparse.ArgumentParser) -> None:
    """No option of the parser's commands has a default."""
    for action in parser._actions:
        for command in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            _suppress(command)
            for option in command._actions:
                option.default = argparse.SUPPRESS


OF_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EPERM)
OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


@contextlib.contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Shows what the package warns of without the place in its code."""
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
            if category is not UserWarning:
                return before(message, category, *rest)
            print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _one_line(text: str, most: int = 1000) -> str:
    """A message as one line, cut in the middle where it quotes something endless."""
    line = " ".join(text.splitlines())
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


def guarded(action: Callable[[], int]) -> int:
    """The exit code of `action`; what a user can mend is one line on stderr instead of a traceback."""
    try:
        with _warnings_in_a_line(), logged_in_lines():
            return action()
    except UserError as error:
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (*OF_DISKS, *OF_PATHS):
            raise
        where = f": {error.filename}" if error.filename else ""
        kept = "; what was written before is kept" if error.errno in OF_DISKS else ""
        print(f"error: {_one_line(f'{error.strerror}{where}{kept}')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"interrupted: {str(stop) or 'what had been saved is kept'}", file=sys.stderr)
        return 130
