"""`nets.UNet`'s keyword arguments as the config of a diffusers model: the way back of `unet_config`.

What comes out is read again and compared, field by field: a network that diffusers cannot hold is refused by the keyword in
which it differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from diffusion_jax.convert.unet_config import DOWN, HINT_CHANNELS, MIDDLE, UP, from_diffusers
from diffusion_jax.typing import UserError

__all__ = ["to_diffusers"]

Config = dict[str, Any]


def to_diffusers(
    config: Mapping[str, Any], complete: Callable[[Mapping[str, Any]], Config], *, sample_size: int | None = None
) -> Config:
    """The JSON of a UNet2DModel or UNet2DConditionModel; `complete` is `nets.complete_unet`.

    UserError, naming the keyword, for what diffusers has not.
    """
    c = complete(config)
    heard = c["hearing"]
    texts = any(kind in ("cross", "added") for kind in (*c["down"], *c["up"], c["middle"]))
    told = _shared(c, sample_size)
    told |= _condition(c) if texts or heard["tokens"] or heard["ids"] else _plain(c)
    again = complete(from_diffusers(told, "the config that would be written"))
    if c["groups"] is None and again["groups"] is not None:
        every = math.gcd(*c["channels"], c["first"] or c["channels"][0])
        fit = max(count for count in range(1, min(32, max(1, every // 4)) + 1) if every % count == 0)
        raise UserError(
            "diffusers has one number of groups for all norms, and this U-Net's follows their widths: train with "
            f"groups={fit}, which divides them"
        )
    for name, value in c.items():
        if name != "hearing" and again[name] != value:
            raise UserError(f"diffusers has no U-Net with {name} {value!r} (the nearest that it has: {again[name]!r})")
    for name, value in heard.items():
        if again["hearing"][name] != value:
            raise UserError(
                f"diffusers has no U-Net with hearing.{name} {value!r} (the nearest that it has: {again['hearing'][name]!r})"
            )
    return told


def _name(table: Mapping[str, tuple[str, str | None]], kind: str, change: str, late: bool) -> str:
    for name, (its_kind, its_change) in table.items():
        if its_kind == kind and its_change in (None, "resnet" if late else change):
            return name
    return next(name for name, (its_kind, _) in table.items() if its_kind == kind)


def _shared(c: Mapping[str, Any], sample_size: int | None) -> dict[str, Any]:
    late = [(not heeds or scale != 1.0) for heeds, scale in zip(c["activate"], c["out_scale"])]
    ups = reversed(list(zip(c["up"], c["up_resample"], late)))
    return {
        "sample_size": sample_size,
        "in_channels": c["in_channels"] + (HINT_CHANNELS if c["hearing"]["hint"] else 0),
        "out_channels": c["out_channels"],
        "center_input_sample": c["centre"],
        "flip_sin_to_cos": c["hearing"]["cosine_first"],
        "freq_shift": c["hearing"]["shift"],
        "down_block_types": [_name(DOWN, *each) for each in zip(c["down"], c["resample"], late)],
        "up_block_types": [_name(UP, *each) for each in ups],
        "block_out_channels": list(c["channels"]),
        "layers_per_block": c["layers"][0] if len(set(c["layers"])) == 1 else list(c["layers"]),
        "mid_block_scale_factor": c["middle_scale"],
        "downsample_padding": c["padding"],
        "dropout": c["dropout_rate"],
        "act_fn": c["act"],
        "norm_num_groups": c["groups"],
        "norm_eps": c["eps"],
        "resnet_time_scale_shift": "scale_shift" if c["modulation"] == "scale_shift" else "default",
        "time_embedding_type": c["hearing"]["time"],
        "time_embedding_dim": c["hearing"]["width"],
        "num_class_embeds": c["hearing"]["classes"],
    }


def _classed(c: Mapping[str, Any]) -> dict[str, Any]:
    heard = c["hearing"]
    if heard["level"]:
        return {"class_embed_type": "timestep"}
    kinds = {"identity": "identity", "mlp": "projection", "linear": "simple_projection"}
    kind = kinds.get(heard["embedding_by"]) if heard["embedding"] else None
    return {} if kind is None else {"class_embed_type": kind}


def _plain(c: Mapping[str, Any]) -> dict[str, Any]:
    dims = {
        width // heads
        for width, heads, kind in zip(c["channels"], c["heads"], c["down"])
        if kind == "attention"
    }  # fmt: skip
    ends = [width for width, heads in zip(c["channels"], c["heads"]) if heads == 1]
    one_head = all(heads == 1 for heads in (*c["heads"], *c["up_heads"], c["middle_heads"]))
    changes = [change for change, kind in zip(c["resample"][:-1], c["down"]) if kind == "attention"]
    ups = [change for change, kind in zip(c["up_resample"][1:], c["up"][1:]) if kind == "attention"]
    if c["middle"] == "attention":
        dims |= {c["channels"][-1] // c["middle_heads"]}
    fourier = c["hearing"]["time"] == "fourier"
    return {
        "_class_name": "UNet2DModel",
        "flip_sin_to_cos": True if fourier else c["hearing"]["cosine_first"],
        "attention_head_dim": None if one_head and len(set(ends)) > 1 else next(iter(dims), 8),
        "downsample_type": changes[0] if changes else "conv",
        "upsample_type": ups[0] if ups else "conv",
        "mid_block_type": None if c["middle"] is None else "UNetMidBlock2D",
        "add_attention": c["middle"] != "plain",
        "attn_norm_num_groups": _attention_groups(c),
        "num_train_timesteps": c["hearing"]["steps"],
        **_classed(c),
    }


def _attention_groups(c: Mapping[str, Any]) -> int | None:
    """None is there no norm with "scale_shift", and the other norms' groups without."""
    groups = c["middle_groups"]
    if c["modulation"] == "scale_shift":
        return groups or None
    return None if groups == c["groups"] else groups


