"""`diffusion-jax train | sample | evaluate | report`: each command is a thin reading of arguments around one call.

Exit codes: 0 done, 1 a defect of ours (with a traceback), 2 something the user can mend (one line), 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Sequence

from diffusion_jax.typing import UserError

__all__ = ["guarded", "main", "parser"]


class _Parser(argparse.ArgumentParser):
    """One line for bad arguments, like every other error."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    top = _Parser(prog="diffusion-jax", description="Train, sample and measure CLIP and diffusion models in JAX.")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    show = argparse.ArgumentDefaultsHelpFormatter

    train = commands.add_parser(
        "train",
        help="train or resume the run of a config",
        description="Train the run of a config file, or resume it. Config keys are overridden by --config.KEY=VALUE.",
        epilog="example: diffusion-jax train --config configs/digits_clip.py --config.steps=500 "
        "--config.optimizer.learning_rate=1e-3; a file's named variant: --config configs/digits_diffusion.py:flow",
    )
    train.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="a config file, as in configs/")
    train.add_argument("--overwrite", action="store_true", help="delete the run that is in the folder and begin anew")
    train.add_argument("--no-progress", action="store_true", help="no progress bar")

    sample = commands.add_parser(
        "sample",
        help="draw images from a run",
        formatter_class=show,
        description="Draw images for a prompt into a PNG grid whose metadata holds the settings, or for a file of prompts "
        "(one a line) into a folder of .npz shards that can be resumed.",
    )
    sample.add_argument("--run", required=True, metavar="DIR", help="the run's folder, such as runs/digits")
    which = sample.add_mutually_exclusive_group(required=True)
    which.add_argument("--prompt", help="what to draw")
    which.add_argument("--prompts", metavar="FILE", help="a file with a prompt a line; they are taken in turn")
    sample.add_argument("--negative", metavar="PROMPT", help="what to keep away from")
    sample.add_argument("--guidance-scale", type=float, metavar="W", help="1 is no guidance (default: the config's)")
    sample.add_argument("--solver", metavar="NAME", help="ddim, ddpm, euler or heun (default: the config's)")
    sample.add_argument("--eta", type=float, help="DDIM's noise, from 0 (none) to 1 (as DDPM)")
    sample.add_argument("--grid", metavar="NAME", help="uniform or logsnr (default: the config's)")
    sample.add_argument("--num-steps", type=int, metavar="N", help="solver steps (default: the config's)")
    sample.add_argument("--num-images", type=int, metavar="N", default=8, help="how many images")
    sample.add_argument("--seed", type=int, default=0, help="image i is a function of the seed and of i")
    sample.add_argument("--batch-size", type=int, metavar="N", default=256, help="images at a time")
    sample.add_argument("--shard-size", type=int, metavar="N", default=1000, help="images a file, with --prompts")
    sample.add_argument("--weights", choices=("ema", "params"), default="ema", help="averaged or raw weights")
    sample.add_argument("--scale", type=int, metavar="N", default=12, help="pixels of the PNG a pixel of an image")
    sample.add_argument("--out", required=True, metavar="PATH", help="the PNG file, or the folder with --prompts")
    sample.add_argument("--overwrite", action="store_true", help="replace what is at --out")

    evaluate = commands.add_parser(
        "evaluate",
        help="measure a run",
        formatter_class=show,
        description="Measure a run on held-out scans and write report/metrics.json.",
    )
    evaluate.add_argument("--run", required=True, metavar="DIR", help="the run's folder, such as runs/digits")
    evaluate.add_argument(
        "--split", choices=("validation", "test"), default="test", help="make choices on validation, report test"
    )
    evaluate.add_argument("--samples", type=int, metavar="N", default=500, help="samples for the main numbers")
    evaluate.add_argument("--seed", type=int, default=0, help="seed of the samples")
    evaluate.add_argument("--out", metavar="DIR", help="where to write (default: RUN/report)")

    report = commands.add_parser(
        "report",
        help="write the page of an evaluated run",
        description="Write index.html, one file with its pictures inside, from what `evaluate` wrote.",
    )
    report.add_argument("--run", required=True, metavar="DIR", help="the run's folder, such as runs/digits")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    return guarded(lambda: _command(argv))


def _command(argv: Sequence[str] | None) -> int:
    arguments, rest = parser().parse_known_args(argv)
    if rest and (arguments.command != "train" or not rest[0].startswith("--config.")):
        raise UserError(f"argument {rest[0]!r} is not known (see diffusion-jax {arguments.command} --help)")
    from diffusion_jax.cli import commands

    return getattr(commands, arguments.command)(arguments, rest)


def guarded(action: Callable[[], int]) -> int:
    """The exit code of `action`; what a user can mend is one line on stderr instead of a traceback."""
    try:
        return action()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror}{where}; what was written before is kept", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"interrupted: {str(stop) or 'what had been saved is kept'}", file=sys.stderr)
        return 130
