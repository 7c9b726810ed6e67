"""The system `fine_tune`, as the table of systems has it: a diffusion model that begins with a published pipeline's U-Net."""

from __future__ import annotations

import dataclasses

from diffusion_jax.pipelines.fine_tuning import keys
from diffusion_jax.pipelines.fine_tuning.convert import FORMATS, convert
from diffusion_jax.pipelines.fine_tuning.run import load_fine_tuned
from diffusion_jax.pipelines.fine_tuning.task import fine_tune_task
from diffusion_jax.systems.diffusion.system import DIFFUSION
from diffusion_jax.systems.system import System

__all__ = ["FINE_TUNE"]

FINE_TUNE: System = dataclasses.replace(
    DIFFUSION,
    task=fine_tune_task,
    load=load_fine_tuned,
    keys={},
    groups=keys.groups,
    optional=keys.OPTIONAL,
    ranges=keys.RANGES,
    changes=keys.CHANGES,
    check=keys.check,
    upgrade=lambda config, version: config,
    convert=convert,
    formats=FORMATS,
    published=None,
    publishes=lambda path, model: False,
)
