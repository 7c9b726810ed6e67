"""What the commands do, once their arguments are read."""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax

from diffusion_jax.build import SOURCES
from diffusion_jax.build.keys import keys
from diffusion_jax.cli.accelerator import configure
from diffusion_jax.cli.pictures import CLIP_MEASURES, check_options, evaluate_pictures
from diffusion_jax.config import load_config, not_found, parse_overrides
from diffusion_jax.data.folders import names_in, status
from diffusion_jax.data.text_files import read_lines, shortened
from diffusion_jax.evals.pictures import save_grid, write_atomic
from diffusion_jax.evaluation import Evaluation, evaluate_clip, evaluate_diffusion, save_evaluation
from diffusion_jax.run import ClipRun, DiffusionRun, load_run
from diffusion_jax.steering import check, check_solver
from diffusion_jax.training import train_run
from diffusion_jax.typing import UserError

__all__ = ["evaluate", "report", "sample", "train"]


def say(text: str) -> None:
    """A line to the terminal."""
    print(text, file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    """What the other processes of a run say."""


def train(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Train or resume the run of a config."""
    config = load_config(arguments.config, parse_overrides(rest), keys)
    configure(say)
    tell = say if jax.process_index() == 0 else _silent
    try:
        folder = train_run(config, overwrite=arguments.overwrite, progress=not arguments.no_progress, say=tell)
    except UserError as error:
        raise UserError(f"{error}{not_found(config, keys, arguments.config, str(error))}") from error
    tell(f"run in {folder}")
    return 0


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
    if arguments.prompt is not None and out.suffix.lower() != ".png":
        raise UserError(f"--out {arguments.out!r} is not a .png file; did you mean {out.with_suffix('.png').name!r}?")
    if arguments.prompt is not None and out.exists() and not arguments.overwrite:
        raise UserError(f"{out} exists; choose another --out, or --overwrite to replace it")
    if arguments.prompt is not None and arguments.distributed is not None:
        raise UserError(
            "--distributed shares out the shards of --prompts FILE; one picture of --prompt needs no others"
        )
    prompts = [arguments.prompt] if arguments.prompts is None else _read_prompts(arguments.prompts)
    _check_writable(out)
    configure(say)
    run = _diffusion(arguments.run, arguments.weights)
    for notice in run.clip.tokenizer.explain([*prompts, *([arguments.negative] if arguments.negative else [])]):
        say(notice)
    default = run.config.sampler
    settings: dict[str, Any] = {
        "negative": arguments.negative,
        "guidance_scale": default.guidance_scale if arguments.guidance_scale is None else arguments.guidance_scale,
        "solver": arguments.solver or default.solver,
        "grid": arguments.grid or default.grid,
        "num_steps": default.num_steps if arguments.num_steps is None else arguments.num_steps,
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

        return write_shards(run, prompts, settings, arguments, say)
    began = time.perf_counter()
    images = run.generate([arguments.prompt] * arguments.num_images, batch_size=arguments.batch_size, **settings)
    note = {"prompt": arguments.prompt, "run": arguments.run, "weights": arguments.weights}
    note |= {key: str(value) for key, value in settings.items() if value not in (None, {})}
    save_grid(out, images, min(8, len(images)), arguments.scale, note)
    say(f"{len(images)} images in {time.perf_counter() - began:.1f} s: {out}")
    return 0


def _guidance(arguments: argparse.Namespace, default: Any) -> dict[str, Any] | None:
    """The guidance group of `--guidance` and `--guidance-option`, over the config's; None where neither says anything."""
    group = dict(default.get("guidance") or {}) if arguments.guidance is None else {"name": arguments.guidance}
    given: set[str] = set()
    for option in arguments.guidance_option:
        key, equals, text = option.partition("=")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = None
        numbers = value if isinstance(value, tuple) else (value,)
        if not equals or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
            raise UserError(f"--guidance-option {option!r} is not KEY=NUMBER, such as eta=0.2 or interval=0.3,5")
        if key in given:
            raise UserError(f"--guidance-option {key} is given twice")
        given.add(key)
        group[key] = list(value) if isinstance(value, tuple) else value
    return check(group) if group else None


def _check_writable(out: Path) -> None:
    """UserError before any image is drawn when `out` could not be written."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise UserError(f"--out {str(out)!r} cannot be made: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--out {str(out)!r} cannot be made: {folder} is not writable")


def _read_prompts(name: str) -> list[str]:
    path = Path(name)
    if status(path) is None:
        near = [other for other in names_in(path.parent) if other.lower().endswith(".txt")]
        raise UserError(f"prompt file {shortened(name)} does not exist" + (f"; there is {near[0]!r}" if near else ""))
    prompts = read_lines(path)
    if not prompts:
        raise UserError(f"prompt file {name!r} holds no prompt")
    return prompts


def evaluate(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Measure a run and write its metrics."""
    if arguments.samples < 2:
        raise UserError(f"--samples {arguments.samples} is not at least 2")
    configure(say)
    if any(getattr(arguments, name) for name in CLIP_MEASURES):
        return evaluate_pictures(arguments, say)
    check_options(arguments)
    run = load_run(arguments.run)
    if isinstance(run, ClipRun) and run.config.data.name not in SOURCES:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in CLIP_MEASURES)
        raise UserError(f"the CLIP in {arguments.run!r} is measured on pictures of yours: give one of {flags}")
    if arguments.bits_per_dim:
        return _bits_per_dim(run, arguments)
    evaluation = measure(run, arguments.split, samples=arguments.samples, seed=arguments.seed)
    folder = Path(arguments.out) if arguments.out else Path(arguments.run) / "report"
    save_evaluation(folder, evaluation)
    print(json.dumps(evaluation.metrics, indent=2))
    say(f"written to {folder / 'metrics.json'}")
    return 0


def _bits_per_dim(run: ClipRun | DiffusionRun, arguments: argparse.Namespace) -> int:
    from diffusion_jax.likelihoods import bits_per_dim

    if not isinstance(run, DiffusionRun):
        raise UserError(f"the run in {arguments.run!r} is a CLIP run; a likelihood needs a diffusion run")
    found = bits_per_dim(
        run, arguments.split, scans=arguments.scans, divergence=arguments.divergence, seed=arguments.seed, say=say
    )
    folder = Path(arguments.out) if arguments.out else Path(arguments.run) / "report"
    write_atomic(folder / "bits_per_dim.json", (json.dumps(found, indent=2) + "\n").encode())
    for name, title in (("captioned", "given its caption"), ("null", "given nothing")):
        part = found[name]
        said = ", ".join(f"{k} {part[key]:.3f} ± {part[key + '_error']:.3f}" for k, key in _BITS)
        print(f"bits per dimension, {title}: {said}")
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
    from diffusion_jax.cli.page import write_page

    say(f"written: {write_page(Path(arguments.run))}")
    return 0
