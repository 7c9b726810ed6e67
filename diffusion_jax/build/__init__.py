"""From config groups to objects, through plain tables of constructors.

A group is {"name": ..., other keys}: the name picks the constructor, the other keys are its keyword arguments. A name
or a key that does not exist is a `UserError` with the nearest one, before anything is traced.
"""

from __future__ import annotations

from diffusion_jax.build.constructors import Spec, accepts, construct
from diffusion_jax.build.learning import contrastive_loss, ema, optimizer
from diffusion_jax.build.networks import NETWORKS, beside_preset, clip_network, clip_sizes, compute_dtype, dit_network
from diffusion_jax.build.noising import PREDICTIONS, SCHEDULES, TIMES, WEIGHTS, loss, schedule
from diffusion_jax.build.samplers import GRIDS, SOLVERS, grid, grid_name, solver
from diffusion_jax.build.sources import (
    PAIRS,
    READING,
    SOURCES,
    TOKENIZERS,
    one_data,
    pairs,
    preprocess,
    reading,
    source,
    source_size,
    tokenizer,
)

__all__ = [
    "GRIDS",
    "NETWORKS",
    "PAIRS",
    "PREDICTIONS",
    "READING",
    "SCHEDULES",
    "SOLVERS",
    "SOURCES",
    "TIMES",
    "TOKENIZERS",
    "WEIGHTS",
    "Spec",
    "accepts",
    "beside_preset",
    "clip_network",
    "clip_sizes",
    "compute_dtype",
    "construct",
    "contrastive_loss",
    "dit_network",
    "ema",
    "grid",
    "grid_name",
    "loss",
    "one_data",
    "optimizer",
    "pairs",
    "preprocess",
    "reading",
    "schedule",
    "solver",
    "source",
    "source_size",
    "tokenizer",
]
