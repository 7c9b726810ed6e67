"""What the config.json of each part of a folder says, all of them before any weights are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.convert import clip, dit, prior, unclip_text, unet, unet_config, vae_config
from diffusion_jax.convert.clip_config_hf import from_hf
from diffusion_jax.convert.files import find, read_json
from diffusion_jax.nets import complete_unet, complete_vae
from diffusion_jax.pipelines.folder import Index
from diffusion_jax.typing import UserError

__all__ = ["read_configs"]

Reader = Callable[[Mapping[str, Any], str], dict[str, Any]]


def _unet(told: Mapping[str, Any], where: str) -> dict[str, Any]:
    return complete_unet(unet_config.from_diffusers(told, where))


def _vae(told: Mapping[str, Any], where: str) -> dict[str, Any]:
    return complete_vae(vae_config.from_diffusers(told, where))


READERS: dict[str, tuple[Reader, tuple[str, ...]]] = {
    **dict.fromkeys(("unet", "decoder", "super_res_first", "super_res_last"), (_unet, unet.WEIGHTS)),
    **dict.fromkeys(("text_encoder", "text_encoder_2", "image_encoder"), (from_hf, clip.WEIGHTS)),
    "transformer": (dit.from_diffusers, dit.WEIGHTS),
    "vae": (_vae, unet.WEIGHTS),
    "prior": (prior.from_diffusers, unet.WEIGHTS),
    "text_proj": (unclip_text.from_diffusers, unet.WEIGHTS),
}
"""How each part's config is read, and the names of its weights."""


def read_configs(index: Index) -> dict[str, dict[str, Any]]:
    """The config of each part of a folder that has weights, as its network here takes it, by the part's name.

    Raises UserError for a part without a config or without weights, and for a class or a field that is not here.
    """
    parts = [name for name in index.parts if name in READERS]
    found = {name: READERS[name][0](*_told(index.path / name)) for name in parts}
    for name in parts:
        find(index.path / name, READERS[name][1])
    return found


def _told(folder: Path) -> tuple[dict[str, Any], str]:
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"config.json is missing in {str(folder)!r}: it tells the sizes of the model")
    return read_json(file), str(file)
