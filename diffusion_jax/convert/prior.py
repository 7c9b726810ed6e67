"""unCLIP's prior in a folder of diffusers, as keyword arguments of `nets.PriorTransformer` and parameters, and back.

    config, params = load_prior("karlo-v1-alpha/prior")

The folder is of a PriorTransformer that draws one vector, as Karlo's does. `clip_mean` and `clip_std`, which make embeddings of
what is drawn, x std + mean, are `params["mean"]` and `params["std"]`. diffusers' network is causal, as this one is, where it is
given a mask. One that draws a sequence, as Shap-E's, is refused by the field in which it differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.convert.entries import Entry, fused, linear, plain, read, write
from diffusion_jax.convert.fields import UNUSED, Table, choice, natural, reads, whole
from diffusion_jax.convert.fields import read as read_fields
from diffusion_jax.convert.files import find, in_reach, read_json, read_tensors, staged, write_json, write_tensors
from diffusion_jax.convert.unet import WEIGHTS
from diffusion_jax.typing import Params, UserError

__all__ = ["from_diffusers", "load_prior", "save_prior", "to_diffusers"]

NAME = "PriorTransformer"
HERE = "blocks/layers"


def _or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda what, value: None if value is None else check(what, value)


_NORM = reads(choice(("layer",)))
FIELDS: Table = {
    "_class_name": UNUSED,
    "num_attention_heads": reads(whole, 32),
    "attention_head_dim": reads(whole, 64),
    "num_layers": reads(whole, 20),
    "embedding_dim": reads(whole, 768),
    "num_embeddings": reads(natural, 77),
    "additional_embeddings": reads(natural, 4),
    "dropout": UNUSED,
    "time_embed_act_fn": reads(choice(("silu", "swish", "gelu", "relu", "mish")), "silu"),
    "norm_in_type": _NORM,
    "embedding_proj_norm_type": _NORM,
    "encoder_hid_proj_type": reads(_or_none(choice(("linear",))), "linear", null=True),
    "added_emb_type": reads(_or_none(choice(("prd",))), "prd", null=True),
    "time_embed_dim": reads(whole),
    "embedding_proj_dim": reads(whole),
    "clip_embed_dim": reads(whole),
}


def from_diffusers(told: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Keyword arguments of `nets.PriorTransformer`. UserError for what is not here, by field and value."""
    if told.get("_class_name") != NAME:
        raise UserError(f"{where}: _class_name {told.get('_class_name')!r} is no prior; it is {NAME}")
    given = read_fields(FIELDS, told, where)
    query, tokens = given["added_emb_type"] is not None, given["num_embeddings"]
    if given["additional_embeddings"] != 3 + query:
        raise UserError(
            f"{where}: additional_embeddings {given['additional_embeddings']} is not possible with added_emb_type "
            f"{given['added_emb_type']!r}, only {3 + query}: a prior of one vector has a position for each"
        )
    if (given["encoder_hid_proj_type"] is None) != (tokens == 0):
        raise UserError(
            f"{where}: encoder_hid_proj_type {given['encoder_hid_proj_type']!r} is not possible with num_embeddings {tokens}: "
            "the tokens of a text are mapped, and without a text there are 0"
        )
    width, dim = given["num_attention_heads"] * given["attention_head_dim"], given["embedding_dim"]
    return {
        "dim": dim,
        "out_dim": given["clip_embed_dim"] or dim,
        "pooled": given["embedding_proj_dim"] or dim,
        "context": dim if tokens else None,
        "context_length": tokens or None,
        "width": width,
        "layers": given["num_layers"],
        "heads": given["num_attention_heads"],
        "mlp_ratio": 4.0,
        "query": query,
        "pooled_norm": given["embedding_proj_norm_type"] is not None,
        "norm_in": given["norm_in_type"] is not None,
        "time_width": given["time_embed_dim"] or width,
        "time_act": given["time_embed_act_fn"],
        "time_scale": 1.0,
    }


