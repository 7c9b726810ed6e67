"""`diffusion-jax sample`: images of a run that draws, into one picture or into a folder."""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

import jax

from diffusion_jax.cli.applies import ASKED
from diffusion_jax.cli.asking import asked_of, negative_of, read_requests
from diffusion_jax.cli.keyvalues import guidance_of, solver_options_of
from diffusion_jax.cli.notices import check_text, counted, in_short, say
from diffusion_jax.cli.pretrained import published, sized
from diffusion_jax.files import check_file, check_folder
from diffusion_jax.parallel.accelerator import configure
from diffusion_jax.parallel.memory import enough_memory
from diffusion_jax.report.pictures import save_grid
from diffusion_jax.systems.diffusion.drawn import shape_shown
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.systems.table import load_run
from diffusion_jax.typing import UserError

__all__ = ["sample"]

OF_FILES = (
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".npz", ".npy", ".txt", ".csv", ".json", ".jsonl",
    ".tar", ".zip", ".parquet", ".html",
)  # fmt: skip
"""Endings that no folder of images has."""
WIDEST = 384
"""Pixels of an edge to which small pictures are enlarged at most, where no --scale is given."""
PUBLISHED_AT_ONCE = 4
"""Pictures that a published pipeline draws at a time on each device, where no --batch-size is given."""
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


