"""`diffusion-jax evaluate` of autoencoder runs: what comes back of held-out pictures, and what their latents are.

Reconstructions are made of the mean of the latents, without chance.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.data.examples import to_unit
from diffusion_jax.files import check_folder
from diffusion_jax.metrics import frechet_distance, psnr, ssim
from diffusion_jax.nets import Posterior
from diffusion_jax.systems.diffusion.drawn import blurred, order
from diffusion_jax.systems.diffusion.features import features_named
from diffusion_jax.systems.measuring import measure
from diffusion_jax.systems.table import load_run
from diffusion_jax.systems.vae.run import VaeRun
from diffusion_jax.systems.vae.statistics import fit
from diffusion_jax.typing import Source, UserError

__all__ = ["METRICS", "OPTIONS", "evaluate", "latents", "reconstruction", "report"]

OPTIONS = ("features",)
"""The options of `evaluate` that are of autoencoder runs."""
WINDOW = 11
"""The side of SSIM's window; smaller pictures take the largest odd one that fits."""
PART = 64
Say = Callable[[str], None]


def evaluate(arguments: argparse.Namespace, say: Say) -> int:
    """The metrics; the statistics of the latents are noted in the run where it has none of these weights."""
    run = load_run(arguments.run, data=arguments.data)
    if not isinstance(run, VaeRun):
        raise UserError(f"the run in {arguments.run!r} is no autoencoder's")
    run.keep_statistics()
    return measure(run, METRICS, arguments, say, bring=False)


def report(arguments: argparse.Namespace, say: Say) -> int:
    """The page of a run, with the numbers that `evaluate` left."""
    from diffusion_jax.systems.vae.page import SHOWN, write

    run = load_run(arguments.run, data=arguments.data)
    folder = check_folder(Path(arguments.run) / "report", ("index.html",), "the folder")
    pictures = None
    try:
        pictures = _pictures(_held_out(run, "test", say)[1], SHOWN, run.config.data.get("on_error") == "skip")
    except UserError as error:
        say(str(error))
    say(f"written: {write(run, folder, pictures, say)}")
    return 0


def _held_out(run: VaeRun, split: str, say: Say) -> tuple[str, Source]:
    """(the split, its examples): validation where the data have no test split, saying so."""
    try:
        return split, run.examples(split)
    except UserError:
        if split != "test":
            raise
        found = run.examples("validation")
    say("the data hold no test split: measured on validation")
    return "validation", found


def _pictures(data: Source, count: int, skip: bool) -> np.ndarray:
    """As many pictures [n, h, w, c] in [-1, 1] in an order that is no order of the data; with `skip` those that can be read."""
    found: list[np.ndarray] = []
    for row in order(len(data)):
        if len(found) == count:
            break
        try:
            found.append(np.asarray(data[int(row)]["image"]))
        except UserError:
            if not skip:
                raise
    if not found:
        raise UserError(f"none of {len(data)} pictures can be read")
    return np.asarray(to_unit(np.stack(found)))


def reconstruction(
    run: VaeRun, *, split: str, samples: int = 500, features: str = "pixels", say: Say = print
) -> dict[str, Any]:
    """What comes back of `samples` pictures of a split.

    `l1` (mean |x - x'|, of a range of 2), `psnr` in dB, `ssim` with its `window`; `frechet`, the Frechet distance in `features`
    between what comes back and the very pictures (rFID), beside `frechet_real`, of as many training pictures in its place, and
    `frechet_blurred`, of the pictures blurred. A useful autoencoder is far below the first, for its pictures are the same ones.
    """
    name, data = _held_out(run, split, say)
    skip = run.config.data.get("on_error") == "skip"
    given = _pictures(data, samples, skip)
    if len(given) < 2:
        raise UserError(
            f"the {name} split has {len(data)} pictures, of which {len(given)} is measured: a Frechet distance needs two at "
            "least (--metric latents needs one)"
        )
    say(f"{len(given)} pictures of the {name} split, there and back by {run.path}")
    made = run.reconstruct(given)
    window = min(WINDOW, *((side - 1) // 2 * 2 + 1 for side in given.shape[1:3]))
    see = features_named(features)
    real = see(given, say, "the split")
    found: dict[str, Any] = {
        "features": see.name, "dimensions": real.shape[1], "split": name, "samples": len(given), "weights": run.fingerprint,
        "l1": float(np.abs(made - given).mean()), "psnr": float(psnr(made, given).mean()),
        "ssim": float(ssim(made, given, size=window).mean()), "window": window,
    }  # fmt: skip
    if len(given) <= real.shape[1]:
        say(
            f"  {len(given):,} pictures in {real.shape[1]:,} features: their covariances lack rank, so that "
            "the Frechet distance is of use only beside that of as many others; --samples or other --features mend it"
        )
    others = _pictures(run.examples("train"), len(given), skip)
    for ending, pictures in (("", made), ("_real", others), ("_blurred", blurred(given))):
        found[f"frechet{ending}"] = frechet_distance(see(pictures, say, f"frechet{ending}"), real)
    return found


def latents(run: VaeRun, *, split: str, samples: int = 500, say: Say = print) -> dict[str, Any]:
    """The latents of pictures of a split as a diffusion model sees them: `mean` and `std` a channel, near 0 and 1; `shape`.

    Of normal posteriors `kl` in nats a latent; of a codebook `used`, the share of its rows that stand for some latent.
    """
    name, data = _held_out(run, split, say)
    skip = run.config.data.get("on_error") == "skip"
    found = fit(run.network, run.params, data, most=samples, skip=skip)
    known = run.statistics
    shape = run.autoencoder.latent_shape(*run.image[:2])
    mean, std = (np.asarray(numbers) for numbers in (known.mean, known.std))
    return {
        "split": name, "samples": found.examples, "weights": run.fingerprint, "fitted_on": known.examples,
        "shape": list(shape),
        "mean": ((np.asarray(found.mean) - mean) / std).tolist(), "std": (np.asarray(found.std) / std).tolist(),
        **_of_kind(run, _pictures(data, samples, skip)),
    }  # fmt: skip


def _of_kind(run: VaeRun, images: np.ndarray) -> dict[str, float]:
    encode = jax.jit(lambda params, x: run.network.method("encode")(params, x))
    parts = [encode(run.params, images[at : at + PART]) for at in range(0, len(images), PART)]
    if isinstance(parts[0], Posterior):
        kl = np.concatenate([np.asarray(part.kl()) for part in parts])
        return {"kl": float(kl.mean() / np.prod(parts[0].mean.shape[1:]))}
    nearest = jax.jit(lambda params, h: run.network.method("quantize")(params, h).indices)
    rows = np.concatenate([np.asarray(nearest(run.params, part)).ravel() for part in parts])
    return {"used": len(np.unique(rows)) / run.bare.config["codes"]}


METRICS: dict[str, Callable[..., dict[str, Any]]] = {"reconstruction": reconstruction, "latents": latents}
