"""`diffusion-jax evaluate` and `report` of diffusion runs, and the metrics that they have by name."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion_jax import build
from diffusion_jax.data.pipeline import columns
from diffusion_jax.files import write_atomic
from diffusion_jax.metrics import frechet_distance, mean_pairwise_distance, nearest_distance
from diffusion_jax.parallel.memory import enough_memory
from diffusion_jax.systems.diffusion.likelihood import bits_per_dim
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.systems.measuring import WRITTEN, folder_of, measure, show
from diffusion_jax.systems.table import config_at, load_run
from diffusion_jax.typing import UserError

__all__ = ["METRICS", "OPTIONS", "evaluate", "report", "samples_in_pixels"]

OPTIONS = ("bits_per_dim",)
"""The options of `evaluate` that are of diffusion runs, whatever else lies in the folder."""
BITS = (("ODE", "ode"), ("bound", "vlb"), ("bound for levels", "levels"))
Say = Callable[[str], None]


def evaluate(arguments: argparse.Namespace, say: Say) -> int:
    """The likelihood where it was asked for, or the metrics."""
    folder_of(arguments, ("bits_per_dim.json",) if arguments.bits_per_dim else WRITTEN)
    run = load_run(arguments.run)
    if not isinstance(run, DiffusionRun):
        raise UserError(f"the run in {arguments.run!r} is no diffusion run; a likelihood needs one")
    return _bits(run, arguments, say) if arguments.bits_per_dim else measure(run, METRICS, arguments, say)


def report(arguments: argparse.Namespace, say: Say) -> int:
    """The page of an evaluated run."""
    return show(config_at(arguments.run), arguments, say)


def _bits(run: DiffusionRun, arguments: argparse.Namespace, say: Say) -> int:
    folder = folder_of(arguments, ("bits_per_dim.json",))
    with enough_memory("a batch of 90 examples does not fit: lower --scans, or use JAX_PLATFORMS=cpu"):
        found = bits_per_dim(
            run, arguments.split, scans=arguments.scans, divergence=arguments.divergence, seed=arguments.seed, say=say
        )
    for name, title in (("captioned", "given its caption"), ("null", "given nothing")):
        if name in found:
            said = ", ".join(f"{k} {found[name][key]:.3f} ± {found[name][key + '_error']:.3f}" for k, key in BITS)
            print(f"bits per dimension, {title}: {said}", flush=True)
    write_atomic(folder / "bits_per_dim.json", (json.dumps(found, indent=2) + "\n").encode())
    say(f"written to {folder / 'bits_per_dim.json'}")
    return 0


def samples_in_pixels(
    run: DiffusionRun, *, split: str, samples: int = 500, seed: int = 0, say: Say = print
) -> dict[str, Any]:
    """Samples beside the examples of a split, as vectors of pixels, given the conditions that training showed.

    `frechet` to the split and `frechet_real` of as many training examples; `diversity`, the mean distance between two samples
    over that between two examples; `nearest_training`, the mean distance to the nearest training example over the split's.
    """
    train, held_out = (build.source(run.config.data, name) for name in ("train", split))
    say(f"{samples} samples of {run.path} beside the {len(held_out)} of the {split} split")
    asked = run.condition.shown(train, held_out)
    drawn = {"prompts": [asked[i % len(asked)] for i in range(samples)]} if run.asks else {"count": samples}
    rows = [run.generate(**drawn, guidance_scale=1.0, seed=seed), columns(train)["image"], columns(held_out)["image"]]
    made, known, real = (np.asarray(images).reshape(len(images), -1) for images in rows)
    some = known[np.random.default_rng(0).permutation(len(known))[: len(made)]]
    return {
        "frechet": frechet_distance(made, real),
        "frechet_real": frechet_distance(some, real),
        "diversity": _ratio(mean_pairwise_distance(made), mean_pairwise_distance(real)),
        "nearest_training": _ratio(nearest_distance(made, known).mean(), nearest_distance(real, known).mean()),
    }


def _ratio(first: Any, second: Any) -> float | None:
    """One over the other; None where the second is 0, as of a split that is all in the training examples."""
    return float(first / second) if second > 0 else None


METRICS: dict[str, Callable[..., dict[str, Any]]] = {"samples": samples_in_pixels}
