"""From config groups to objects, through plain tables of constructors.

A group is {"name": ..., other keys}: the name picks the constructor, the other keys are its keyword arguments. A name
or a key that does not exist is a `UserError` with the nearest one, before anything is traced.
"""

from __future__ import annotations

from diffusion_jax.build.constructors import Spec, accepts, construct
from diffusion_jax.build.learning import OPTIMIZERS, ema, mesh, optimizer
from diffusion_jax.build.networks import NETWORKS, compute_dtype, diffusion_network
from diffusion_jax.build.noising import PREDICTIONS, SCHEDULES, TIMES, WEIGHTS, loss, schedule
from diffusion_jax.build.samplers import GRIDS, SOLVERS, grid, grid_name, solver
from diffusion_jax.build.sources import (
    GENERATIVE,
    READING,
    SOURCES,
    TOKENIZERS,
    altered,
    augmentation,
    captioned,
    cropping,
    gives_pictures,
    image_sizes,
    labelled,
    pictures,
    preprocess,
    reading,
    source,
    tokenizer,
)

__all__ = [
    "GENERATIVE",
    "GRIDS",
    "NETWORKS",
    "OPTIMIZERS",
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
    "altered",
    "augmentation",
    "captioned",
    "compute_dtype",
    "construct",
    "cropping",
    "diffusion_network",
    "ema",
    "gives_pictures",
    "grid",
    "grid_name",
    "image_sizes",
    "labelled",
    "loss",
    "mesh",
    "optimizer",
    "pictures",
    "preprocess",
    "reading",
    "schedule",
    "solver",
    "source",
    "tokenizer",
]
