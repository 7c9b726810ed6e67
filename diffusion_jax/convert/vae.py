"""Autoencoders read and written: diffusers' folders, and latent diffusion's files and whole checkpoints, without PyTorch.

    config, params = load_vae("stable-diffusion-v1-5/vae", nets.complete_vae)                 # a folder with config.json
    config, params = load_vae("v1-5-pruned.safetensors", nets.complete_vae, config=nets.vae_model("kl-f8"))

`config` is what `nets.vae` says one holds, complete. Half-precision weights are read as float32, which holds them exactly;
written, they are what was read, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.convert.entries import moved, read, write
from diffusion_jax.convert.files import find, in_reach, read_json, read_tensors, staged, write_json, write_tensors
from diffusion_jax.convert.unet import WEIGHTS
from diffusion_jax.convert.unet_keys import renamed
from diffusion_jax.convert.vae_config import from_diffusers, to_diffusers
from diffusion_jax.convert.vae_keys import LAYOUTS, vae_entries
from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["FIRST_STAGE", "LAYOUTS", "convolved", "load_vae", "save_vae"]

FIRST_STAGE = "first_stage_model."
Complete = Callable[[Mapping[str, Any]], dict[str, Any]]


def load_vae(
    path: str | Path, complete: Complete, *, config: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], Params]:
    """(config, params) of the autoencoder in a folder or file; params are float32 NumPy arrays.

    `complete` is `nets.complete_vae`. `config` is for weights beside which no config.json lies: latent diffusion's, and whole
    checkpoints, of which what stands under "first_stage_model." is read, with their own `scale_factor` where one is in them.
    The losses of training in a file are passed over. Raises UserError: no or damaged weights, a field that is not here, all
    missing, extra and misshapen names at once.
    """
    path = Path(path)
    file = find(path, WEIGHTS)
    beside = file.parent / "config.json"
    if config is None and not beside.is_file():
        raise UserError(
            f"config.json is missing beside the weights {str(file)!r}: it tells the sizes of the autoencoder; or name them, "
            "model='kl-f8', or here config=nets.vae_model('kl-f8') with changes. One of your own is read from its run, or from "
            "what `diffusion-jax convert` writes of it without --format"
        )
    made = complete(from_diffusers(read_json(beside), f"{file.parent}/config.json") if config is None else config)
    tensors = read_tensors(file)
    if any(name.startswith(FIRST_STAGE) for name in tensors):
        if np.size(tensors.get("scale_factor", ())) == 1:
            made["scale"] = float(tensors["scale_factor"])
        tensors = {
            name.removeprefix(FIRST_STAGE): value for name, value in tensors.items() if name.startswith(FIRST_STAGE)
        }
    latent = any(name.startswith(("encoder.down.", "decoder.up.")) for name in tensors)
    tensors = tensors if latent else renamed(tensors)
    rules = vae_entries(made, layout="latent" if latent else "diffusers", convolved=convolved(tensors))
    return made, read(rules, tensors, repr(str(file)), lambda name: name.startswith("loss."))


def convolved(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether attention's maps lie in a file as 1x1 convolutions."""
    return any(name.endswith((".to_q.weight", ".q.weight")) and value.ndim == 4 for name, value in tensors.items())


def save_vae(
    path: str | Path,
    config: Mapping[str, Any],
    params: Params,
    complete: Complete,
    *,
    layout: str = "diffusers",
    dtype: str = "float32",
    prefix: str = "",
) -> Path:
    """Writes a folder for diffusers, or a file in the "latent" layout, all of it or nothing; returns where.

    `prefix` stands before every name of the "latent" layout: "first_stage_model." for what joins a whole checkpoint. That
    layout holds no config, and so neither sizes nor scale. Raises UserError for an autoencoder that the layout cannot hold, for
    parameters that do not fit the config, and for weights that are not finite in the dtype.
    """
    one_of("layout", layout, LAYOUTS)
    path, made = Path(path), complete(config)
    if layout == "latent":
        rules = moved(vae_entries(made, layout=layout, convolved=True), theirs=prefix)
        with staged(path, folder=False) as file:
            write_tensors(file, in_reach(write(rules, params, "latent diffusion's layout"), dtype))
        return path
    if prefix:
        raise UserError(f"prefix {prefix!r} is for the layout 'latent': diffusers' names have none")
    told = to_diffusers(made, complete)
    tensors = in_reach(write(vae_entries(made), params, "diffusers' layout"), dtype)
    with staged(path, folder=True) as folder:
        write_tensors(folder / WEIGHTS[0], tensors)
        write_json(folder / "config.json", told)
    return path
