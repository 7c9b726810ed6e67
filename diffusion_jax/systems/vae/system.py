"""The autoencoder system, as the table of systems has it."""

from __future__ import annotations

from diffusion_jax.convert.vae import LAYOUTS
from diffusion_jax.systems.system import FIXED, FREE, System
from diffusion_jax.systems.vae import keys
from diffusion_jax.systems.vae.convert import convert
from diffusion_jax.systems.vae.measures import METRICS, OPTIONS, evaluate, report
from diffusion_jax.systems.vae.pretrained import publishes
from diffusion_jax.systems.vae.ranges import RANGES
from diffusion_jax.systems.vae.run import load_run_of
from diffusion_jax.systems.vae.task import vae_task

__all__ = ["VAE"]

VAE = System(
    task=vae_task,
    load=load_run_of,
    groups=keys.groups,
    optional=keys.OPTIONAL,
    ranges=RANGES,
    changes={
        "preprocess": (FIXED, "other pixels of the same pictures"),
        "adversary": (FIXED, "another loss"),
        "model.norm": (FREE, "two ways to the same derivative"),
    },
    check=keys.check,
    options=OPTIONS,
    evaluate=evaluate,
    report=report,
    convert=convert,
    formats=LAYOUTS,
    publishes=publishes,
    metrics=METRICS,
)
