"""DiT's weights in diffusers' folders (DiTTransformer2DModel), as keyword arguments of `nets.DiT` and parameters, and back.

Each block there has an embedding of time and class of its own, of which published weights hold copies of one; the last layer
takes the first block's. Here there is one: a file whose copies differ is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.convert.entries import Entry, Rule, fused, linear, patches, plain, read, write
from diffusion_jax.convert.fields import UNUSED, Table, number, only, reads, whole
from diffusion_jax.convert.fields import read as read_fields
from diffusion_jax.convert.files import find, in_reach, read_json, read_tensors, staged, write_json, write_tensors
from diffusion_jax.typing import Params, UserError

__all__ = ["from_diffusers", "load_dit", "save_dit", "to_diffusers"]

STEM = "diffusion_pytorch_model"
WEIGHTS = (f"{STEM}.safetensors", f"{STEM}.safetensors.index.json", f"{STEM}.fp16.safetensors", f"{STEM}.bin")
_DIT = "DiTTransformer2DModel computes it so alone"
FIELDS: Table = {
    "_class_name": UNUSED,
    "num_attention_heads": reads(whole, 16),
    "attention_head_dim": reads(whole, 72),
    "in_channels": reads(whole, 4),
    "out_channels": reads(whole),
    "num_layers": reads(whole, 28),
    "dropout": UNUSED,
    "norm_num_groups": UNUSED,
    "attention_bias": only(True, why=_DIT),
    "sample_size": reads(whole, 32),
    "patch_size": reads(whole, 2),
    "activation_fn": only("gelu-approximate", why=_DIT),
    "num_embeds_ada_norm": reads(whole, 1000),
    "upcast_attention": UNUSED,
    "norm_type": only("ada_norm_zero", why=_DIT),
    "norm_elementwise_affine": only(False, why=_DIT),
    "norm_eps": reads(number, 1e-5),
    "cross_attention_dim": only(None, why=_DIT),
    "double_self_attention": only(False, why=_DIT),
    "num_vector_embeds": only(None, why=_DIT),
    "only_cross_attention": only(False, why=_DIT),
    "use_linear_projection": UNUSED,
}


def from_diffusers(told: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Keyword arguments of `nets.DiT`. UserError for what is not here, by field and value."""
    names = ("DiTTransformer2DModel", "Transformer2DModel")
    if told.get("_class_name") not in names:
        raise UserError(f"{where}: _class_name {told.get('_class_name')!r} is no DiT; it is {' or '.join(names)}")
    given = read_fields(FIELDS, told, where)
    return {
        "image_size": given["sample_size"],
        "channels": given["in_channels"],
        "out_channels": given["out_channels"] or given["in_channels"],
        "patch": given["patch_size"],
        "width": given["num_attention_heads"] * given["attention_head_dim"],
        "layers": given["num_layers"],
        "heads": given["num_attention_heads"],
        "mlp_ratio": 4.0,
        "classes": given["num_embeds_ada_norm"] + 1,
        "time_scale": 1.0,
        "time_shift": 1.0,
        "eps": given["norm_eps"],
    }


