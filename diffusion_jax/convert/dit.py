"""DiT's weights in two layouts, as keyword arguments of `nets.DiT` and parameters, and back.

    config, params = load_dit("DiT-XL-2-256/transformer")                                        # a folder of diffusers
    config, params = load_dit("DiT-XL-2-256x256.pt", config=nets.dit_model("dit-xl-2-256"))      # Meta's file

"diffusers" is a folder of a DiTTransformer2DModel. Each block there has an embedding of time and class of its own, of which
published weights hold copies of one; the last layer takes the first block's. Here there is one: a file whose copies differ is
refused. "meta" is the file of the paper's authors, which holds no sizes (arXiv 2212.09748 and its public code), and the state
dict of a run of theirs. The two compute the features of the time and the norm before the MLP a little differently: frequencies
10000^(-i / 128) and eps 1e-6 there, 10000^(-i / 127) and 1e-5 in diffusers, so that a DiT of one is none of the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.convert.entries import Entry, Rule, fused, linear, patches, plain, read, write
from diffusion_jax.convert.fields import UNUSED, Table, number, only, reads, whole
from diffusion_jax.convert.fields import read as read_fields
from diffusion_jax.convert.files import find, in_reach, read_json, read_tensors, staged, write_json, write_tensors
from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["LAYOUTS", "from_diffusers", "load_dit", "save_dit", "to_diffusers"]

LAYOUTS = ("diffusers", "meta")

STEM = "diffusion_pytorch_model"
WEIGHTS = (f"{STEM}.safetensors", f"{STEM}.safetensors.index.json", f"{STEM}.fp16.safetensors", f"{STEM}.bin")
_DIT = "DiTTransformer2DModel computes it so alone"
HERE = "blocks/layers"
POSITIONS = ("pos_embed.pos_embed", "pos_embed")
"""Sines and cosines, which some files keep."""
ALONE = {
    "time_scale": 1.0, "pooled": None, "context": None, "embedding": None, "image": None, "level": False, "augment": None,
}  # fmt: skip
"""What a DiT of a class has in either layout."""
META = {"time_shift": 0.0, "eps": 1e-6}
DEFAULTS = {"time_shift": 0.0, "eps": 1e-6}
"""Of `nets.DiT`, where a config is silent."""
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
    _check(config, "DiTTransformer2DModel", {"mlp_ratio": 4.0, "time_shift": 1.0})
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


def _check(config: Mapping[str, Any], where: str, also: Mapping[str, Any]) -> None:
    """UserError for a DiT that is told more than a class, or that computes otherwise than a layout's own."""
    for name, needed in {**ALONE, **also}.items():
        if config.get(name, DEFAULTS.get(name, needed)) != needed:
            raise UserError(f"{where} has no {name} {config.get(name, DEFAULTS.get(name))!r}, only {needed!r}")
    if config.get("classes") is None:
        raise UserError(f"{where} is told a class, and this DiT has no classes")


def _once(ours: str, theirs: list[str], shape: tuple[int, ...], *, transposed: bool) -> Entry:
    """One array here of which there are copies there."""

    def one(arrays: list[np.ndarray]) -> list[np.ndarray]:
        for name, array in zip(theirs, arrays):
            if not np.array_equal(array, arrays[0]):
                raise UserError(f"{name} is no copy of {theirs[0]}: an embedding of its own for each block is not here")
        return [arrays[0].T if transposed else arrays[0]]

    rule = Rule(one, lambda arrays: [arrays[0].T if transposed else arrays[0]] * len(theirs))
    return Entry((ours,), tuple(theirs), (shape,) * len(theirs), rule)


def entries(config: Mapping[str, Any], layout: str = "diffusers") -> list[Entry]:
    """All entries of a DiT in a layout."""
    found, rules = [], _of_meta if layout == "meta" else _of_diffusers
    outside, block_of = rules(config)
    found += outside
    for i in range(config["layers"]):
        found += [dataclasses.replace(entry, layer=i) for entry in block_of(i)]
    return found


