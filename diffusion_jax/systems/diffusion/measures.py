"""`diffusion-jax evaluate` and `report` of diffusion runs, and the metrics that they have by name.

`samples` puts samples beside pictures that are held out, `nearest` beside those that were trained on, `loss_by_noise` asks the
model itself (`noise_levels`). The first two compare in features (`features`), which `--features` chooses.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax import build
from diffusion_jax.files import check_folder, write_atomic
from diffusion_jax.metrics import (
    frechet_distance,
    kernel_distance,
    mean_pairwise_distance,
    nearest,
    precision_recall,
)
from diffusion_jax.parallel.memory import enough_memory
from diffusion_jax.systems.diffusion.drawn import Drawn, blurred, drawn, held_out, order, pictures, training
from diffusion_jax.systems.diffusion.features import Features, features_named
from diffusion_jax.systems.diffusion.likelihood import bits_per_dim
from diffusion_jax.systems.diffusion.noise_levels import loss_by_noise
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.systems.diffusion.scores import doubts
from diffusion_jax.systems.measuring import WRITTEN, brought, folder_of, measure, show
from diffusion_jax.systems.table import config_at, load_run
from diffusion_jax.typing import Source, UserError

__all__ = ["METRICS", "OPTIONS", "evaluate", "nearest_training", "report", "samples_beside_data"]

OPTIONS = ("bits_per_dim", "features")
"""The options of `evaluate` that are of diffusion runs, whatever else lies in the folder."""
BITS = (("ODE", "ode"), ("bound", "vlb"), ("bound for levels", "levels"))
MOST_NEAREST = 1000
"""Samples at most whose nearest training pictures are looked for."""
ROWS = 1 << 29
"""Numbers of training features that are held at most, 2 GB: of wider features fewer training pictures are looked through."""
SHOWN, NEIGHBOURS = 8, 3
LEAST = 6
"""Samples and pictures at least of the metric `samples`: balls of 5 neighbours take 6 rows, and KID subsets of half of them."""
PART = 256
"""Images at a time whose pixels are compared with those that were told."""
Say = Callable[[str], None]
Keep = Callable[[str, Any], None]


def evaluate(arguments: argparse.Namespace, say: Say) -> int:
    """The likelihood where it was asked for, or the metrics."""
    folder_of(arguments, ("bits_per_dim.json",) if arguments.bits_per_dim else WRITTEN)
    run = load_run(arguments.run, data=arguments.data)
    if not isinstance(run, DiffusionRun):
        what = "a likelihood needs" if arguments.bits_per_dim else "--features need"
        raise UserError(f"the run in {arguments.run!r} is no diffusion run; {what} one")
    if arguments.bits_per_dim:
        return _bits(run, arguments, say)
    return measure(run, METRICS, arguments, say, bring=_brings(run.config))


def _brings(config: Any) -> bool:
    """Whether the data's own `measures` and `page` are of runs told what this one is: their `told` names conditions."""
    if "data" not in config or build.gives_pictures(config.data):
        return True
    told = getattr(build.source(config.data, "train"), "told", None)
    condition = config.get("condition") or {"name": "none"}
    names = {condition["name"], *(part["name"] for part in (condition.get("parts") or {}).values())}
    return told is None or not names.isdisjoint(told)


def report(arguments: argparse.Namespace, say: Say) -> int:
    """The page that the data of a run bring, or else that of any run."""
    config = config_at(arguments.run, arguments.data)
    if _brings(config) and brought(config, "page") is not None:
        return show(config, arguments, say)
    from diffusion_jax.systems.diffusion.page import write

    folder = check_folder(Path(arguments.run) / "report", ("index.html",), "the folder")
    say(f"written: {write(load_run(arguments.run, data=arguments.data), folder, say)}")
    return 0


def _bits(run: DiffusionRun, arguments: argparse.Namespace, say: Say) -> int:
    folder = folder_of(arguments, ("bits_per_dim.json",))
    with enough_memory("a batch of 90 examples does not fit: lower --scans, or use JAX_PLATFORMS=cpu"):
        found = bits_per_dim(
            run, arguments.split, scans=arguments.scans, divergence=arguments.divergence, seed=arguments.seed, say=say
        )
    for name, title in (("captioned", "given its caption"), ("told", "given its condition"), ("null", "given nothing")):
        if name in found:
            said = ", ".join(f"{k} {found[name][key]:.3f} ± {found[name][key + '_error']:.3f}" for k, key in BITS)
            print(f"bits per dimension, {title}: {said}", flush=True)
    write_atomic(folder / "bits_per_dim.json", (json.dumps(found, indent=2) + "\n").encode())
    say(f"written to {folder / 'bits_per_dim.json'}")
    return 0


def samples_beside_data(
    run: DiffusionRun,
    *,
    split: str,
    samples: int = 500,
    seed: int = 0,
    features: str = "pixels",
    say: Say = print,
    shared: dict[Any, Any] | None = None,
) -> dict[str, Any]:
    """Samples beside the pictures of a split, both as rows of features, without guidance; `drawn` says what is compared.

    `frechet`, `kernel` (KID, with its deviation from subset to subset), `precision`, `recall`, `density` and `coverage`; each
    also for as many training pictures in place of the samples (`_real`, the floor) and for these blurred (`_blurred`).
    `diversity` is the mean distance between two samples over that between two pictures. Of a run that is told pixels, `told`
    is how well samples keep them, in dB (`metrics.psnr`), and `told_others` how well they keep what another one was told.
    `dimensions` is how many features there are. UserError for fewer samples or pictures than LEAST.
    """
    shared = {} if shared is None else shared
    name, data = held_out(run, split, say, shared)
    _check_enough(samples, name, len(data), len(training(run, shared)))
    see = _features(features, shared)
    sets = drawn(run, split, samples, seed, say, shared)
    real = see(sets.real, say, "the split")
    found: dict[str, Any] = {
        "features": see.name, "dimensions": real.shape[1], "split": sets.split, "samples": len(sets.made),
        "pictures": len(real), "guidance_scale": 1.0, "seed": seed, "weights": run.fingerprint, **_fidelity(run, sets),
    }  # fmt: skip
    for line in doubts(found):
        say(f"  {line}")
    made = see(sets.made, say, "the samples")
    for ending, rows in (
        ("", made),
        ("_real", see(sets.floor, say, "the training")),
        ("_blurred", see(blurred(sets.floor), say, "the blurred")),
    ):
        found |= {f"{name}{ending}": value for name, value in _scores(rows, real).items()}
        if len(rows) > 2000:
            say(f"  scored: {ending.strip('_') or 'samples'}")
    found["diversity"] = _ratio(mean_pairwise_distance(made), mean_pairwise_distance(real))
    return found


