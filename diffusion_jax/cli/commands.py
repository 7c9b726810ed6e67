"""What the commands do, once their arguments are read."""

from __future__ import annotations

import argparse
import ast
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax

from diffusion_jax.build import SOURCES
from diffusion_jax.build.guidance import check, check_solver, spec_of
from diffusion_jax.build.keys import keys
from diffusion_jax.cli.applies import CLIP_MEASURES, flag
from diffusion_jax.cli.notices import check_text, notices
from diffusion_jax.config import load_config, not_found, parse_overrides
from diffusion_jax.data.sources.folders import hint, names_in, status
from diffusion_jax.data.text.text_files import read_lines, shortened
from diffusion_jax.files import check_file, check_folder, write_atomic
from diffusion_jax.parallel.accelerator import configure
from diffusion_jax.parallel.memory import enough_memory
from diffusion_jax.report.pictures import save_grid
from diffusion_jax.systems.clip.evaluate import evaluate_pictures
from diffusion_jax.systems.diffusion.run import ClipRun, DiffusionRun, load_run
from diffusion_jax.training import train_run
from diffusion_jax.typing import UserError
from experiments.digits.measures import Evaluation, evaluate_clip, evaluate_diffusion, save_evaluation

__all__ = ["evaluate", "report", "sample", "train"]

MOST_PIXELS = 89_478_485
"""Of a picture: Pillow's own limit."""


