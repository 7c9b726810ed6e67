"""`diffusion-jax train | sample | evaluate | convert | vocabulary | report`: each a thin reading of arguments round a call.

Exit codes: 0 done, 1 a defect of ours (with a traceback), 2 something the user can mend (one line), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from diffusion_jax.cli.applies import check_applies
from diffusion_jax.typing import UserError, one_of

__all__ = ["guarded", "main", "parser"]

COMMANDS = ("train", "sample", "evaluate", "convert", "vocabulary", "report")


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that there are, and examples line by line."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        none = action.default is None or action.default is False or action.default == []  # 0 is a default
        return action.help if none else super()._get_help_string(action)


class _Version(argparse.Action):
    """Prints the versions that a report of a fault needs, as installed; nothing is imported for it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:  # type: ignore[override]
        import platform
        from importlib.metadata import version

        from diffusion_jax import __version__

        others = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax"))
        print(f"diffusion_jax {__version__}, {others}, Python {platform.python_version()}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """One line for bad arguments, like every other error."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's, but a misspelt option is named before the required one that is missing for it."""
        if self._subparsers is None:
            for argument in args or ():
                name = argument.partition("=")[0]
                known = list(self._option_string_actions)
                override = "--config" in known and name.startswith("--config.")
                if len(name) > 2 and name.startswith("--") and not override and not _begins(name, known):
                    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                    hint = f"; did you mean {near[0]!r}?" if near else ""
                    raise UserError(f"argument {argument!r} is not known{hint} (see {self.prog} --help)")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message} (see {self.prog} --help)")