def _sizes(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """(width, features of the MLP, features that the last map gives a token)."""
    width, drawn = config["width"], config.get("out_channels") or config["channels"]
    return width, round(width * config.get("mlp_ratio", 4.0)), config["patch"] ** 2 * drawn


Rules = tuple[list[Entry], Callable[[int], list[Entry]]]


def _of_diffusers(config: Mapping[str, Any]) -> Rules:
    width, inner, out = _sizes(config)
    blocks = [f"transformer_blocks.{i}" for i in range(config["layers"])]
    found = [
        patches("patchify/proj", "pos_embed.proj.weight", config["channels"], width, config["patch"]),
        plain("patchify/proj/bias", "pos_embed.proj.bias", (width,)),
    ]
    for ours, theirs, size in (("time_in", "linear_1", 256), ("time_out", "linear_2", width)):
        names = [f"{block}.norm1.emb.timestep_embedder.{theirs}" for block in blocks]
        found.append(_once(f"{ours}/kernel", [f"{n}.weight" for n in names], (width, size), transposed=True))
        found.append(_once(f"{ours}/bias", [f"{n}.bias" for n in names], (width,), transposed=False))
    tables = [f"{block}.norm1.emb.class_embedder.embedding_table.weight" for block in blocks]
    found.append(_once("label", tables, (config["classes"], width), transposed=False))
    found += [*linear("modulation", "proj_out_1", width, 2 * width), *linear("final", "proj_out_2", width, out)]

    def block(i: int) -> list[Entry]:
        return [
            *linear(f"{HERE}/modulation", f"{blocks[i]}.norm1.linear", width, 6 * width),
            *fused(f"{HERE}/attn/in_proj", [f"{blocks[i]}.attn1.to_{part}" for part in "qkv"], width),
            *linear(f"{HERE}/attn/out_proj", f"{blocks[i]}.attn1.to_out.0", width, width),
            *linear(f"{HERE}/mlp/c_fc", f"{blocks[i]}.ff.net.0.proj", width, inner),
            *linear(f"{HERE}/mlp/c_proj", f"{blocks[i]}.ff.net.2", inner, width),
        ]

    return found, block


def _of_meta(config: Mapping[str, Any]) -> Rules:
    width, inner, out = _sizes(config)
    found = [
        patches("patchify/proj", "x_embedder.proj.weight", config["channels"], width, config["patch"]),
        plain("patchify/proj/bias", "x_embedder.proj.bias", (width,)),
        *linear("time_in", "t_embedder.mlp.0", 256, width),
        *linear("time_out", "t_embedder.mlp.2", width, width),
        plain("label", "y_embedder.embedding_table.weight", (config["classes"], width)),
        *linear("modulation", "final_layer.adaLN_modulation.1", width, 2 * width),
        *linear("final", "final_layer.linear", width, out),
    ]

    def block(i: int) -> list[Entry]:
        return [
            *linear(f"{HERE}/modulation", f"blocks.{i}.adaLN_modulation.1", width, 6 * width),
            *linear(f"{HERE}/attn/in_proj", f"blocks.{i}.attn.qkv", width, 3 * width),
            *linear(f"{HERE}/attn/out_proj", f"blocks.{i}.attn.proj", width, width),
            *linear(f"{HERE}/mlp/c_fc", f"blocks.{i}.mlp.fc1", width, inner),
            *linear(f"{HERE}/mlp/c_proj", f"blocks.{i}.mlp.fc2", inner, width),
        ]

    return found, block


def load_dit(path: str | Path, *, config: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], Params]:
    """(config, params) of the DiT in a folder or a file; params are float32 NumPy arrays.

    `config`, keywords of `nets.DiT`, is for weights in the layout "meta", beside which no config.json lies. Raises UserError:
    no or damaged weights, a field that is not here, all missing, extra and misshapen names at once.
    """
    path = Path(path)
    file = find(path, WEIGHTS)
    if config is not None:
        return dict(config), read(entries(config, "meta"), read_tensors(file), repr(str(file)), POSITIONS.__contains__)
    told = file.parent / "config.json"
    if not told.is_file():
        raise UserError(
            f"config.json is missing beside the weights {str(file)!r}: it tells the sizes of the model; Meta's file is read by "
            "its name, as in model='dit-xl-2-256'"
        )
    made = from_diffusers(read_json(told), str(told))
    return made, read(entries(made), read_tensors(file), repr(str(file)), POSITIONS.__contains__)


def save_dit(
    path: str | Path,
    config: Mapping[str, Any],
    params: Params,
    *,
    layout: str = "diffusers",
    dtype: str = "float32",
    positions: np.ndarray | None = None,
) -> Path:
    """Writes a folder for diffusers, or a file in the layout "meta", all of it or nothing; returns where.

    `positions` [tokens, width] (`nets.layers.sincos_positions`) stand in a file of the layout "meta", whose code reads them.
    UserError for a DiT that the layout cannot hold, and for weights that are not finite in the dtype.
    """
    one_of("layout", layout, LAYOUTS)
    path = Path(path)
    if layout == "meta":
        _check(config, "Meta's DiT", META)
        tensors = in_reach(write(entries(config, layout), params, "Meta's layout"), dtype)
        shape = ((config["image_size"] // config["patch"]) ** 2, config["width"])
        if positions is None or positions.shape != shape:
            given = "none" if positions is None else list(positions.shape)
            raise UserError(f"the layout 'meta' holds positions {list(shape)}, and was given {given}")
        tensors |= in_reach({"pos_embed": positions[None]}, dtype)
        with staged(path, folder=False) as file:
            write_tensors(file, tensors)
        return path
    told = to_diffusers(config)
    tensors = in_reach(write(entries(config), params, "diffusers' layout"), dtype)
    with staged(path, folder=True) as folder:
        write_tensors(folder / WEIGHTS[0], tensors)
        write_json(folder / "config.json", told)
    return path
