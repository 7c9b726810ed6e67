"""`diffusion-jax convert` of autoencoders: from one layout into another, and runs with the scale of their latents."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.convert.files import DTYPES
from diffusion_jax.convert.vae import LAYOUTS, save_vae
from diffusion_jax.nets import complete_vae
from diffusion_jax.runs import holds_run
from diffusion_jax.systems.converting import check_out, refuse_positions
from diffusion_jax.systems.vae.pretrained import load_vae_network
from diffusion_jax.systems.vae.run import VaeRun, load_vae_run
from diffusion_jax.typing import Params, one_of

__all__ = ["convert"]


def convert(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Read the autoencoder at `path` and write it to `--out`."""
    layout = arguments.format or "diffusers"
    one_of("--format", layout, LAYOUTS)
    one_of("--dtype", arguments.dtype, DTYPES)
    refuse_positions(arguments, "an autoencoder")
    out = check_out(arguments, layout)
    notes: list[str] = []
    if holds_run(Path(arguments.path)):
        run = load_vae_run(arguments.path, which=arguments.weights)
        config, notes = _of_run(run)
        params: Params = run.params
    else:
        found = load_vae_network(arguments.path, model=arguments.model)
        config, params = found.config, found.params
    if layout != "diffusers":
        notes = [
            f"the layout {layout!r} holds no sizes and no scale of the latents: they are to be said where it is read"
        ]
    params = jax.tree.map(np.asarray, params)
    save_vae(out, config, params, complete_vae, layout=layout, dtype=arguments.dtype)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    say(f"{count / 1e6:.2f} million parameters of an autoencoder written to {out}")
    for note in notes:
        say(f"note: {note}")
    return 0


def _of_run(run: VaeRun) -> tuple[Mapping[str, Any], list[str]]:
    """(the config with the scale of the latents, what is to be said): diffusers holds a mean and deviation a channel of
    AutoencoderKL, and of VQModel one factor."""
    config, found = run.bare.config, run.statistics
    if config["kind"] == "kl":
        return {**config, **found.of_channels()}, []
    scale = float(1.0 / np.sqrt(np.mean(np.square(found.std))))
    said = f"diffusers' VQModel holds one factor of the latents, {scale:.4g} here, and no mean: one for all channels"
    return {**config, "scale": scale}, [said]