def _begins(name: str, known: list[str]) -> bool:
    """Options may be abbreviated."""
    return any(option.startswith(name) for option in known)


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    top = _Parser(
        prog="diffusion-jax",
        formatter_class=_Help,
        description="Train, sample and measure CLIP and diffusion models in JAX.",
        epilog="example: diffusion-jax sample --run runs/digits --prompt 'a bold seven' --out seven.png\n"
        "         diffusion-jax COMMAND --help shows the examples of a command",
    )
    top.add_argument("--version", action=_Version, nargs=0, help="the versions of this package, of JAX and of Flax")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    train = commands.add_parser(
        "train",
        help="train or resume the run of a config",
        formatter_class=_Help,
        description="Train the run of a config file, or resume it. Config keys are overridden by --config.KEY=VALUE.",
        epilog="examples: diffusion-jax train --config configs/digits_clip.py\n"
        "          diffusion-jax train --config configs/digits_clip.py --config.steps=500 --config.workdir=runs/short\n"
        "          diffusion-jax train --config configs/digits_diffusion.py:flow   (a variant that the file names)",
    )
    train.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="a config file, as in configs/")
    train.add_argument("--overwrite", action="store_true", help="delete the run that is in the folder and begin anew")
    _distributed(train)
    train.add_argument(
        "--no-progress",
        action="store_true",
        help="no progress: what is resumed or changed, warnings, errors and the folder at the end alone are said",
    )

    sample = commands.add_parser(
        "sample",
        help="draw images from a run",
        formatter_class=_Help,
        description="Draw images for a prompt into a PNG grid whose metadata holds the settings, or for a file of prompts\n"
        "(one a line) into a folder of .npz shards that can be resumed. A run that draws unasked takes no prompt.",
        epilog="examples: diffusion-jax sample --run runs/digits --prompt 'a bold seven' --out seven.png\n"
        "          diffusion-jax sample --run runs/digits --prompt 'a two' --negative 'a slanted two' --out two.png\n"
        "          diffusion-jax sample --run runs/digits --prompt two --guidance apg --guidance-option eta=0.2 --out a.png\n"
        "          diffusion-jax sample --run runs/digits --prompts prompts.txt --num-images 5000 --out samples",
    )
    sample.add_argument("--run", required=True, metavar="DIR", help="the run's folder, such as runs/digits")
    which = sample.add_mutually_exclusive_group()
    which.add_argument("--prompt", help="what to draw, of a run that is asked")
    which.add_argument("--prompts", metavar="FILE", help="a file with a prompt a line; they are taken in turn")
    sample.add_argument("--negative", metavar="PROMPT", help="what to keep away from")
    sample.add_argument("--guidance-scale", type=float, metavar="W", help="1 is no guidance (default: the config's)")
    sample.add_argument(
        "--guidance", metavar="NAME", help="classifier_free, apg, cfg_plus_plus or cfg_zero (default: the config's)"
    )
    sample.add_argument(
        "--guidance-option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of the guidance, such as eta=0.2 of apg, or a limit: rescale=0.7, threshold=0.99, clip=1 or "
        "interval=0.3,5; repeat it for several",
    )
    sample.add_argument(
        "--solver",
        metavar="NAME",
        help="adaptive_ode, consistency, ddim, ddpm, deis, dpm_solver, dpm_solver_pp, edm_stochastic, euler, "
        "euler_ancestral, euler_maruyama, exponential_euler, heun, ipndm, lms, pndm, predictor_corrector, restart, "
        "sa_solver or unipc (default: the config's)",
    )
    sample.add_argument("--eta", type=float, help="DDIM's noise, from 0 (none) to 1 (as DDPM)")
    sample.add_argument(
        "--grid",
        metavar="NAME",
        help="discrete, karras, logsnr, natural (the schedule's), quadratic or uniform (default: the config's)",
    )
    sample.add_argument("--num-steps", type=int, metavar="N", help="solver steps (default: the config's)")
    sample.add_argument("--num-images", type=int, metavar="N", default=8, help="how many images")
    sample.add_argument("--seed", type=int, default=0, help="image i is a function of the seed and of i")
    sample.add_argument("--batch-size", type=int, metavar="N", default=256, help="images at a time")
    sample.add_argument("--shard-size", type=int, metavar="N", default=1000, help="images a file of a folder")
    sample.add_argument("--weights", choices=("ema", "params"), default="ema", help="averaged or raw weights")
    sample.add_argument("--scale", type=int, metavar="N", default=12, help="pixels of the PNG a pixel of an image")
    sample.add_argument("--out", required=True, metavar="PATH", help="the PNG file, or the folder of shards")
    sample.add_argument("--overwrite", action="store_true", help="replace what is at --out")

    _distributed(sample)

    evaluate = commands.add_parser(
        "evaluate",
        help="measure a run",
        formatter_class=_Help,
        description="Measure a run on its held-out data, into report/metrics.json or measures.json; or a CLIP on pictures of\n"
        "yours, into report/clip_metrics.json.",
        epilog="examples: diffusion-jax evaluate --run runs/digits --split validation --samples 500\n"
        "          diffusion-jax evaluate --run runs/digits --bits-per-dim\n"
        "          diffusion-jax evaluate --run clip-vit-base-patch32 --zero-shot imagenet/val --templates seven\n"
        "          diffusion-jax evaluate --run runs/my_clip --retrieval pictures --out /tmp/numbers",
    )
    evaluate.add_argument(
        "--run", required=True, metavar="DIR", help="the run's folder, such as runs/digits, or published CLIP weights"
    )
    evaluate.add_argument(
        "--split",
        choices=("validation", "test"),
        default="test",
        help="make choices on validation, report test; with --retrieval or --clip-score: of DIR the pictures that the "
        "run's own data hold out so (otherwise all of DIR)",
    )
    evaluate.add_argument("--samples", type=int, metavar="N", default=500, help="samples for the main numbers")
    evaluate.add_argument("--seed", type=int, default=0, help="seed of the samples")
    evaluate.add_argument(
        "--bits-per-dim",
        action="store_true",
        help="measure the likelihood of the scans instead: the ODE beside the bound, into bits_per_dim.json",
    )
    evaluate.add_argument(
        "--scans", type=int, metavar="N", help="with --bits-per-dim: the first N scans (default: all)"
    )
    evaluate.add_argument(
        "--divergence",
        default="rademacher",
        help="with --bits-per-dim: exact (64 derivatives an evaluation), gaussian or rademacher (4 probes a scan)",
    )
    evaluate.add_argument(
        "--metric",
        metavar="NAME",
        action="append",
        default=[],
        help="a metric of the run's system (retrieval, samples) or of yours as module:attribute; repeat it for several "
        "(default: what the run's data bring, or all)",
    )
    evaluate.add_argument("--zero-shot", metavar="DIR", help="of a CLIP: classify the pictures DIR/CLASS/PICTURE")
    evaluate.add_argument("--classes", metavar="FILE", help='with --zero-shot: a JSON file {"folder": "name", ...}')
    evaluate.add_argument(
        "--templates",
        metavar="NAME",
        default="photo",
        help="with --zero-shot: actions, aircraft, cars, digits, flowers, food, pets, photo, plain, satellite, scenes, seven, "
        "textures, or a file with a template a line, such as 'a photo of a {}.'",
    )
    evaluate.add_argument(
        "--retrieval", metavar="DIR", help="of a CLIP: recall between the pictures and captions of DIR"
    )
    evaluate.add_argument(
        "--linear-probe", nargs=2, metavar="DIR", help="of a CLIP: the classes of one folder learned, of another read"
    )
    evaluate.add_argument(
        "--clip-score", metavar="DIR", help="of a CLIP: the score of the pictures and captions of DIR"
    )
    _columns(evaluate, "with --retrieval, --clip-score: ")
    evaluate.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        help="of pictures of yours that cannot be read and empty captions: stop at the first (raise, the default), or leave "
        "them out, counted and named in the numbers",
    )
    evaluate.add_argument(
        "--exif",
        action="store_true",
        default=None,
        help="of published weights: turn photographs as their camera was held (open_clip does not)",
    )
    evaluate.add_argument("--model", metavar="NAME", help="of published weights that do not say it: ViT-B-32, ...")
    evaluate.add_argument(
        "--tokenizer", metavar="PATH", help="of published weights: the vocabulary, if not beside them"
    )
    evaluate.add_argument("--out", metavar="DIR", help="where to write (default: RUN/report)")

    convert = commands.add_parser(
        "convert",
        help="CLIP weights from one library's format into another's",
        formatter_class=_Help,
        description="Read the CLIP or SigLIP in a Hugging Face or open_clip folder, a file of weights or a run of one's own,\n"
        "and write it for another library.",
        epilog="examples: diffusion-jax convert ViT-B-32.pt --out clip-b32 --format hf\n"
        "          diffusion-jax convert model.safetensors --model ViT-B-32 --out clip-b32 --format hf\n"
        "          diffusion-jax convert clip-l14 --image-size 336 --out clip-l14-336 --format open_clip\n"
        "          diffusion-jax convert runs/my_clip --out my_clip --format hf",
    )
    convert.add_argument("path", metavar="PATH", help="a folder or file of weights, or a run")
    convert.add_argument("--model", metavar="NAME", help="what the weights are, such as ViT-B-32, if they do not say")
    convert.add_argument("--format", default="hf", metavar="NAME", help="hf, open_clip or openai")
    convert.add_argument("--dtype", default="float32", metavar="NAME", help="float32, float16 or bfloat16")
    convert.add_argument("--image-size", type=int, metavar="N", help="interpolate the positions to this resolution")
    convert.add_argument("--context-length", type=int, metavar="N", help="texts of this many tokens")
    convert.add_argument(
        "--weights", choices=("ema", "params"), default="ema", help="of a run: averaged or raw weights"
    )
    convert.add_argument(
        "--out", required=True, metavar="PATH", help="a new folder; with openai a .pt or .safetensors file"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace what is at --out")

    vocabulary = commands.add_parser(
        "vocabulary",
        help="learn a tokenizer's vocabulary from captions",
        formatter_class=_Help,
        description="Learn a byte-pair vocabulary from the captions of a folder of pictures, for models trained from scratch.",
        epilog="example: diffusion-jax vocabulary pictures --merges 500 --out vocabulary",
    )
    vocabulary.add_argument("path", metavar="DIR", help="a folder of pictures with captions")
    _columns(vocabulary, "")
    vocabulary.add_argument("--merges", type=int, metavar="N", default=500, help="how many pairs are joined at most")
    vocabulary.add_argument("--out", required=True, metavar="DIR", help="the folder of vocab.json and merges.txt")

    report = commands.add_parser(
        "report",
        help="write the page of an evaluated run",
        formatter_class=_Help,
        description="Write index.html, one file with its pictures inside, from what `evaluate` wrote.",
        epilog="example: diffusion-jax report --run runs/digits",
    )
    report.add_argument("--run", required=True, metavar="DIR", help="the run's folder, such as runs/digits")
    return top


def _columns(command: argparse.ArgumentParser, when: str) -> None:
    command.add_argument("--captions", metavar="NAME", help=f"{when}the table in the folder, if it has several")
    for name, what in (("image", "picture"), ("caption", "caption")):
        command.add_argument(f"--{name}-column", metavar="NAME", help=f"{when}the column of the {what}")


def _distributed(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--distributed",
        nargs="?",
        const="",
        metavar="HOST:PORT,COUNT,INDEX",
        help="this is one of several processes: alone on Cloud TPU, Slurm, Open MPI or Kubernetes; elsewhere where "
        "process 0 listens, how many there are, and which this is",
    )


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
    if rest and arguments.command != "train":
        raise UserError(f"argument {rest[0]!r} is not known (see diffusion-jax {arguments.command} --help)")
    arguments.given = _given(given)
    check_applies(arguments, arguments.given)
    if getattr(arguments, "distributed", None) is not None:
        from diffusion_jax.parallel.hosts import join

        join(arguments.distributed)
    if arguments.command == "vocabulary":
        from diffusion_jax.cli.vocabulary import vocabulary

        return vocabulary(arguments)
    from diffusion_jax.cli import commands

    return getattr(commands, arguments.command)(arguments, rest)


def _given(argv: Sequence[str]) -> frozenset[str]:
    """The names of the options that were written, rather than left at their defaults."""
    again = parser()
    for action in again._actions:
        for command in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            for option in command._actions:
                option.default = argparse.SUPPRESS
    return frozenset(vars(again.parse_known_args(argv)[0]))


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
        with _warnings_in_a_line():
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
