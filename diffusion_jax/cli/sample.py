"""`diffusion-jax sample`: images of a run that draws, into one picture or into a folder."""

from __future__ import annotations

import argparse
import ast
import math
import time
from pathlib import Path
from typing import Any

from diffusion_jax.build.guidance import check, spec_of
from diffusion_jax.cli.applies import flag
from diffusion_jax.cli.notices import check_text, in_short, say
from diffusion_jax.data.sources.folders import hint, names_in, status
from diffusion_jax.data.text.text_files import read_lines, shortened
from diffusion_jax.files import check_file, check_folder
from diffusion_jax.parallel.accelerator import configure
from diffusion_jax.parallel.memory import enough_memory
from diffusion_jax.report.pictures import save_grid
from diffusion_jax.systems.table import load_run
from diffusion_jax.typing import UserError

__all__ = ["sample"]

MOST_PIXELS = 89_478_485
"""Of a picture: Pillow's own limit."""


def _drawing(path: str, which: str = "ema") -> Any:
    """The run at a path. UserError for one of a system that draws nothing."""
    run = load_run(path, which=which)
    if not callable(getattr(run, "generate", None)):
        raise UserError(
            f"the run in {path!r} is of system {run.config.get('system')!r}, which draws nothing: give another"
        )
    return run


def _asked(arguments: argparse.Namespace) -> list[str] | None:
    """The requests that were made; None for none."""
    if arguments.prompt is not None:
        return [arguments.prompt]
    return None if arguments.prompts is None else _read_prompts(arguments.prompts)


def _check_asked(run: Any, arguments: argparse.Namespace) -> None:
    """UserError where a run is asked for what it does not take, or not asked."""
    given = {"prompt", "prompts"} & arguments.given
    if run.asks and not given:
        raise UserError(f"the run in {arguments.run!r} draws what it is asked for: give --prompt, or --prompts FILE")
    if not run.asks and (given or arguments.negative is not None):
        option = flag(min(given)) if given else "--negative"
        raise UserError(
            f"the run in {arguments.run!r} draws unasked: {option} changes nothing; give --num-images alone"
        )


def sample(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Draw images for one prompt, or for none, into a PNG, or for many into a folder of shards."""
    out, folder = Path(arguments.out), arguments.prompts is not None
    for name in ("num_images", "batch_size", "shard_size", "scale"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(arguments, name)} is not at least 1")
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed {arguments.seed} is not from 0 to {2**32 - 1}")
    for name in ("prompt", "negative"):
        check_text(f"--{name}", getattr(arguments, name))
    for name, usual in (("eta", "0 (none) to 1 (as DDPM)"), ("guidance_scale", "1 (none) to 8")):
        value = getattr(arguments, name)
        if value is not None and not math.isfinite(value):
            raise UserError(f"{name.replace('_', ' ')} {value} is not finite; it is a number, usually from {usual}")
    # Without a prompt a name that ends in no .png is a folder: of a run that draws unasked.
    folder = folder or (arguments.prompt is None and out.suffix.lower() != ".png")
    if not folder and out.suffix.lower() != ".png":
        raise UserError(f"--out {arguments.out!r} is not a .png file; did you mean {out.with_suffix('.png').name!r}?")
    if folder:
        check_folder(arguments.out)
    elif check_file(arguments.out).exists() and not arguments.overwrite:
        raise UserError(f"{out} exists; choose another --out, or --overwrite to replace it")
    if not folder and arguments.distributed is not None:
        raise UserError(
            "--distributed shares out the shards of --prompts FILE; one picture of --prompt needs no others"
        )
    asked = _asked(arguments)
    configure(say)
    run = _drawing(arguments.run, arguments.weights)
    _check_asked(run, arguments)
    if not folder:
        _check_picture(arguments.num_images, run.shape, arguments.scale)
    for notice in in_short(run.notices([*(asked or ()), *([arguments.negative] if arguments.negative else [])])):
        say(notice)
    settings = run.settings(
        negative=arguments.negative,
        guidance_scale=arguments.guidance_scale,
        guidance=_guidance(arguments, run.config.get("sampler") or {}),
        solver=arguments.solver,
        num_steps=arguments.num_steps,
        grid=arguments.grid,
        solver_options={} if arguments.eta is None else {"eta": arguments.eta},
    ) | {"seed": arguments.seed}
    if folder:
        from diffusion_jax.cli.shards import write_shards

        with enough_memory(f"lower --batch-size {arguments.batch_size} or --shard-size {arguments.shard_size}"):
            return write_shards(run, asked, settings, arguments, say)
    began, count = time.perf_counter(), arguments.num_images
    with enough_memory(f"lower --batch-size {arguments.batch_size} or --num-images {count}"):
        images = run.generate(asked, count=count, batch_size=arguments.batch_size, **settings)
    place = arguments.run.encode(errors="backslashreplace").decode()
    note = {} if asked is None else {"prompt": arguments.prompt}
    note |= {"run": place, "weights": arguments.weights}
    note |= {key: str(value) for key, value in settings.items() if value not in (None, {})}
    save_grid(out, images, min(8, len(images)), arguments.scale, note)
    say(f"{len(images)} images in {time.perf_counter() - began:.1f} s: {out}")
    return 0


def _check_picture(count: int, shape: tuple[int, int, int], scale: int) -> None:
    """UserError before anything is drawn for a grid of more pixels than Pillow opens without a warning."""
    columns = min(8, count)
    width, height = columns * shape[1] * scale, -(-count // columns) * shape[0] * scale
    if width * height > MOST_PIXELS:
        raise UserError(
            f"--num-images {count} at --scale {scale} make a picture of {width} x {height} pixels, more than the "
            f"{MOST_PIXELS} of a PNG that is opened without a warning: lower one, or use --prompts FILE"
        )


def _guidance(arguments: argparse.Namespace, default: Any) -> dict[str, Any] | None:
    """The guidance group of `--guidance` and `--guidance-option`, over the config's; None where neither says anything."""
    said = default.get("guidance") if arguments.guidance is None else arguments.guidance
    group = {} if said is None else spec_of(said)
    given: set[str] = set()
    for option in arguments.guidance_option:
        key, equals, text = option.partition("=")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = None
        numbers = value if isinstance(value, tuple) else (value,)
        if not equals or any(
            isinstance(n, bool) or not isinstance(n, int | float) or not math.isfinite(n) for n in numbers
        ):
            raise UserError(
                f"--guidance-option {option!r} is not KEY=NUMBER, finite, such as eta=0.2 or interval=0.3,5"
            )
        if key in given:
            raise UserError(f"--guidance-option {key} is given twice")
        given.add(key)
        group[key] = list(value) if isinstance(value, tuple) else value
    return check(group) if group else None


def _read_prompts(name: str) -> list[str]:
    path = Path(name)
    if status(path) is None:
        raise UserError(f"prompt file {shortened(name)} does not exist{hint(path.name, names_in(path.parent))}")
    prompts = read_lines(path)
    if not prompts:
        raise UserError(f"prompt file {name!r} holds no prompt")
    return prompts
