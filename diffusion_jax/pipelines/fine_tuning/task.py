"""Fine-tuning as a task of the one loop: the denoising loss in the pipeline's latents, of the whole U-Net or of its adapters.

Times are those of the pipeline's own table: what the network was trained on are its steps, and nothing between.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.build.sources import captioned
from diffusion_jax.data.examples import raw
from diffusion_jax.pipelines.fine_tuning.run import load_base, unloaded
from diffusion_jax.pipelines.fine_tuning.trains import trains
from diffusion_jax.systems.diffusion.data import examples
from diffusion_jax.systems.diffusion.training import denoising_task, training_examples
from diffusion_jax.systems.system import Task
from diffusion_jax.train.lora import lora_frozen, lora_loss
from diffusion_jax.typing import Array, Schedule

__all__ = ["fine_tune_task", "on_table"]

MEASURED = 64
"""The most examples that the held-out loss is measured on: of published networks a few minutes' worth."""
FIRST = 2001
"""What the config's seed is folded with for the first adapters."""


def on_table(sample_t: Callable[..., Array], steps: int) -> Callable[..., Array]:
    """Times of the table of `steps`: step i, the time (i + 1) / steps, where `sample_t` falls in its share of the interval."""

    def times(key: Array, n: int, schedule: Schedule) -> Array:
        t = sample_t(key, n, schedule)
        u = (t - schedule.t_min) / (schedule.t_max - schedule.t_min)
        step = jnp.clip(jnp.floor(u * steps), 0, steps - 1)
        return (step + 1) / steps

    return times


def fine_tune_task(config: ConfigDict, folder: Path, key: jax.Array) -> Task:
    """The task of a config. Weights to begin with are the pipeline's, or fresh adapters, which change nothing."""
    train, image = training_examples(config)
    captioned(config.data, raw(train))
    held_out = examples(config, "validation", image)
    base = load_base(config)
    run = unloaded(config, folder, image, base)
    terms = build.loss(run.config.loss)
    terms["sample_t"] = on_table(terms["sample_t"], base.scheduler.schedule.num_steps)
    make = functools.partial(denoising_task, run, terms, train, held_out, key, most=MEASURED)
    first = trains(config).begin(base.params, jax.random.fold_in(jax.random.key(config.seed), FIRST))
    how: dict[str, Any] = {"adapted": lora_loss, "beneath": functools.partial(lora_frozen, base.params)}
    task = make(initial=first, **how if run.adapts else {})
    edge = base.size * base.vae.factor
    other = f"; they are {image[0]} x {image[1]} and the model draws {edge} x {edge} (preprocess.size)"
    said = "" if image[:2] == (edge, edge) else other
    return dataclasses.replace(
        task, counts=f"{task.counts}{said}; compiling comes first, minutes for published weights"
    )
