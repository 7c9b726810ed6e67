"""Training an autoencoder: its loss for the loop, held-out numbers, and pictures beside what came back of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import build, runs
from diffusion_jax.data.examples import to_unit
from diffusion_jax.data.pipeline import columns, words_of
from diffusion_jax.data.reading import first_readable, held_out_items
from diffusion_jax.report.pictures import save_grid
from diffusion_jax.systems.diffusion.data import examples, rows_read, training_batches
from diffusion_jax.systems.system import Task
from diffusion_jax.systems.vae.loss import DISCRIMINATOR, Adversary, autoencoder_loss
from diffusion_jax.systems.vae.network import adversary, discriminator, latent_of, vae_network
from diffusion_jax.systems.vae.perceptual import perceptual_named
from diffusion_jax.systems.vae.run import VaeRun
from diffusion_jax.train.state import TrainState
from diffusion_jax.train.step import make_eval_step
from diffusion_jax.typing import Array, Batch, Context, LossFn, Params, UserError

__all__ = ["vae_task"]

HELD_OUT, SHOWN = 512, 8
"""The most examples that the held-out numbers are of, and the pictures that are shown."""


def vae_task(config: ConfigDict, folder: Path, key: jax.Array) -> Task:
    """The autoencoder's loss, with the discriminator's where the config has one, on pictures or arrays."""
    reading = build.reading(config.data) if build.gives_pictures(config.data) else None
    careful = {} if reading is None else {key: reading[key] for key in ("on_error", "error_share")}
    train = examples(config, "train")
    example = first_readable(train, **careful)
    if not isinstance(example, Mapping) or np.shape(example.get("image", 0)) == ():
        raise UserError(f"data {config.data.name!r}: example 0 has no array 'image'")
    image = np.shape(example["image"])
    held_out = examples(config, "validation", image)
    network = vae_network(config.model, image)
    run = VaeRun(folder, config, network, {}, image)
    said = config.get("loss") or {}
    perceptual = perceptual_named(said.get("perceptual", "none"))
    terms: dict[str, Any] = {
        "latent": latent_of(said),
        "distance": None if perceptual is None else perceptual.distance,
        "perceptual_weight": float(said.get("perceptual_weight", 1.0)),
    }
    beside, apart, patch = {}, {}, adversary(config.get("adversary"))
    if patch is not None:
        judge = discriminator(patch, image, config.model.get("dtype", "auto"))
        beside[DISCRIMINATOR] = judge.init(jax.random.fold_in(key, 1))
        apart[f"^{DISCRIMINATOR}/"] = patch.rate
        terms["adversary"] = Adversary(judge.apply, patch.start, patch.weight)

    held = held_out
    if len(held_out) > HELD_OUT or reading is not None:
        held = held_out_items(held_out, HELD_OUT, **careful)
    known = columns(held)["image"]
    size = min(config.batch_size, len(known))
    eval_step = jax.jit(make_eval_step(_of_pictures(autoencoder_loss(network.apply, **terms, train=False))))

    def evaluate(state: TrainState, done: int) -> dict[str, float]:
        # Parts of one size, so that one program measures all; what is left over is less than a batch.
        parts = [
            eval_step(state, {"image": known[at : at + size]}, key) for at in range(0, len(known) - size + 1, size)
        ]
        means = {name: float(np.mean([float(part[name]) for part in parts])) for name in parts[0]}
        raw, averaged = (dataclasses.replace(run, params=_own(params)) for params in (state.params, state.ema))
        _save(folder / "samples", done, known[:SHOWN], raw, averaged)
        if done == config.steps:
            statistics = averaged.statistics
            if jax.process_index() == 0:
                averaged.keep_statistics()
            means |= {"latent_mean": float(np.abs(statistics.mean).max()), "latent_std": float(np.max(statistics.std))}
        return {_called(name): value for name, value in means.items()}

    return Task(
        network,
        _of_pictures(autoencoder_loss(network.apply, **terms)),
        training_batches(config, train, image, lambda rows, rng: None),
        evaluate,
        frozen=None if perceptual is None else {"perceptual": perceptual.frozen},
        counts=f"{len(train)} examples to train on, {len(held_out)} held out",
        beside=beside,
        apart=apart,
        notes={runs.EXAMPLE: {"image": list(image)}, **({} if perceptual is None else perceptual.notes(folder))},
        agrees=(lambda folder, anew: None) if perceptual is None else perceptual.agrees,
        words=lambda step, batch: words_of(train, rows_read(config, train, image, step)),
    )


def _own(params: Params) -> Params:
    """The autoencoder's parameters, without the discriminator's."""
    return {name: value for name, value in params.items() if name != DISCRIMINATOR}


def _called(name: str) -> str:
    """val_loss and val_loss_ema, as other systems call them."""
    return f"val_{name.removeprefix('ema_')}_ema" if name.startswith("ema_") else f"val_{name}"


def _of_pictures(loss: LossFn) -> LossFn:
    """The loss of examples as they are read, uint8 or in [-1, 1]."""

    def loss_fn(params: Params, ctx: Context, batch: Batch, key: Array) -> Any:
        return loss(params, ctx, {"image": to_unit(batch["image"])}, key)

    return loss_fn


def _save(folder: Path, step: int, images: np.ndarray, raw: VaeRun, averaged: VaeRun) -> None:
    """Pictures (first row) and what comes back of them by raw weights (second) and averaged ones; by the first process."""
    if jax.process_index() != 0 or images.shape[-1] not in (1, 3):
        return
    folder.mkdir(parents=True, exist_ok=True)
    rows = [np.asarray(to_unit(images)), *(run.reconstruct(images) for run in (raw, averaged))]
    settings = {"step": str(step), "rows": "pictures; by raw weights; by averaged weights"}
    save_grid(folder / f"step_{step:06d}.png", np.concatenate(rows), len(images), 4, settings, ink=raw.ink)
