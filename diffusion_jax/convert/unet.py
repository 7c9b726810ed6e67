"""U-Nets read and written: diffusers' folders, guided-diffusion's and latent diffusion's files, without PyTorch.

    config, params = load_unet("stable-diffusion-v1-5/unet")                                  # a folder with config.json
    config, params = load_unet("64x64_diffusion.pt", config=nets.unet_model("adm-64"), order="parts")
    config, params = load_unet("v1-5-pruned.safetensors", config=nets.unet_model("sd-1.5"))

`config` holds the keyword arguments of `nets.UNet`, complete (`nets.complete_unet`). Half-precision weights are read as
float32, which holds them exactly; written, they are what was read, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.convert.entries import read, write
from diffusion_jax.convert.files import find, in_reach, read_json, read_tensors, staged, write_json, write_tensors
from diffusion_jax.convert.unet_config import from_diffusers
from diffusion_jax.convert.unet_config_out import to_diffusers
from diffusion_jax.convert.unet_guided import guided_entries
from diffusion_jax.convert.unet_keys import entries, renamed
from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["LATENT", "LAYOUTS", "ends", "load_unet", "save_unet"]

LAYOUTS = ("diffusers", "guided", "latent")
STEM = "diffusion_pytorch_model"
WEIGHTS = (
    f"{STEM}.safetensors",
    f"{STEM}.safetensors.index.json",
    f"{STEM}.fp16.safetensors",
    f"{STEM}.safetensors.index.fp16.json",
    f"{STEM}.bin",
)
LATENT = "model.diffusion_model."
Complete = Callable[[Mapping[str, Any]], dict[str, Any]]


def load_unet(
    path: str | Path, complete: Complete, *, config: Mapping[str, Any] | None = None, order: str = "heads"
) -> tuple[dict[str, Any], Params]:
    """(config, params) of the U-Net in a folder or file; params are float32 NumPy arrays.

    `config` is for weights beside which no config.json lies: guided-diffusion's, whose q, k and v are in an `order` ("heads" or
    "parts"), and latent diffusion's whole checkpoints, of which the U-Net alone is read. Raises UserError: no or damaged
    weights, a field that is not here, all missing, extra and misshapen names at once.
    """
    path = Path(path)
    file = find(path, WEIGHTS)
    tensors = read_tensors(file)
    where = repr(str(file))
    told = file.parent / "config.json"
    if config is None and not told.is_file():
        raise UserError(
            f"config.json is missing beside the weights {str(file)!r}: it tells the sizes of the model; or name them, as in "
            "config=nets.unet_model('sd-1.5')"
        )
    made = complete(from_diffusers(read_json(told), f"{file.parent}/config.json") if config is None else config)
    if any(name.startswith(LATENT) for name in tensors):
        part = {name: value for name, value in tensors.items() if name.startswith(LATENT)}
        rules = guided_entries(made, order="parts", projections=ends(part), prefix=LATENT)
        return made, read(rules, part, where, lambda name: False)
    if any(name.startswith("input_blocks.") for name in tensors):
        rules = guided_entries(made, order=order, projections=ends(tensors))
        return made, read(rules, tensors, where, lambda name: False)
    tensors = renamed(tensors)
    return made, read(entries(made, projections=ends(tensors)), _squeezed(tensors), where, lambda name: False)


def ends(tensors: Mapping[str, np.ndarray]) -> str:
    """How the ends of spatial transformers lie in a file: as 1x1 convolutions or as linear maps."""
    return "conv" if any(n.endswith("proj_in.weight") and v.ndim == 4 for n, v in tensors.items()) else "linear"


def _squeezed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Linear maps of attention that old files keep as 1x1 convolutions, as matrices."""
    ends = (".to_q.weight", ".to_k.weight", ".to_v.weight", ".to_out.0.weight")
    return {n: v[:, :, 0, 0] if n.endswith(ends) and v.ndim == 4 else v for n, v in tensors.items()}


def save_unet(
    path: str | Path,
    config: Mapping[str, Any],
    params: Params,
    complete: Complete,
    *,
    layout: str = "diffusers",
    dtype: str = "float32",
    order: str = "heads",
    linear: bool = True,
    sample_size: int | None = None,
) -> Path:
    """Writes a folder for diffusers, or a file in the "guided" or "latent" layout, all of it or nothing; returns where.

    `linear` writes the ends of spatial transformers as linear maps, else as 1x1 convolutions. Raises UserError for a network
    that the layout cannot hold, and for parameters that do not fit the config.
    """
    one_of("layout", layout, LAYOUTS)
    path, made, lying = Path(path), complete(config), "linear" if linear else "conv"
    if layout != "diffusers":
        prefix = LATENT if layout == "latent" else ""
        order = "parts" if layout == "latent" else order
        rules = guided_entries(made, order=order, projections=lying, prefix=prefix)
        with staged(path, folder=False) as file:
            write_tensors(file, in_reach(write(rules, params, "the layout"), dtype))
        return path
    told = to_diffusers(made, complete, sample_size=sample_size)
    if told["_class_name"] == "UNet2DConditionModel":
        told["use_linear_projection"] = linear
    tensors = in_reach(write(entries(made, projections=lying), params, "diffusers' layout"), dtype)
    with staged(path, folder=True) as folder:
        write_tensors(folder / WEIGHTS[0], tensors)
        write_json(folder / "config.json", told)
    return path
