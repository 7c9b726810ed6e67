"""A diffusion run as a task for the loop, whatever it is made of: its loss, held-out numbers, and pictures on the way."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import build, runs
from diffusion_jax.data.examples import to_unit
from diffusion_jax.data.pictures.edm_augmentation import edm_augment
from diffusion_jax.data.pipeline import columns, words_of
from diffusion_jax.data.reading import first_readable, held_out_items
from diffusion_jax.process import denoiser, uncertainty
from diffusion_jax.process.importance import Importance
from diffusion_jax.process.times import stratified
from diffusion_jax.report.pictures import save_grid
from diffusion_jax.systems.diffusion.conditions import trained_on
from diffusion_jax.systems.diffusion.conditions.augmented import AUGMENT
from diffusion_jax.systems.diffusion.conditions.condition import SHOWN
from diffusion_jax.systems.diffusion.cost import drawing
from diffusion_jax.systems.diffusion.data import examples, rows_read, training_batches
from diffusion_jax.systems.diffusion.loss import UNCERTAINTY, diffusion_loss
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.systems.system import Task
from diffusion_jax.train.state import TrainState
from diffusion_jax.train.step import make_eval_step
from diffusion_jax.typing import Array, Batch, Context, LossFn, Params, PyTree, Source, UserError, one_of

__all__ = ["denoising_task", "training_examples"]

MADE = (1000, 1001, 1002)
"""What the key of a step is folded with for what is made, moved and encoded in it; the loss folds it with small numbers."""
HELD_OUT, ROUNDS = 512, 4
"""The most examples that the held-out loss is usually measured on, and how often each: several noise levels steady it."""


def training_examples(config: ConfigDict) -> tuple[Source, tuple[int, ...]]:
    """(the examples to train on, the shape of one's image). UserError where the first has none."""
    train = examples(config, "train")
    example = first_readable(train, **_careful(config))
    if not isinstance(example, Mapping) or np.shape(example.get("image", 0)) == ():
        raise UserError(f"data {config.data.name!r}: example 0 has no array 'image'")
    return train, np.shape(example["image"])


def _careful(config: ConfigDict) -> dict[str, Any]:
    """What is done about pictures that cannot be read."""
    if not build.gives_pictures(config.data):
        return {}
    reading = build.reading(config.data)
    return {key: reading[key] for key in ("on_error", "error_share")}


def denoising_task(
    run: DiffusionRun,
    terms: Mapping[str, Any],
    train: Source,
    held_out: Source,
    key: jax.Array,
    *,
    most: int = HELD_OUT,
    adapted: Callable[[LossFn], LossFn] = lambda loss: loss,
    beneath: Callable[[PyTree], PyTree] = lambda frozen: frozen,
    **own: Any,
) -> Task:
    """The denoising loss of an unloaded run in its space, given its condition; what is frozen is made once, or handed to it.

    `terms` are those of `build.loss`; the examples are of `run.config`'s data, of which `most` are held out to be measured on.
    Where something else trains than the network's parameters, `adapted` makes a loss of it of the network's, and `beneath` puts
    what that needs beside what is frozen. `own` are fields of the task.
    """
    config, told, image = run.config, run.condition, run.image
    careful = _careful(config)
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
    denoiser(run.network.apply, {}, run.schedule, config.prediction, config.time, sigma_data=run.sigma_data)
    run.sampler()
    uncertain = config.loss.get("uncertainty", False)
    pick = trained_on(told, train, (config.get("condition") or {}).get("name"), image)
    table = getattr(run.space, "table", None)
    x0 = None if table is None else table(train)
    if x0 is not None and set(told.entries) - set(pick(np.arange(1), np.random.default_rng(0)) or {}):
        raise UserError(
            f"space {config.space.name!r} reads x0 from its cache, and condition {config.condition.name!r} is made of the "
            "pictures in the step: set config key 'condition.cache', or leave 'space.cache' out"
        )
    held = held_out
    if len(held_out) > most or careful:
        held = held_out_items(held_out, most, **careful)
    held_batch = {"image": columns(held)["image"], "cond": told.held_out(held)}
    # The same times at every step, whatever training has come to draw; no learned uncertainty, no dropout, nothing dropped.
    importance = isinstance(terms["sample_t"], Importance)
    held_loss = loss(sample_t=stratified, train=False) if importance else loss(train=False)
    eval_step = jax.jit(make_eval_step(adapted(_in_space(run, held_loss))))
    requests = told.shown(train, held)

    parts = _parts(len(held), config.batch_size if careful else None)
    frozen = beneath({"null": run.null, "space": run.space.frozen, "condition": told.frozen})

    def evaluate(state: TrainState, done: int) -> dict[str, float]:
        metrics = _mean(
            [
                # Noise of its own for each part: an example stands in several of them.
                eval_step(state, _rows(held_batch, part), jax.random.fold_in(key, place) if place else key)
                for place, part in enumerate(parts)
            ]
        )
        asked = {"prompts": requests} if run.asks else {"count": SHOWN}
        sample = functools.partial(run.generate, **asked, seed=config.seed)
        raw, averaged = (sample(denoise=run.denoiser(params)) for params in (state.params, state.ema))
        _save_samples(run.path / "samples", done, raw, averaged, requests if run.asks else [], run.ink)
        return {"val_loss": float(metrics["loss"]), "val_loss_ema": float(metrics["ema_loss"])}

    kept: list[Any] = [part for part in (told, run.space) if hasattr(part, "notes")]
    notes = {file: note for part in kept for file, note in part.notes(run.path).items()}

    def agrees(folder: Path, anew: bool) -> None:
        for part in kept:
            part.agrees(folder, anew)

    return Task(
        run.network,
        adapted(_in_space(run, loss(drop=told.dropped, uncertainty=uncertain), build.altered(config.data))),
        training_batches(config, train, image, pick, x0),
        evaluate,
        frozen=frozen,
        counts=f"{len(train)} examples to train on, {len(held_out)} held out",
        aux=terms["sample_t"].init() if importance else None,
        beside={UNCERTAINTY: uncertainty.init()} if uncertain else {},
        project=run.network.after_step,
        notes={runs.EXAMPLE: {"image": list(image)}, **notes},
        agrees=agrees,
        words=lambda step, batch: words_of(train, rows_read(config, train, image, step)),
        drawing=drawing(run),
        **own,
    )


def _parts(count: int, size: int | None) -> list[np.ndarray]:
    """The places of `count` examples, ROUNDS times, in parts of `size` without the rest; in one where there are no more."""
    places = np.tile(np.arange(count), ROUNDS)
    size = len(places) if size is None else min(size, len(places))
    return [places[start : start + size] for start in range(0, len(places) - size + 1, size)]


def _rows(batch: Batch, places: np.ndarray) -> Batch:
    return jax.tree.map(lambda leaf: leaf[places], batch)


def _mean(metrics: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    return {name: float(np.mean([float(each[name]) for each in metrics])) for name in metrics[0]}


def _in_space(run: DiffusionRun, loss: LossFn, altered: Mapping[str, float] | None = None) -> LossFn:
    """The loss of x0 in the run's space, of batches of examples; in training they are `altered` and told how."""
    drawn = getattr(run.space, "drawn", lambda x0, key: x0)
    told, (augment, flips) = run.condition, (altered or {"augment": 0.0, "augment_flips": 1.0}).values()

    def loss_fn(params: Params, ctx: Context, batch: Batch, key: Array) -> Any:
        cond = batch.get("cond")
        key_made, key_moved, key_encoded = (jax.random.fold_in(key, place) for place in MADE)
        if "x0" in batch:
            return loss(params, ctx, {"image": drawn(batch["x0"], key_encoded), "cond": cond}, key)
        images = to_unit(batch["image"])
        if augment > 0:
            images, moved = edm_augment(images, jax.random.split(key_moved, len(images)), augment, flips=flips)
            cond = {**(cond or {}), AUGMENT: moved}
        made = told.made(ctx.frozen["condition"], images, key_made)
        x0 = jnp.asarray(run.space.encode(ctx.frozen["space"], {**batch, "image": images, "key": key_encoded}))
        return loss(params, ctx, {"image": x0, "cond": {**(cond or {}), **made} if made else cond}, key)

    return loss_fn


def _save_samples(folder: Path, step: int, raw: np.ndarray, averaged: np.ndarray, asked: list[Any], ink: bool) -> None:
    """The same requests and seeds under raw weights (first row) and averaged ones (second row); by the first process.

    What is no picture has no PNG, only its numbers.
    """
    if jax.process_index() != 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"step_{step:06d}.npz", raw=raw, ema=averaged)
    if raw.ndim == 4 and raw.shape[-1] in (1, 3):
        settings = {"step": str(step), "rows": "raw weights; averaged weights"}
        settings |= {"prompts": "; ".join(_in_words(one) for one in asked)} if asked else {}
        save_grid(folder / f"step_{step:06d}.png", np.concatenate([raw, averaged]), len(raw), 8, settings, ink=ink)


def _in_words(request: Any) -> str:
    """A request as a text: pictures have none."""
    if isinstance(request, Mapping):
        return ", ".join(f"{name} {_in_words(value)}" for name, value in request.items())
    return str(request) if isinstance(request, str | int | float | np.generic | os.PathLike) else "a picture"
