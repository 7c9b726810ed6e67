"""The table of what a diffusion model may be told; see `conditions.condition` for what one is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.build.constructors import Spec, complete, construct, wanted
from diffusion_jax.build.own import is_own, pick
from diffusion_jax.systems.diffusion.conditions.condition import Condition, Nothing, Pick, Plain
from diffusion_jax.systems.diffusion.conditions.text import TEXT_ENCODER, Text, read_text_encoder, text
from diffusion_jax.typing import Source, UserError

__all__ = [
    "CONDITIONS",
    "TEXT_ENCODER",
    "Condition",
    "Nothing",
    "Plain",
    "Text",
    "condition",
    "read_text_encoder",
    "trained_on",
]

CONDITIONS: dict[str, Callable[..., Any]] = {"none": Nothing, "text": text}


def condition(spec: Spec | None, run: Path | None = None) -> Condition:
    """The condition of a config's `condition` group, nothing where there is none; of the run in `run` where it is loaded."""
    spec = spec or {"name": "none"}
    make = pick("condition", spec["name"], CONDITIONS)
    made = construct("condition", CONDITIONS, spec, **wanted(make, {"run": run}))
    complete("condition", spec["name"], made, Condition)
    if is_own(spec["name"]):
        null = {entry: np.shape(leaf) for entry, leaf in (made.null or {}).items()}
        should = {entry: (1, *shape) for entry, shape in made.entries.items()}
        if null != should:
            raise UserError(f"condition {spec['name']!r} has a null of shapes {null}; its entries make it {should}")
    return made


def trained_on(told: Condition, data: Source, name: Any) -> Pick:
    """`told.training(data)`. UserError where what it gives is not of the shapes that the condition's `entries` say."""
    pick = told.training(data)
    first = pick(np.arange(1), np.random.default_rng(0)) or {}
    found = {entry: np.shape(leaf) for entry, leaf in first.items()}
    should = {entry: (1, *shape) for entry, shape in told.entries.items()}
    if found != should:
        raise UserError(f"condition {name!r} gives {found} for one example in training; its entries make it {should}")
    return pick
