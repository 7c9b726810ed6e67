"""Karlo's text projection in a folder of diffusers, as keyword arguments of `nets.TextProjection` and parameters, and back.

    config, params = load_text_projection("karlo-v1-alpha/text_proj")

The folder is of an UnCLIPTextProjModel (arXiv 2204.06125, section 2.1), whose embeddings and tokens have one size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.convert.entries import Entry, linear, plain, read, write
from diffusion_jax.convert.fields import UNUSED, Table, reads, whole
from diffusion_jax.convert.fields import read as read_fields
from diffusion_jax.convert.files import find, in_reach, read_json, read_tensors, staged, write_json, write_tensors
from diffusion_jax.convert.unet import WEIGHTS
from diffusion_jax.typing import Params, UserError

__all__ = ["from_diffusers", "load_text_projection", "save_text_projection", "to_diffusers"]

NAME = "UnCLIPTextProjModel"
FIELDS: Table = {
    "_class_name": UNUSED,
    "clip_extra_context_tokens": reads(whole, 4),
    "clip_embeddings_dim": reads(whole, 768),
    "time_embed_dim": reads(whole),
    "cross_attention_dim": reads(whole),
}


def from_diffusers(told: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Keyword arguments of `nets.TextProjection`. UserError for what is not here, by field and value."""
    if told.get("_class_name") != NAME:
        raise UserError(f"{where}: _class_name {told.get('_class_name')!r} is no text projection; it is {NAME}")
    given = read_fields(FIELDS, told, where)
    for name in ("time_embed_dim", "cross_attention_dim"):
        if given[name] is None:
            raise UserError(f"{where}: {name} is missing")
    return {
        "embedding": given["clip_embeddings_dim"],
        "tokens": given["clip_embeddings_dim"],
        "width": given["time_embed_dim"],
        "context": given["cross_attention_dim"],
        "count": given["clip_extra_context_tokens"],
    }


def to_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of an UnCLIPTextProjModel. UserError for a projection whose tokens have other features than its embeddings."""
    if config["tokens"] != config["embedding"]:
        raise UserError(
            f"{NAME} has no tokens {config['tokens']!r}, only {config['embedding']!r}, those of its embeddings"
        )
    return {
        "_class_name": NAME,
        "clip_extra_context_tokens": config.get("count", 4),
        "clip_embeddings_dim": config["embedding"],
        "time_embed_dim": config["width"],
        "cross_attention_dim": config["context"],
    }


def entries(config: Mapping[str, Any]) -> list[Entry]:
    """All entries of a text projection in diffusers' layout."""
    size, width, context = config["embedding"], config["width"], config["context"]
    return [
        plain("null_embedding", "learned_classifier_free_guidance_embeddings", (size,)),
        *linear("text", "embedding_proj", size, width),
        *linear("image", "clip_image_embeddings_project_to_time_embeddings", size, width),
        *linear("image_tokens", "clip_extra_context_tokens_proj", size, config.get("count", 4) * context),
        *linear("text_tokens", "encoder_hidden_states_proj", config["tokens"], context),
        plain("norm_text/scale", "text_encoder_hidden_states_norm.weight", (context,)),
        plain("norm_text/bias", "text_encoder_hidden_states_norm.bias", (context,)),
    ]


def load_text_projection(path: str | Path) -> tuple[dict[str, Any], Params]:
    """(config, params) of the text projection in a folder; params are float32 NumPy arrays. UserError as `load_prior`."""
    file = find(Path(path), WEIGHTS)
    told = file.parent / "config.json"
    if not told.is_file():
        raise UserError(f"config.json is missing beside the weights {str(file)!r}: it tells the sizes of the model")
    made = from_diffusers(read_json(told), str(told))
    return made, read(entries(made), read_tensors(file), repr(str(file)), lambda name: False)


def save_text_projection(
    path: str | Path, config: Mapping[str, Any], params: Params, *, dtype: str = "float32"
) -> Path:
    """Writes a folder for diffusers, all of it or nothing; returns where. UserError as `save_prior`."""
    path, told = Path(path), to_diffusers(config)
    tensors = in_reach(write(entries(config), params, "diffusers' layout"), dtype)
    with staged(path, folder=True) as folder:
        write_tensors(folder / WEIGHTS[0], tensors)
        write_json(folder / "config.json", told)
    return path
