"""`diffusion-jax convert` of diffusion networks: U-Nets, DiTs and priors between layouts, and runs for diffusers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.build.constructors import parameters
from diffusion_jax.build.networks import network_keywords
from diffusion_jax.convert.dit import LAYOUTS as DIT_LAYOUTS
from diffusion_jax.convert.dit import save_dit
from diffusion_jax.convert.files import DTYPES
from diffusion_jax.convert.prior import save_prior
from diffusion_jax.convert.unet import LAYOUTS, save_unet
from diffusion_jax.nets import ConfigUNet, DiT, PriorTransformer, complete_unet, unet_keywords
from diffusion_jax.nets.layers import sincos_positions
from diffusion_jax.runs import holds_run
from diffusion_jax.systems.converting import check_out, refuse_positions
from diffusion_jax.systems.diffusion.pretrained import load_network, order_of
from diffusion_jax.systems.diffusion.run import DiffusionRun, load_diffusion
from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["convert"]

STEPS = "t1000"  # what diffusers' networks see of the time, but for the first step's number


def convert(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Read the network at `path` and write it to `--out`."""
    source, layout = Path(arguments.path), arguments.format or "diffusers"
    one_of("--format", layout, {*LAYOUTS, *DIT_LAYOUTS})
    one_of("--dtype", arguments.dtype, DTYPES)
    refuse_positions(arguments, "a diffusion network")
    out = check_out(arguments, layout)
    notes: list[str] = []
    size: int | None
    if holds_run(source):
        run = load_diffusion(source, which=arguments.weights)
        kind, config, size, notes = _of_run(run)
        params: Params = jax.tree.map(np.asarray, run.params)
        order = "heads"
    else:
        found = load_network(source, model=arguments.model)
        params, config = jax.tree.map(np.asarray, found.params), found.config
        kind, size = found.kind, found.told.get("sample_size")
        order = order_of(arguments.model)
    if kind == "DiT":
        if layout not in DIT_LAYOUTS:
            raise UserError(f"format {layout!r} holds no DiT; nearest: 'diffusers'")
        side = config["image_size"] // config.get("patch", 2)
        positions = sincos_positions(side, side, config["width"])
        save_dit(out, config, params, layout=layout, dtype=arguments.dtype, positions=positions)
    elif kind == "PriorTransformer":
        if layout != "diffusers":
            raise UserError(f"format {layout!r} holds no prior; nearest: 'diffusers'")
        save_prior(out, config, params, dtype=arguments.dtype)
    elif layout not in LAYOUTS:
        raise UserError(f"format {layout!r} holds DiTs alone; nearest: 'diffusers'")
    else:
        save_unet(
            out, config, params, complete_unet,
            layout=layout, dtype=arguments.dtype, order=order, linear=layout == "diffusers", sample_size=size,
        )  # fmt: skip
    if layout != "diffusers":
        notes = [*notes, f"the layout {layout!r} holds no sizes, groups or time: they are to be said where it is read"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    say(f"{count / 1e6:.2f} million parameters of a {kind} written to {out}")
    for note in notes:
        say(f"note: {note}")
    return 0


def _of_run(run: DiffusionRun) -> tuple[str, Mapping[str, Any], int | None, list[str]]:
    """(kind, keywords, size of the pictures, what is to be said) of a run's network. UserError for one that no format holds."""
    condition, config = run.condition, run.config
    make, keywords = network_keywords(config.model, run.shape, condition.entries, condition.counts)
    notes = [
        f"it predicts {config.prediction!r} and sees the time as {config.time!r}: say so where it is read"
        + ("" if config.time == STEPS else f" (diffusers' schedulers give steps, as {STEPS!r})"),
        f"its schedule is {dict(config.schedule)}",
    ]
    if "label" in condition.counts:
        notes.append(
            f"label {condition.counts['label'] - 1} is none: classes.json of the run has the names of the others"
        )
    if make is ConfigUNet:
        return "UNet", unet_keywords(**keywords), run.shape[0], notes
    keywords = {**parameters(make), **keywords}  # a layout holds what a config may leave out
    if make is DiT:
        return "DiT", keywords, run.shape[0], notes
    if make is PriorTransformer:
        return "PriorTransformer", keywords, None, notes
    raise UserError(f"the run in {str(run.path)!r} has a model {config.model.name!r}, which no format holds")
