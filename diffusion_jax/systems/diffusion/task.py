"""Training a diffusion model: the task of its config."""

from __future__ import annotations

from pathlib import Path

import jax
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.systems.diffusion.conditions import told_of
from diffusion_jax.systems.diffusion.data import examples
from diffusion_jax.systems.diffusion.run import unloaded
from diffusion_jax.systems.diffusion.training import denoising_task, training_examples
from diffusion_jax.systems.system import Task

__all__ = ["diffusion_task"]


def diffusion_task(config: ConfigDict, folder: Path, key: jax.Array) -> Task:
    """The denoising loss in the config's space, given its condition."""
    train, image = training_examples(config)
    held_out = examples(config, "validation", image)
    told = told_of(config, data=train)
    run = unloaded(config, folder, image, told)
    return denoising_task(run, build.loss(config.loss), train, held_out, key)