def to_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a DiTTransformer2DModel. UserError for a DiT that is none: told a text, or another MLP."""
    wrong = {
        "mlp_ratio": 4.0, "time_scale": 1.0, "time_shift": 1.0, "pooled": None, "context": None, "embedding": None,
        "image": None, "level": False, "augment": None,
    }  # fmt: skip
    for name, needed in wrong.items():
        if config.get(name, needed) != needed:
            raise UserError(f"DiTTransformer2DModel has no {name} {config[name]!r}, only {needed!r}")
    if config.get("classes") is None:
        raise UserError("DiTTransformer2DModel is told a class, and this DiT has no classes")
    return {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": config["heads"],
        "attention_head_dim": config["width"] // config["heads"],
        "in_channels": config["channels"],
        "out_channels": config.get("out_channels") or config["channels"],
        "num_layers": config["layers"],
        "sample_size": config["image_size"],
        "patch_size": config["patch"],
        "num_embeds_ada_norm": config["classes"] - 1,
        "norm_eps": config.get("eps", 1e-6),
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
    }


def _once(ours: str, theirs: list[str], shape: tuple[int, ...], *, transposed: bool) -> Entry:
    """One array here of which there are copies there."""

    def one(arrays: list[np.ndarray]) -> list[np.ndarray]:
        for name, array in zip(theirs, arrays):
            if not np.array_equal(array, arrays[0]):
                raise UserError(f"{name} is no copy of {theirs[0]}: an embedding of its own for each block is not here")
        return [arrays[0].T if transposed else arrays[0]]

    rule = Rule(one, lambda arrays: [arrays[0].T if transposed else arrays[0]] * len(theirs))
    return Entry((ours,), tuple(theirs), (shape,) * len(theirs), rule)


def entries(config: Mapping[str, Any]) -> list[Entry]:
    """All entries of a DiT."""
    width, layers, patch = config["width"], config["layers"], config["patch"]
    blocks = [f"transformer_blocks.{i}" for i in range(layers)]
    found = [
        patches("patchify/proj", "pos_embed.proj.weight", config["channels"], width, patch),
        plain("patchify/proj/bias", "pos_embed.proj.bias", (width,)),
    ]
    for ours, theirs, size in (("time_in", "linear_1", 256), ("time_out", "linear_2", width)):
        names = [f"{block}.norm1.emb.timestep_embedder.{theirs}" for block in blocks]
        found.append(_once(f"{ours}/kernel", [f"{n}.weight" for n in names], (width, size), transposed=True))
        found.append(_once(f"{ours}/bias", [f"{n}.bias" for n in names], (width,), transposed=False))
    tables = [f"{block}.norm1.emb.class_embedder.embedding_table.weight" for block in blocks]
    found.append(_once("label", tables, (config["classes"], width), transposed=False))
    here = "blocks/layers"
    for i, block in enumerate(blocks):
        of_block = [
            *linear(f"{here}/modulation", f"{block}.norm1.linear", width, 6 * width),
            *fused(f"{here}/attn/in_proj", [f"{block}.attn1.to_{part}" for part in "qkv"], width),
            *linear(f"{here}/attn/out_proj", f"{block}.attn1.to_out.0", width, width),
            *linear(f"{here}/mlp/c_fc", f"{block}.ff.net.0.proj", width, 4 * width),
            *linear(f"{here}/mlp/c_proj", f"{block}.ff.net.2", 4 * width, width),
        ]
        found += [dataclasses.replace(entry, layer=i) for entry in of_block]
    out = patch * patch * (config.get("out_channels") or config["channels"])
    return [
        *found,
        *linear("modulation", "proj_out_1", width, 2 * width),
        *linear("final", "proj_out_2", width, out),
    ]


def load_dit(path: str | Path) -> tuple[dict[str, Any], Params]:
    """(config, params) of the DiT in a folder; params are float32 NumPy arrays.

    Raises UserError: no or damaged weights, a field that is not here, all missing, extra and misshapen names at once.
    """
    path = Path(path)
    file = find(path, WEIGHTS)
    told = file.parent / "config.json"
    if not told.is_file():
        raise UserError(f"config.json is missing beside the weights {str(file)!r}: it tells the sizes of the model")
    config = from_diffusers(read_json(told), str(told))
    # Positions are sines and cosines, which some files keep.
    return config, read(
        entries(config), read_tensors(file), repr(str(file)), lambda name: name == "pos_embed.pos_embed"
    )


def save_dit(path: str | Path, config: Mapping[str, Any], params: Params, *, dtype: str = "float32") -> Path:
    """Writes a folder for diffusers, all of it or nothing. UserError for a DiT that it cannot hold."""
    told, path = to_diffusers(config), Path(path)
    tensors = in_reach(write(entries(config), params, "diffusers' layout"), dtype)
    with staged(path, folder=True) as folder:
        write_tensors(folder / WEIGHTS[0], tensors)
        write_json(folder / "config.json", told)
    return path