def _condition(c: Mapping[str, Any]) -> dict[str, Any]:
    heard = c["hearing"]
    count = len(c["channels"])
    said = []
    for i in range(count):
        kind, width = c["down"][i], c["channels"][i]
        heads = c["heads"][i]
        if kind == "plain" and c["up"][i] == "cross":
            kind, heads = "cross", c["up_heads"][i]
        mirrored = count - 1 - i  # the level whose head width diffusers reads here on the way up
        if kind == "plain" and c["up"][mirrored] == "added":
            kind, width, heads = "added", c["channels"][mirrored], c["up_heads"][mirrored]
        if kind == "plain" and i == count - 1:
            kind, heads = c["middle"], c["middle_heads"]
        said.append(heads if kind in ("cross", "plain") else width // heads)
    middles = {kind: name for name, kind in MIDDLE.items()}
    late = [i for i in range(count) if c["resample"][i] == "resnet" or c["down"][i] == "added"]
    scale = c["out_scale"][late[0]] if late else 1.0
    contexts = {context for context in c["context"] if context is not None}
    onlies = set(c["only_text"])
    told: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "mid_block_type": None if c["middle"] is None else middles.get(c["middle"], "UNetMidBlock2D"),
        "cross_attention_dim": contexts.pop() if len(contexts) == 1 else list(c["context"]),
        "only_cross_attention": onlies.pop() if len(onlies) == 1 else list(c["only_text"]),
        "mid_block_only_cross_attention": c["middle_only_text"],
        "attention_head_dim": said[0] if len(set(said)) == 1 else said,
        "transformer_layers_per_block": list(c["transformer_layers"]),
        "reverse_transformer_layers_per_block": None,
        "dual_cross_attention": c["dual"],
        "resnet_skip_time_act": not all(c["activate"]) or not c["middle_activate"],
        "resnet_out_scale_factor": scale,
        "time_embedding_act_fn": heard["final"],
        "timestep_post_act": heard["post"],
        "time_cond_proj_dim": heard["guidance"],
        "conv_in_kernel": c["kernel_in"],
        "conv_out_kernel": c["kernel_out"],
        "class_embeddings_concat": heard["joins"],
        "cross_attention_norm": c["text_norm"],
    }
    if c["up_transformer_layers"] != c["transformer_layers"]:
        told["reverse_transformer_layers_per_block"] = list(reversed(c["up_transformer_layers"]))
    tokens = {"text": "text_proj", "image": "image_proj", "text_image": "text_image_proj"}.get(heard["tokens_by"])
    if tokens is not None:
        size = heard["embedding"] if tokens == "image_proj" else heard["tokens"]
        told |= {"encoder_hid_dim": size, "encoder_hid_dim_type": tokens}
    if heard["pool_heads"]:
        return (
            told | {"addition_embed_type": "text", "addition_embed_type_num_heads": heard["pool_heads"]} | _classed(c)
        )
    if heard["ids"]:
        size = (heard["pooled"] or 0) + heard["ids"] * heard["id_features"]
        return told | {
            "addition_embed_type": "text_time", "addition_time_embed_dim": heard["id_features"],
            "projection_class_embeddings_input_dim": size,
        }  # fmt: skip
    if heard["pooled"]:
        return told | {"addition_embed_type": "text_image"}
    if heard["embedding"] and heard["embedding_by"] == "linear_norm":
        return told | {"addition_embed_type": "image_hint" if heard["hint"] else "image"}
    told |= _classed(c)
    if told.get("class_embed_type") in ("projection", "simple_projection"):
        told["projection_class_embeddings_input_dim"] = heard["embedding"]
    return told
