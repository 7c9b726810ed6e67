"""The table of what a diffusion model may be told; see `conditions.condition` for what one is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.build.constructors import Spec, complete, construct, wanted
from diffusion_jax.build.own import is_own, pick
from diffusion_jax.data.pictures.edm_augmentation import LABELS
from diffusion_jax.systems.diffusion.conditions.augmented import Augmented
from diffusion_jax.systems.diffusion.conditions.condition import Condition, Nothing, Pick, Plain, asks_of
from diffusion_jax.systems.diffusion.conditions.label import Label, label
from diffusion_jax.systems.diffusion.conditions.text import TEXT_ENCODER, Text, read_text_encoder, text
from diffusion_jax.typing import Source, UserError

__all__ = [
    "CONDITIONS",
    "GIVEN",
    "TEXT_ENCODER",
    "Condition",
    "Label",
    "Nothing",
    "Plain",
    "Text",
    "asks_of",
    "condition",
    "read_text_encoder",
    "told_of",
    "trained_on",
]

CONDITIONS: dict[str, Callable[..., Any]] = {"none": Nothing, "label": label, "text": text}
GIVEN = ("run", "data")
"""Keywords of conditions that are not the user's to set."""


def condition(spec: Spec | None, run: Path | None = None, data: Source | None = None) -> Condition:
    """The condition of a config's `condition` group, nothing where there is none.

    Of the run in `run` where one is loaded, and of the examples `data` to train on where one begins.
    """
    spec = spec or {"name": "none"}
    make = pick("condition", spec["name"], CONDITIONS)
    made = construct("condition", CONDITIONS, spec, **wanted(make, {"run": run, "data": data}))
    complete("condition", spec["name"], made, Condition)
    if is_own(spec["name"]):
        null = {entry: np.shape(leaf) for entry, leaf in (made.null or {}).items()}
        should = {entry: (1, *shape) for entry, shape in made.entries.items()}
        if null != should:
            raise UserError(f"condition {spec['name']!r} has a null of shapes {null}; its entries make it {should}")
    return made


def told_of(config: ConfigDict, run: Path | None = None, data: Source | None = None) -> Condition:
    """The condition of a diffusion config, as `condition`, with the labels of the augmentation where there is one."""
    told = condition(config.get("condition"), run, data)
    return Augmented(told, LABELS) if config.data.get("augment") else told  # type: ignore[return-value]


def trained_on(told: Condition, data: Source, name: Any, image: tuple[int, ...] = ()) -> Pick:
    """`told.training(data)`. UserError where what it gives is not of the shapes that the condition's `entries` say.

    Of pictures of the shape `image` what is `made` of them in the step counts too.
    """
    pick = told.training(data)
    first = pick(np.arange(1), np.random.default_rng(0)) or {}
    found = {entry: np.shape(leaf) for entry, leaf in first.items()}
    made = jax.eval_shape(told.made, told.frozen, np.zeros((1, *image), np.float32), jax.random.key(0)) if image else {}
    found |= {entry: tuple(leaf.shape) for entry, leaf in made.items()}
    should = {entry: (1, *shape) for entry, shape in told.entries.items()}
    if found != should:
        raise UserError(f"condition {name!r} gives {found} for one example in training; its entries make it {should}")
    return pick
