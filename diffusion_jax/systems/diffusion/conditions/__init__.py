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
from diffusion_jax.build.sources import altered
from diffusion_jax.data.pictures.edm_augmentation import LABELS
from diffusion_jax.systems.diffusion.conditions.augmented import Augmented
from diffusion_jax.systems.diffusion.conditions.condition import Condition, Nothing, Pick, Plain, asks_of
from diffusion_jax.systems.diffusion.conditions.embedding import Embedding, embedding
from diffusion_jax.systems.diffusion.conditions.image import LowResolution, Masked, image
from diffusion_jax.systems.diffusion.conditions.label import Label, label
from diffusion_jax.systems.diffusion.conditions.several import Several
from diffusion_jax.systems.diffusion.conditions.text import TEXT_ENCODER, Text, read_text_encoder, text
from diffusion_jax.typing import Source, UserError

__all__ = [
    "CONDITIONS",
    "GIVEN",
    "TEXT_ENCODER",
    "Condition",
    "Embedding",
    "Label",
    "LowResolution",
    "Masked",
    "Nothing",
    "Plain",
    "Several",
    "Text",
    "asks_of",
    "condition",
    "read_text_encoder",
    "told_of",
    "trained_on",
]


def several(
    parts: Any,
    config: ConfigDict,
    drop: float = 0.0,
    run: Path | None = None,
    data: Source | None = None,
) -> Several:
    """The condition of `parts`, {name: a group of its own as `condition` is}; `drop` is the share told nothing at all.

    UserError for a part that tells nothing or has parts itself.
    """
    for name, spec in parts.items():
        if spec["name"] in ("none", "several"):
            raise UserError(f"config key 'condition.parts.{name}.name' is {spec['name']!r}: a part tells one thing")
    return Several({name: condition(spec, run, data, config) for name, spec in parts.items()}, drop)


CONDITIONS: dict[str, Callable[..., Any]] = {
    "none": Nothing, "label": label, "text": text, "embedding": embedding, "image": image, "several": several,
}  # fmt: skip
GIVEN = ("run", "data", "config")
"""Keywords of conditions that are not the user's to set."""


def condition(
    spec: Spec | None, run: Path | None = None, data: Source | None = None, config: ConfigDict | None = None
) -> Condition:
    """The condition of a config's `condition` group, nothing where there is none.

    Of the run in `run` where one is loaded, and of the examples `data` to train on where one begins; `config` is the whole.
    """
    spec = spec or {"name": "none"}
    make = pick("condition", spec["name"], CONDITIONS)
    made = construct("condition", CONDITIONS, spec, **wanted(make, {"run": run, "data": data, "config": config}))
    complete("condition", spec["name"], made, Condition)
    if is_own(spec["name"]):
        null = {entry: np.shape(leaf) for entry, leaf in (made.null or {}).items()}
        should = {entry: (1, *shape) for entry, shape in made.entries.items()}
        if null != should:
            raise UserError(f"condition {spec['name']!r} has a null of shapes {null}; its entries make it {should}")
    return made


def told_of(config: ConfigDict, run: Path | None = None, data: Source | None = None) -> Condition:
    """The condition of a diffusion config, as `condition`, with the labels of the augmentation where there is one."""
    told = condition(config.get("condition"), run, data, config)
    return Augmented(told, LABELS) if altered(config.data)["augment"] else told  # type: ignore[return-value]


def trained_on(told: Condition, data: Source, name: Any, shape: tuple[int, ...] = ()) -> Pick:
    """`told.training(data)`. UserError where what it gives is not of the shapes that the condition's `entries` say.

    Of pictures of this `shape` what is `made` of them in the step counts too.
    """
    pick = told.training(data)
    first = pick(np.arange(1), np.random.default_rng(0)) or {}
    found = {entry: np.shape(leaf) for entry, leaf in first.items()}
    made = jax.eval_shape(told.made, told.frozen, np.zeros((1, *shape), np.float32), jax.random.key(0)) if shape else {}
    found |= {entry: tuple(leaf.shape) for entry, leaf in made.items()}
    should = {entry: (1, *of_one) for entry, of_one in told.entries.items()}
    if found != should:
        raise UserError(f"condition {name!r} gives {found} for one example in training; its entries make it {should}")
    return pick