def sample(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Draw what is asked for, or unasked, into one picture or into a folder of files."""
    if arguments.pretrained is not None:
        for name, usual in (("scale", 1), ("batch_size", PUBLISHED_AT_ONCE)):
            if name not in arguments.given:
                setattr(arguments, name, usual)
    _check_numbers(arguments)
    out, folder = Path(arguments.out), _is_folder(arguments)
    if folder:
        check_folder(arguments.out)
    elif check_file(arguments.out).exists() and not arguments.overwrite:
        raise UserError(f"{out} exists; choose another --out, or --overwrite to replace it")
    if not folder and arguments.distributed is not None:
        raise UserError(
            "--distributed shares out the shards of --prompts FILE; one picture of --prompt needs no others"
        )
    if arguments.prompts is not None:
        read_requests(arguments.prompts)  # before JAX finds its devices
    configure(say)
    if arguments.pretrained is not None and "batch_size" not in arguments.given:
        arguments.batch_size *= jax.local_device_count()
    run: Any = _drawing(arguments.run, arguments.weights) if arguments.pretrained is None else published(arguments)
    asked = asked_of(run, arguments)
    if arguments.pretrained is not None:
        run = sized(run, asked)
    if asked is not None and asked.rows and "num_images" not in arguments.given:
        arguments.num_images = len(asked.rows)
    negative = negative_of(run, asked, arguments)
    if (not folder or arguments.format == "png") and len(run.shape) != 3:
        raise UserError(
            f"the run draws arrays of shape {tuple(run.shape)}, no pictures: give --format npz and a folder"
        )
    if not folder:
        shape = shape_shown(run) if isinstance(run, DiffusionRun) else run.shape
        if "scale" not in arguments.given:
            arguments.scale = max(1, min(arguments.scale, WIDEST // max(shape[:2])))
        _check_picture(arguments.num_images, shape, arguments.scale)
    wanted = [] if asked is None else asked.different()
    for notice in in_short(run.notices([*wanted, *([] if negative is None else [negative])])):
        say(notice)
    default = run.config.get("sampler") or {}
    settings = run.settings(
        negative=negative,
        guidance_scale=arguments.guidance_scale,
        guidance=guidance_of(arguments, default),
        solver=arguments.solver,
        num_steps=arguments.num_steps,
        grid=arguments.grid,
        solver_options=solver_options_of(arguments, default),
    ) | {"seed": arguments.seed}
    if arguments.pretrained is not None:
        say("compiling comes first, minutes for published weights; the bar moves once it steps")
    if folder:
        from diffusion_jax.cli.shards import write_images

        with enough_memory(f"lower --batch-size {arguments.batch_size} or --shard-size {arguments.shard_size}"):
            return write_images(run, asked, settings, arguments, say)
    began, count = time.perf_counter(), arguments.num_images
    lower = f"lower --batch-size {arguments.batch_size} or --num-images {count}"
    with enough_memory(lower + (", give a smaller --size, or --tile" if arguments.pretrained is not None else "")):
        requests = None if asked is None else [asked.at(i) for i in range(count)]
        images = run.generate(requests, count=count, batch_size=arguments.batch_size, **settings)
    place = (arguments.run or arguments.pretrained).encode(errors="backslashreplace").decode()
    note = {name: "; ".join(given) for name in (*ASKED, "lora") if (given := getattr(arguments, name))}
    note |= {"run": place, "weights": arguments.weights} if arguments.pretrained is None else {"pretrained": place}
    note |= {key: str(value) for key, value in settings.items() if value not in (None, {})}
    save_grid(out, images, min(8, len(images)), arguments.scale, note, ink=getattr(run, "ink", True))
    say(f"{counted(len(images), 'image')} in {time.perf_counter() - began:.1f} s: {out}")
    return 0


def _check_numbers(arguments: argparse.Namespace) -> None:
    """UserError for an option that is none of its numbers or texts."""
    for name in ("num_images", "batch_size", "shard_size", "scale"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(arguments, name)} is not at least 1")
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed {arguments.seed} is not from 0 to {2**32 - 1}")
    for name in ("prompt", "label", "negative", "negative_label"):
        given = getattr(arguments, name)
        for text in given if isinstance(given, list) else [given]:
            check_text(f"--{name.replace('_', '-')}", text)
    for name, usual in (("eta", "0 (none) to 1 (as DDPM)"), ("guidance_scale", "1 (none) to 8")):
        value = getattr(arguments, name)
        if value is not None and not math.isfinite(value):
            raise UserError(f"{name.replace('_', ' ')} {value} is not finite; it is a number, usually from {usual}")


def _is_folder(arguments: argparse.Namespace) -> bool:
    """Whether --out is a folder: of many requests, of a --format, or, of nothing asked, by a name that is no file's."""
    out = Path(arguments.out)
    picture, file = out.suffix.lower() == ".png", out.suffix.lower() in OF_FILES and not os.path.isdir(out)
    if arguments.format is not None and picture:
        raise UserError(f"--out {arguments.out!r} is a .png file, and --format {arguments.format} writes a folder")
    asked = any(getattr(arguments, name) for name in ASKED)
    folder = arguments.prompts is not None or arguments.format is not None or not (asked or picture or file)
    if not folder and not picture:
        near = f"{out.stem.strip('.') or 'samples'}.png"
        raise UserError(
            f"--out {arguments.out!r} is not a .png file; did you mean {near!r}? (--format png or npz writes a folder)"
        )
    if folder and file:
        why = "--prompts" if arguments.prompts is not None else f"--format {arguments.format}"
        raise UserError(
            f"--out {arguments.out!r} is named as a file, and {why} writes a folder of them; did you mean {out.stem!r}?"
        )
    if folder and arguments.format == "png" and "shard_size" in arguments.given:
        raise UserError("--shard-size does not go with --format png, where every image is a file")
    return folder


def _check_picture(count: int, shape: tuple[int, ...], scale: int) -> None:
    """UserError before anything is drawn for a grid of more pixels than Pillow opens without a warning."""
    columns = min(8, count)
    width, height = columns * shape[1] * scale, -(-count // columns) * shape[0] * scale
    if width * height > MOST_PIXELS:
        raise UserError(
            f"--num-images {count} at --scale {scale} make a picture of {width} x {height} pixels, more than the "
            f"{MOST_PIXELS} of a PNG that is opened without a warning: lower one, or use --format png"
        )
