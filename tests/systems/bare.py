"""Diffusion runs with random weights, for what measures and shows them: made in a moment."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import load_config
from diffusion_jax.systems.diffusion.conditions import told_of
from diffusion_jax.systems.diffusion.data import examples
from diffusion_jax.systems.diffusion.run import DiffusionRun, unloaded

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {"model.width": 16, "model.layers": 1, "model.heads": 2, "sampler.num_steps": 3}


def bare_run(folder: Path, told: str = "none") -> DiffusionRun:
    """A run on the digits, told nothing or a label."""
    config = load_config(str(CONFIGS / "digits_diffusion.py"))
    return _made(folder, config, told, {})


def picture_run(folder: Path, data: dict[str, Any], told: str | dict[str, Any] = "none") -> DiffusionRun:
    """A run on grey pictures of 8 x 8, told nothing or what a group `condition` says."""
    config = load_config(str(CONFIGS / "picture_classes.py"))
    kept = {
        key: config.data[key] for key in ("crop", "crop_scale", "flip", "augment", "on_error", "error_share", "workers")
    }
    config.data = ConfigDict(kept | data)
    return _made(folder, config, told, {"preprocess.size": 8, "preprocess.channels": 1, "model.patch": 4})


def _made(folder: Path, config: ConfigDict, told: str | dict[str, Any], options: dict[str, Any]) -> DiffusionRun:
    """With a log of losses, as training leaves one."""
    group = told if isinstance(told, dict) else {"name": told} | ({} if told == "none" else {"drop": 0.1})
    config.condition = ConfigDict(group)
    config.update_from_flattened_dict(SMALL | options | {"sampler.guidance_scale": 1.0 if told == "none" else 2.0})
    train = examples(config, "train")
    run = unloaded(config, folder, train[0]["image"].shape, told_of(config, data=train))
    rows = [{"step": step, "time": 0.0, "loss": 1 / step, "val_loss": 2 / step} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(run.network.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(scale=0.1, size=leaf.shape).astype(leaf.dtype), shapes)
    return dataclasses.replace(run, params=params)
