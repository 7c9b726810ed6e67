"""The CLIP system, as the table of systems has it."""

from __future__ import annotations

from ml_collections import ConfigDict

from diffusion_jax.convert import FORMATS
from diffusion_jax.systems.clip import keys
from diffusion_jax.systems.clip.convert import convert
from diffusion_jax.systems.clip.evaluate import METRICS, OPTIONS, evaluate, report
from diffusion_jax.systems.clip.pretrained import load_pretrained
from diffusion_jax.systems.clip.ranges import RANGES
from diffusion_jax.systems.clip.run import load_run_of
from diffusion_jax.systems.clip.task import clip_task
from diffusion_jax.systems.system import FIXED, FREE, MOVED, System

__all__ = ["CLIP"]


def _lighter(config: ConfigDict) -> str:
    """What makes a training step smaller."""
    size = f"lower --config.batch_size={config.get('batch_size')} or the size of the model"
    return f"{size}, or raise --config.loss.micro_batches"


CLIP = System(
    task=clip_task,
    load=load_run_of,
    groups=keys.groups,
    optional=keys.OPTIONAL,
    ranges=RANGES,
    changes={
        "tokenizer": (FIXED, "other numbers for the same words"),
        "tokenizer.path": (MOVED, "the same vocabulary elsewhere"),
        "preprocess": (FIXED, "other pixels"),
        "zero_shot": (FREE, "what is measured, not what is learned"),
        "weights": (FREE, "read at step 0 alone"),
        "model.norm": (FREE, "two ways to the same derivative"),
        "loss.chunk": (FREE, "how much of the same loss stands in memory at once"),
        "loss.micro_batches": (FREE, "the same gradient, added up from parts"),
    },
    check=keys.check,
    options=OPTIONS,
    evaluate=evaluate,
    report=report,
    convert=convert,
    formats=FORMATS,
    metrics=METRICS,
    published=load_pretrained,
    publishes=lambda path, model: True,  # what no other system claims, and the refusal of what nobody does
    lighter=_lighter,
)
