"""Training a diffusion model: its loss for the loop, held-out numbers, and pictures on the way."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import build, runs
from diffusion_jax.data.examples import to_unit
from diffusion_jax.data.pictures.augmentation import random_shift
from diffusion_jax.data.pipeline import batches, columns, rows_of, words_of
from diffusion_jax.process import uncertainty
from diffusion_jax.process.importance import Importance
from diffusion_jax.process.times import stratified
from diffusion_jax.report.pictures import save_grid
from diffusion_jax.systems.diffusion.conditions import condition, trained_on
from diffusion_jax.systems.diffusion.conditions.condition import SHOWN
from diffusion_jax.systems.diffusion.cost import drawing
from diffusion_jax.systems.diffusion.data import examples
from diffusion_jax.systems.diffusion.loss import UNCERTAINTY, diffusion_loss
from diffusion_jax.systems.diffusion.run import DiffusionRun, unloaded
from diffusion_jax.systems.system import Task, process_slice
from diffusion_jax.train.state import TrainState
from diffusion_jax.train.step import make_eval_step
from diffusion_jax.typing import Array, Batch, Context, LossFn, Params, Source, UserError, one_of

__all__ = ["diffusion_task"]

MADE = 1000
"""What the key of a step is folded with for the entries that are made in it; the loss folds it with small numbers."""
HELD_OUT = 512
"""The most examples that the held-out loss is measured on."""


def diffusion_task(config: ConfigDict, folder: Path, key: jax.Array) -> Task:
    """The denoising loss in the config's space, given its condition; what is frozen is made once, or handed to the step."""
    train, held_out = (examples(config, split) for split in ("train", "validation"))
    example = train[0]
    if not isinstance(example, Mapping) or np.shape(example.get("image", 0)) == ():
        raise UserError(f"data {config.data.name!r}: example 0 has no array 'image'")
    image = np.shape(example["image"])
    told = condition(config.get("condition"), data=train)
    run = unloaded(config, folder, image, told)
    terms = build.loss(config.loss)
    loss = functools.partial(
        diffusion_loss,
        run.network.apply,
        run.schedule,
        prediction=one_of("prediction", config.prediction, build.PREDICTIONS),
        time=config.time,
        sigma_data=run.sigma_data,
        **terms,
    )
    # What is only used later is refused here: a prediction that the schedule cannot represent, an unknown sampler.
    run.denoiser({})
    run.sampler()
    uncertain = config.loss.get("uncertainty", False)
    pick = trained_on(told, train, (config.get("condition") or {}).get("name"), image)
    shift = build.augmentation(config.data)["shift"]

    def transform(batch: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, Any]:
        cond = pick(batch["index"], rng)
        images = random_shift(batch["image"], rng, shift)
        return {"image": images} if cond is None else {"image": images, "cond": cond}

    held = _first(held_out, HELD_OUT)
    # Four noise levels an example steady the held-out loss; nothing is dropped there.
    held_batch = {"image": columns(held)["image"], "cond": told.held_out(held)}
    held_batch = jax.tree.map(lambda leaf: np.concatenate([leaf] * 4), held_batch)
    # The same times at every step, whatever training has come to draw; and no learned uncertainty.
    importance = isinstance(terms["sample_t"], Importance)
    held_loss = loss(sample_t=stratified) if importance else loss()
    eval_step = jax.jit(make_eval_step(_in_space(run, held_loss)))
    requests = told.shown(train, held)

    frozen = {"null": run.null, "space": run.space.frozen, "condition": told.frozen}

    def evaluate(state: TrainState, done: int) -> dict[str, float]:
        metrics = eval_step(state, held_batch, key)
        asked = {"prompts": requests} if run.asks else {"count": SHOWN}
        sample = functools.partial(run.generate, **asked, seed=config.seed)
        raw, averaged = (sample(denoise=run.denoiser(params)) for params in (state.params, state.ema))
        _save_samples(folder / "samples", done, raw, averaged, requests if run.asks else [])
        return {"val_loss": float(metrics["loss"]), "val_loss_ema": float(metrics["ema_loss"])}

    return Task(
        run.network,
        _in_space(run, loss(drop=told.dropped, uncertainty=uncertain)),
        batches(train, config.batch_size, config.seed, transform, **process_slice()),
        evaluate,
        frozen=frozen,
        counts=f"{len(train)} examples to train on, {len(held_out)} held out",
        aux=terms["sample_t"].init() if importance else None,
        beside={UNCERTAINTY: uncertainty.init()} if uncertain else {},
        notes={runs.EXAMPLE: {"image": list(image)}, **told.notes(folder)},
        agrees=told.agrees,
        words=lambda step, batch: words_of(train, rows_of(train, config.batch_size, config.seed, step)),
        drawing=drawing(run),
    )


def _first(data: Source, most: int) -> Any:
    """The source, or its first examples."""
    return data if len(data) <= most else [data[i] for i in range(most)]


def _in_space(run: DiffusionRun, loss: LossFn) -> LossFn:
    """The loss of x0 in the run's space, of batches of examples."""

    def loss_fn(params: Params, ctx: Context, batch: Batch, key: Array) -> Any:
        images = to_unit(batch["image"])
        made = run.condition.made(ctx.frozen["condition"], images, jax.random.fold_in(key, MADE))
        x0 = jnp.asarray(run.space.encode(ctx.frozen["space"], {**batch, "image": images}))
        given = batch.get("cond")
        cond = {**(given or {}), **made} if made else given
        return loss(params, ctx, {"image": x0, "cond": cond}, key)

    return loss_fn


def _save_samples(folder: Path, step: int, raw: np.ndarray, averaged: np.ndarray, asked: list[Any]) -> None:
    """The same requests and seeds under raw weights (first row) and averaged ones (second row); by the first process.

    What is no picture has no PNG, only its numbers.
    """
    if jax.process_index() != 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"step_{step:06d}.npz", raw=raw, ema=averaged)
    if raw.ndim == 4 and raw.shape[-1] in (1, 3):
        settings = {"step": str(step), "rows": "raw weights; averaged weights"}
        settings |= {"prompts": "; ".join(str(one) for one in asked)} if asked else {}
        save_grid(folder / f"step_{step:06d}.png", np.concatenate([raw, averaged]), len(raw), 8, settings)