def _features(name: str, shared: dict[Any, Any] | None) -> Features:
    """The features of a name, made once for the metrics that share them."""
    place = ("features", name)
    if shared is None:
        return features_named(name)
    if place not in shared:
        shared[place] = features_named(name)
    return shared[place]


def _check_enough(samples: int, split: str, pictures: int, training: int) -> None:
    """UserError for fewer than LEAST of any of the three."""
    why = f"precision, coverage and KID need {LEAST} at least"
    if samples < LEAST:
        raise UserError(f"samples {samples}: {why}; nearest: {LEAST}, usual are 500 to 50,000")
    for what, count in ((f"{split} split", pictures), ("training split", training)):
        if count < LEAST:
            raise UserError(
                f"the {what} of the data holds {count} examples, and {why}: hold out more, or measure --metric nearest and "
                "--metric loss_by_noise"
            )


def _fidelity(run: DiffusionRun, sets: Drawn) -> dict[str, float]:
    """`told` and `told_others` in dB; nothing of a run that is told no pixels."""
    found = {}
    for name, images in (("told", sets.made), ("told_others", np.roll(sets.made, 1, axis=0))):
        parts = [
            run.condition.fidelity(sets.asked[start : start + PART], images[start : start + PART])
            for start in range(0, len(images), PART)
        ]
        rows = np.concatenate([part for part in parts if part is not None] or [np.zeros(0)])
        if not np.isfinite(rows).any():
            return {}
        found[name] = float(np.nanmean(rows))
    return found


def _scores(rows: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Every score of rows beside those of the real pictures."""
    kernel, shares = kernel_distance(real, rows), precision_recall(real, rows)
    found = {"frechet": frechet_distance(rows, real), "kernel": kernel.distance, "kernel_deviation": kernel.deviation}
    return found | shares._asdict()


def nearest_training(
    run: DiffusionRun,
    *,
    split: str,
    samples: int = 500,
    seed: int = 0,
    features: str = "pixels",
    say: Say = print,
    shared: dict[Any, Any] | None = None,
    keep: Keep = lambda name, array: None,
) -> dict[str, Any]:
    """How near samples are to what was trained on, beside how near pictures are that were not: is it memory?

    `distance` and `distance_real` are mean distances to the nearest training picture of samples and of held-out pictures,
    `ratio` the first over the second, which is small for copies (None where the split is all in the training).
    `nearer` is the share of samples nearer than 1% of the held-out pictures are; 0.01 is what those would have themselves.
    The samples that are nearest, with their neighbours, are kept for the page.
    """
    see, sets = _features(features, shared), drawn(run, split, samples, seed, say, shared)
    made, real = sets.made[:MOST_NEAREST], sets.real[:MOST_NEAREST]
    rows = see(made, say, "the samples")
    some = order(len(sets.train))[: max(NEIGHBOURS, ROWS // rows.shape[1])]
    say(f"  nearest of {len(some)} training pictures to {len(made)} samples, in {see.name}")
    known = _rows_of(run, sets.train, some, see, say)
    near = nearest(rows, known, min(NEIGHBOURS, len(known)), say=say)
    beside = nearest(see(real), known, say=say).distance[:, 0]
    first = np.argsort(near.distance[:, 0], kind="stable")[:SHOWN]
    keep("nearest_samples", made[first])
    keep("nearest_training", np.stack([pictures(run, sets.train, some[row]) for row in near.row[first]]))
    keep("nearest_distances", near.distance[first])
    closest = near.distance[:, 0]
    return {
        "features": see.name, "split": sets.split, "samples": len(made), "pictures": len(real), "training": len(some),
        "weights": run.fingerprint,
        "distance": float(closest.mean()), "distance_real": float(beside.mean()),
        "ratio": _ratio(closest.mean(), beside.mean()), "nearer": float((closest < np.quantile(beside, 0.01)).mean()),
    }  # fmt: skip


def _rows_of(run: DiffusionRun, data: Source, rows: np.ndarray, see: Features, say: Say) -> np.ndarray:
    """Features of many examples, some at a time, so that their images are never all in memory."""
    found, step = [], 4 * see.at_once
    for start in range(0, len(rows), step):
        found.append(see(pictures(run, data, rows[start : start + step])))
        if start // step % 16 == 15:
            say(f"  {see.name} features of the training: {start + len(found[-1])} of {len(rows)}")
    return np.concatenate(found)


def _ratio(first: Any, second: Any) -> float | None:
    """One over the other; None where the second is 0, as of a split that is all in the training examples."""
    return float(first / second) if second > 0 else None


METRICS: dict[str, Callable[..., dict[str, Any]]] = {
    "samples": samples_beside_data,
    "nearest": nearest_training,
    "loss_by_noise": loss_by_noise,
}