def to_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a PriorTransformer. UserError for a prior that is none: tokens of other features, another MLP or time."""
    dim, context = config["dim"], config.get("context")
    for name, needed in {"mlp_ratio": 4.0, "time_scale": 1.0, "context": context and dim}.items():
        if config.get(name, needed) != needed:
            raise UserError(f"{NAME} has no {name} {config[name]!r}, only {needed!r}")
    query = config.get("query", True)
    return {
        "_class_name": NAME,
        "num_attention_heads": config["heads"],
        "attention_head_dim": config["width"] // config["heads"],
        "num_layers": config["layers"],
        "embedding_dim": dim,
        "num_embeddings": config.get("context_length") or 0,
        "additional_embeddings": 3 + query,
        "time_embed_act_fn": config.get("time_act", "silu"),
        "norm_in_type": "layer" if config.get("norm_in") else None,
        "embedding_proj_norm_type": "layer" if config.get("pooled_norm") else None,
        "encoder_hid_proj_type": None if context is None else "linear",
        "added_emb_type": "prd" if query else None,
        "time_embed_dim": config.get("time_width"),
        "embedding_proj_dim": config["pooled"],
        "clip_embed_dim": config.get("out_dim"),
    }


def _norm(ours: str, theirs: str, width: int) -> list[Entry]:
    return [plain(f"{ours}/scale", f"{theirs}.weight", (width,)), plain(f"{ours}/bias", f"{theirs}.bias", (width,))]


def entries(config: Mapping[str, Any]) -> list[Entry]:
    """All entries of a prior in diffusers' layout."""
    width, dim, pooled = config["width"], config["dim"], config["pooled"]
    query, out, inner = config.get("query", True), config.get("out_dim") or dim, config.get("time_width") or width
    places = (config.get("context_length") or 0) + 3 + query
    found = [
        *linear("enter", "proj_in", dim, width),
        *linear("time_in", "time_embedding.linear_1", width, inner),
        *linear("time_out", "time_embedding.linear_2", inner, width),
        *linear("pooled_in", "embedding_proj", pooled, width),
        plain("positional_embedding", "positional_embedding", (1, places, width), reshaped=(places, width)),
        *_norm("norm_final", "norm_out", width),
        *linear("final", "proj_to_clip_embeddings", width, out),
        plain("mean", "clip_mean", (1, out), reshaped=(out,)),
        plain("std", "clip_std", (1, out), reshaped=(out,)),
    ]
    if config.get("context") is not None:
        found += linear("context_in", "encoder_hidden_states_proj", config["context"], width)
    if query:
        found.append(plain("query_embedding", "prd_embedding", (1, 1, width), reshaped=(width,)))
    if config.get("pooled_norm"):
        found += _norm("pooled_norm", "embedding_proj_norm", pooled)
    if config.get("norm_in"):
        found += _norm("norm_in", "norm_in", width)
    hidden = round(width * config.get("mlp_ratio", 4.0))
    for i in range(config["layers"]):
        block = f"transformer_blocks.{i}"
        found += [
            dataclasses.replace(entry, layer=i)
            for entry in (
                *_norm(f"{HERE}/ln_1", f"{block}.norm1", width),
                *fused(f"{HERE}/attn/in_proj", [f"{block}.attn1.to_{part}" for part in "qkv"], width),
                *linear(f"{HERE}/attn/out_proj", f"{block}.attn1.to_out.0", width, width),
                *_norm(f"{HERE}/ln_2", f"{block}.norm3", width),
                *linear(f"{HERE}/mlp/c_fc", f"{block}.ff.net.0.proj", width, hidden),
                *linear(f"{HERE}/mlp/c_proj", f"{block}.ff.net.2", hidden, width),
            )
        ]
    return found


def load_prior(path: str | Path) -> tuple[dict[str, Any], Params]:
    """(config, params) of the prior in a folder; params are float32 NumPy arrays.

    Raises UserError: no or damaged weights, no config.json beside them, a field that is not here, all missing, extra and
    misshapen names at once.
    """
    file = find(Path(path), WEIGHTS)
    told = file.parent / "config.json"
    if not told.is_file():
        raise UserError(f"config.json is missing beside the weights {str(file)!r}: it tells the sizes of the model")
    made = from_diffusers(read_json(told), str(told))
    return made, read(entries(made), read_tensors(file), repr(str(file)), lambda name: False)


def save_prior(path: str | Path, config: Mapping[str, Any], params: Params, *, dtype: str = "float32") -> Path:
    """Writes a folder for diffusers, all of it or nothing; returns where.

    UserError for a prior that diffusers has not, and for weights that do not fit the config or are not finite in the dtype.
    """
    path, told = Path(path), to_diffusers(config)
    tensors = in_reach(write(entries(config), params, "diffusers' layout"), dtype)
    with staged(path, folder=True) as folder:
        write_tensors(folder / WEIGHTS[0], tensors)
        write_json(folder / "config.json", told)
    return path