def say(text: str) -> None:
    """A line to the terminal."""
    print(text, file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    """What the other processes of a run say."""


def train(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Train or resume the run of a config."""
    config = load_config(arguments.config, parse_overrides(rest), keys)
    configure(say, devices=not arguments.no_progress)
    tell = say if jax.process_index() == 0 else _silent
    try:
        with enough_memory(_smaller(config)):
            folder = train_run(config, overwrite=arguments.overwrite, progress=not arguments.no_progress, say=tell)
    except UserError as error:
        raise UserError(f"{error}{not_found(config, keys, arguments.config, str(error))}") from error
    tell(f"run in {folder}")
    return 0


def _smaller(config: Any) -> str:
    """What makes a training step smaller."""
    lower = f"lower --config.batch_size={config.get('batch_size')} or the size of the model"
    return lower + (", or raise --config.loss.micro_batches" if config.get("system") == "clip" else "")


def _diffusion(path: str, which: str = "ema") -> DiffusionRun:
    run = load_run(path, which=which)
    if not isinstance(run, DiffusionRun):
        raise UserError(f"the run in {path!r} is a CLIP run; sampling needs a diffusion run")
    return run


def sample(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Draw images for one prompt into a PNG, or for many into a folder of shards."""
    out = Path(arguments.out)
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
    if arguments.prompt is not None and out.suffix.lower() != ".png":
        raise UserError(f"--out {arguments.out!r} is not a .png file; did you mean {out.with_suffix('.png').name!r}?")
    if arguments.prompt is None:
        check_folder(arguments.out)
    elif check_file(arguments.out).exists() and not arguments.overwrite:
        raise UserError(f"{out} exists; choose another --out, or --overwrite to replace it")
    if arguments.prompt is not None and arguments.distributed is not None:
        raise UserError(
            "--distributed shares out the shards of --prompts FILE; one picture of --prompt needs no others"
        )
    prompts = [arguments.prompt] if arguments.prompts is None else _read_prompts(arguments.prompts)
    configure(say)
    run = _diffusion(arguments.run, arguments.weights)
    if arguments.prompt is not None:
        _check_picture(arguments.num_images, run.shape, arguments.scale)
    for notice in notices(run.clip.tokenizer, [*prompts, *([arguments.negative] if arguments.negative else [])]):
        say(notice)
    default = run.config.sampler
    steps = default.num_steps if arguments.num_steps is None else arguments.num_steps
    settings: dict[str, Any] = {
        "negative": arguments.negative,
        "guidance_scale": default.guidance_scale if arguments.guidance_scale is None else arguments.guidance_scale,
        "solver": arguments.solver or default.solver,
        "grid": run.grid_name(arguments.grid, steps),
        "num_steps": steps,
        "solver_options": {} if arguments.eta is None else {"eta": arguments.eta},
        "seed": arguments.seed,
    }
    run.sampler(**{key: settings[key] for key in settings if key not in ("negative", "seed")})
    guidance = _guidance(arguments, default)
    run.guided(guidance_scale=settings["guidance_scale"], negative=arguments.negative, guidance=guidance)
    check_solver(guidance, settings["solver"])
    if guidance is not None:
        settings["guidance"] = guidance
    if arguments.prompts is not None:
        from diffusion_jax.cli.shards import write_shards

        with enough_memory(f"lower --batch-size {arguments.batch_size} or --shard-size {arguments.shard_size}"):
            return write_shards(run, prompts, settings, arguments, say)
    began = time.perf_counter()
    with enough_memory(f"lower --batch-size {arguments.batch_size} or --num-images {arguments.num_images}"):
        images = run.generate([arguments.prompt] * arguments.num_images, batch_size=arguments.batch_size, **settings)
    folder = arguments.run.encode(errors="backslashreplace").decode()
    note = {"prompt": arguments.prompt, "run": folder, "weights": arguments.weights}
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


def evaluate(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Measure a run and write its metrics."""
    if arguments.samples < 2:
        raise UserError(f"--samples {arguments.samples} is not at least 2")
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed {arguments.seed} is not from 0 to {2**32 - 1}")
    pictures = [name for name in CLIP_MEASURES if getattr(arguments, name) is not None]
    base = Path(arguments.run)
    beside = base if base.is_dir() or not pictures else base.parent
    written = ("clip_metrics.json",) if pictures else WRITTEN["bits_per_dim" if arguments.bits_per_dim else "metrics"]
    given = arguments.out is not None
    folder = check_folder(arguments.out if given else beside / "report", written, "--out" if given else "the folder")
    configure(say)
    if pictures:
        arguments.out = str(folder)
        with enough_memory("a batch of 64 pictures does not fit: use a device of more memory, or JAX_PLATFORMS=cpu"):
            return evaluate_pictures(arguments, say)
    run = load_run(arguments.run)
    if isinstance(run, ClipRun) and run.config.data.name not in SOURCES:
        flags = ", ".join(flag(name) for name in CLIP_MEASURES)
        raise UserError(f"the CLIP in {arguments.run!r} is measured on pictures of yours: give one of {flags}")
    if isinstance(run, ClipRun):
        for name in sorted({"samples", "seed"} & arguments.given):
            raise UserError(
                f"{flag(name)} is of the samples of a diffusion run; the run in {arguments.run!r} is a CLIP"
            )
    if arguments.bits_per_dim:
        return _bits_per_dim(run, arguments, folder)
    with enough_memory(f"lower --samples {arguments.samples}"):
        evaluation = measure(run, arguments.split, samples=arguments.samples, seed=arguments.seed)
    # Printed first: numbers of an hour are not lost to a disk that is full by now.
    print(json.dumps(evaluation.metrics, indent=2), flush=True)
    save_evaluation(folder, evaluation)
    say(f"written to {folder / 'metrics.json'}")
    return 0


WRITTEN = {"metrics": ("metrics.json", "evaluation.npz"), "bits_per_dim": ("bits_per_dim.json",)}


def _bits_per_dim(run: ClipRun | DiffusionRun, arguments: argparse.Namespace, folder: Path) -> int:
    from diffusion_jax.systems.diffusion.likelihood import bits_per_dim

    if not isinstance(run, DiffusionRun):
        raise UserError(f"the run in {arguments.run!r} is a CLIP run; a likelihood needs a diffusion run")
    with enough_memory("a batch of 90 scans does not fit: lower --scans, or use JAX_PLATFORMS=cpu"):
        found = bits_per_dim(
            run, arguments.split, scans=arguments.scans, divergence=arguments.divergence, seed=arguments.seed, say=say
        )
    for name, title in (("captioned", "given its caption"), ("null", "given nothing")):
        part = found[name]
        said = ", ".join(f"{k} {part[key]:.3f} ± {part[key + '_error']:.3f}" for k, key in _BITS)
        print(f"bits per dimension, {title}: {said}", flush=True)
    write_atomic(folder / "bits_per_dim.json", (json.dumps(found, indent=2) + "\n").encode())
    say(f"written to {folder / 'bits_per_dim.json'}")
    return 0


_BITS = (("ODE", "ode"), ("bound", "vlb"), ("bound for levels", "levels"))


def measure(run: ClipRun | DiffusionRun, split: str, *, samples: int = 500, seed: int = 0) -> Evaluation:
    """All numbers and pictures of a run, the CLIP run of a diffusion run included."""
    evaluation = Evaluation()
    clip = run.clip if isinstance(run, DiffusionRun) else run
    say(f"evaluating {clip.path} on the {split} scans")
    evaluate_clip(clip, split, evaluation)
    if isinstance(run, DiffusionRun):
        say(f"evaluating {run.path} on the {split} scans, {samples} samples")
        evaluate_diffusion(run, split, evaluation, samples=samples, seed=seed, say=say)
    return evaluation


def report(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Write the page of an evaluated run."""
    from experiments.digits.page import write_page

    say(f"written: {write_page(Path(arguments.run))}")
    return 0
