"""The diffusion system, as the table of systems has it."""

from __future__ import annotations

from diffusion_jax.convert.dit import LAYOUTS as OF_DITS
from diffusion_jax.convert.unet import LAYOUTS as OF_UNETS
from diffusion_jax.systems.diffusion import keys
from diffusion_jax.systems.diffusion.convert import convert
from diffusion_jax.systems.diffusion.encode import encode
from diffusion_jax.systems.diffusion.measures import METRICS, OPTIONS, evaluate, report
from diffusion_jax.systems.diffusion.pretrained import load_network, publishes
from diffusion_jax.systems.diffusion.ranges import RANGES
from diffusion_jax.systems.diffusion.run import load_run_of, upgrade
from diffusion_jax.systems.diffusion.task import diffusion_task
from diffusion_jax.systems.system import FIXED, FREE, System

__all__ = ["DIFFUSION"]


DIFFUSION = System(
    task=diffusion_task,
    load=load_run_of,
    keys=keys.KEYS,
    groups=keys.groups,
    optional=keys.OPTIONAL,
    ranges=RANGES,
    changes={
        "prediction": (FIXED, "the network says something else"),
        "time": (FIXED, "the network sees another time"),
        "sigma_data": (FIXED, "the network is scaled otherwise"),
        "schedule": (FIXED, "another noise"),
        "condition": (FIXED, "told something else"),
        "condition.encoder": (FREE, "compared by its weights, wherever it lies"),
        "preprocess": (FIXED, "other pixels of the same pictures"),
        "condition.cache": (FREE, "where the same outputs are kept"),
        "condition.sample_level": (FREE, "how samples are drawn, not what is learned"),
        "space": (FIXED, "another x0"),
        "space.encoder": (FREE, "compared by its weights, wherever it lies"),
        "space.autoencoder": (FREE, "compared by its weights, wherever it lies"),
        "model.norm": (FREE, "two ways to the same derivative"),
        "sampler": (FREE, "how samples are drawn, not what is learned"),
    },
    check=keys.check,
    upgrade=upgrade,
    options=OPTIONS,
    encode=encode,
    evaluate=evaluate,
    report=report,
    convert=convert,
    formats=tuple(dict.fromkeys((*OF_UNETS, *OF_DITS))),
    metrics=METRICS,
    published=load_network,
    publishes=publishes,
)
