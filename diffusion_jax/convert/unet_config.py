"""The configs of diffusers' UNet2DModel and UNet2DConditionModel as keyword arguments of `nets.UNet`.

Every field is read, possible at some values alone, or known to change nothing (`fields`). Two are not what they are called:
`attention_head_dim` is the number of heads in the CrossAttn blocks, and the width of a head elsewhere; a UNet2DModel that says
none has one head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_jax.convert.fields import UNUSED, Table, choice, flag, natural, number, only, read, reads, whole
from diffusion_jax.typing import UserError

__all__ = ["from_diffusers"]

HINT_CHANNELS = 4  # of the hint, which diffusers counts among the picture's
ACTS = ("silu", "swish", "gelu", "relu", "mish")
_LATER = "such blocks are not here yet"

DOWN = {
    "DownBlock2D": ("plain", "conv"),
    "AttnDownBlock2D": ("attention", None),
    "CrossAttnDownBlock2D": ("cross", "conv"),
    "ResnetDownsampleBlock2D": ("plain", "resnet"),
    "SimpleCrossAttnDownBlock2D": ("added", "resnet"),
}
UP = {
    "UpBlock2D": ("plain", "conv"),
    "AttnUpBlock2D": ("attention", None),
    "CrossAttnUpBlock2D": ("cross", "conv"),
    "ResnetUpsampleBlock2D": ("plain", "resnet"),
    "SimpleCrossAttnUpBlock2D": ("added", "resnet"),
}
MIDDLE = {
    "UNetMidBlock2DCrossAttn": "cross",
    "UNetMidBlock2DSimpleCrossAttn": "added",
    "UNetMidBlock2D": "single",
}
LATE_ACT = (
    "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D",
)  # fmt: skip
"""The blocks that heed `resnet_skip_time_act` and `resnet_out_scale_factor`."""


def several(check: Any, *, nested: bool = False) -> Any:
    """One value, or a list of at least one, where `nested` of lists too."""

    def checked(what: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            if not value:
                raise UserError(f"{what} {value!r} is an empty list: give one value, or one a level")
            each = checked if nested else check
            return tuple(each(f"{what}[{i}]", one) for i, one in enumerate(value))
        return check(what, value)

    return checked


def many(check: Any) -> Any:
    """A list of values, of at least one."""

    def checked(what: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not value:
            raise UserError(f"{what} {value!r} is no list of values")
        return tuple(check(f"{what}[{i}]", each) for i, each in enumerate(value))

    return checked


def optional(check: Any) -> Any:
    """null, or what `check` takes."""
    return lambda what, value: None if value is None else check(what, value)


def finite(what: str, value: Any) -> float:
    """A number of at least 0, 0 included."""
    return 0.0 if value == 0 and not isinstance(value, bool) else number(what, value)


COMMON: Table = {
    "_class_name": UNUSED,
    "_diffusers_version": UNUSED,
    "sample_size": UNUSED,
    "in_channels": reads(whole, 4),
    "out_channels": reads(whole, 4),
    "center_input_sample": reads(flag, False),
    "flip_sin_to_cos": reads(flag, True),
    "freq_shift": reads(finite, 0.0),
    "down_block_types": reads(many(choice(DOWN))),
    "up_block_types": reads(many(choice(UP))),
    "block_out_channels": reads(many(whole)),
    "layers_per_block": reads(several(whole), 2),
    "mid_block_scale_factor": reads(number, 1.0),
    "downsample_padding": reads(natural, 1),
    "dropout": reads(finite, 0.0),
    "act_fn": reads(choice(ACTS), "silu"),
    "norm_num_groups": reads(whole, 32),
    "norm_eps": reads(number, 1e-5),
    "resnet_time_scale_shift": reads(choice(("default", "scale_shift")), "default"),
    "time_embedding_dim": reads(whole),
    "num_class_embeds": reads(whole),
}
PLAIN: Table = {
    **COMMON,
    "in_channels": reads(whole, 3),
    "out_channels": reads(whole, 3),
    "time_embedding_type": reads(choice(("positional", "fourier", "learned")), "positional"),
    "layers_per_block": reads(whole, 2),
    "mid_block_type": reads(optional(choice(("UNetMidBlock2D",))), "UNetMidBlock2D", null=True),
    "downsample_type": reads(choice(("conv", "resnet")), "conv"),
    "upsample_type": reads(choice(("conv", "resnet")), "conv"),
    "attention_head_dim": reads(optional(whole), 8, null=True),
    "attn_norm_num_groups": reads(whole),
    "add_attention": reads(flag, True),
    "class_embed_type": reads(choice(("timestep", "identity"))),
    "num_train_timesteps": reads(whole),
}
CONDITION: Table = {
    **COMMON,
    "mid_block_type": reads(optional(choice(MIDDLE)), "UNetMidBlock2DCrossAttn", null=True),
    "only_cross_attention": reads(several(flag), False),
    "mid_block_only_cross_attention": reads(flag),
    "cross_attention_dim": reads(several(whole), 1280),
    "transformer_layers_per_block": reads(several(whole, nested=True), 1),
    "reverse_transformer_layers_per_block": reads(several(whole, nested=True)),
    "encoder_hid_dim": reads(whole),
    "encoder_hid_dim_type": reads(choice(("text_proj", "image_proj", "text_image_proj"))),
    "attention_head_dim": reads(several(whole), 8),
    "num_attention_heads": only(None, why="diffusers refuses it; attention_head_dim says the heads"),
    "dual_cross_attention": reads(flag, False),
    "use_linear_projection": reads(flag, False),
    "class_embed_type": reads(choice(("timestep", "identity", "projection", "simple_projection"))),
    "addition_embed_type": reads(choice(("text", "text_image", "text_time", "image", "image_hint"))),
    "addition_time_embed_dim": reads(whole),
    "addition_embed_type_num_heads": reads(whole, 64),
    "upcast_attention": UNUSED,
    "resnet_skip_time_act": reads(flag, False),
    "resnet_out_scale_factor": reads(number, 1.0),
    "time_embedding_type": reads(choice(("positional", "fourier")), "positional"),
    "time_embedding_act_fn": reads(choice(ACTS)),
    "timestep_post_act": reads(choice(ACTS)),
    "time_cond_proj_dim": reads(whole),
    "conv_in_kernel": reads(whole, 3),
    "conv_out_kernel": reads(whole, 3),
    "projection_class_embeddings_input_dim": reads(whole),
    "attention_type": only("default", why="GLIGEN's gated attention is not here"),
    "class_embeddings_concat": reads(flag, False),
    "cross_attention_norm": reads(choice(("layer_norm", "group_norm"))),
}
LEVELS = (
    "down_block_types", "up_block_types", "attention_head_dim", "cross_attention_dim", "layers_per_block",
    "only_cross_attention", "transformer_layers_per_block", "reverse_transformer_layers_per_block",
)  # fmt: skip
"""The fields that are lists of a value a level, some where they are lists at all."""
CLASSES: dict[str, Table] = {"UNet2DModel": PLAIN, "UNet2DConditionModel": CONDITION}


def from_diffusers(told: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Keyword arguments of `nets.UNet`, every size in them. UserError for what is not here, by field and value."""
    name = told.get("_class_name")
    if name not in CLASSES:
        raise UserError(f"{where}: _class_name {name!r} is no U-Net that is read here; it is {' or '.join(CLASSES)}")
    given = read(CLASSES[name], told, where)
    for field in ("block_out_channels", "down_block_types", "up_block_types"):
        if given[field] is None:
            raise UserError(f"{where}: {field} is missing")
    count = len(given["block_out_channels"])
    for field in LEVELS:
        value = given.get(field)
        if isinstance(value, tuple) and len(value) != count:
            raise UserError(f"{where}: {field} are {len(value)} for {count} block_out_channels")
    return _plain(given, where) if name == "UNet2DModel" else _condition(given, where)


def _each(value: Any, count: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * count


def _heads(kind: str, width: int, said: int, where: str) -> int:
    """How many: what is said for a spatial transformer, and for others the width over that of a head."""
    if kind == "cross":
        return said
    if kind in ("attention", "added") and width % said and said < width:
        raise UserError(f"{where}: attention_head_dim {said} does not divide the {width} channels of a level")
    return max(width // said, 1)


def _shared(given: Mapping[str, Any]) -> dict[str, Any]:
    count = len(given["block_out_channels"])
    return {
        "in_channels": given["in_channels"],
        "out_channels": given["out_channels"],
        "channels": given["block_out_channels"],
        "layers": _each(given["layers_per_block"], count),
        "down": tuple(DOWN[kind][0] for kind in given["down_block_types"]),
        "up": tuple(UP[kind][0] for kind in reversed(given["up_block_types"])),
        "padding": given["downsample_padding"],
        "modulation": "scale_shift" if given["resnet_time_scale_shift"] == "scale_shift" else "shift",
        "groups": given["norm_num_groups"],
        "eps": given["norm_eps"],
        "act": "silu" if given["act_fn"] == "swish" else given["act_fn"],
        "middle_scale": given["mid_block_scale_factor"],
        "centre": given["center_input_sample"],
        "dropout_rate": given["dropout"],
    }


def _plain(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Of a UNet2DModel."""
    base = given["block_out_channels"][0]
    made = _shared(given)
    for field, types, kinds in (("cross", made["down"], DOWN), ("cross", made["up"], UP)):
        if field in types or "added" in types:
            raise UserError(
                f"{where}: a UNet2DModel has no text for its blocks of attention to one ({', '.join(kinds)})"
            )
    dim, last = given["attention_head_dim"], len(made["channels"]) - 1
    middle = given["mid_block_type"] is not None and given["add_attention"]
    attends = [
        "attention" in sides or (middle and i == last)
        for i, sides in enumerate(zip(made["down"], made["up"], strict=True))
    ]
    made["heads"] = tuple(
        1 if dim is None or not here else _heads("attention", width, dim, where)
        for width, here in zip(made["channels"], attends, strict=True)
    )
    made["act_out"] = "silu"
    made["resample"] = tuple(DOWN[kind][1] or given["downsample_type"] for kind in given["down_block_types"])
    made["up_resample"] = tuple(UP[kind][1] or given["upsample_type"] for kind in reversed(given["up_block_types"]))
    made["middle"] = None
    if given["mid_block_type"] is not None:
        made["middle"] = "attention" if given["add_attention"] else "plain"
    if made["modulation"] == "scale_shift" or given["attn_norm_num_groups"] is not None:
        made["middle_groups"] = given["attn_norm_num_groups"] or 0
    kind = given["time_embedding_type"]
    hearing = {
        "width": given["time_embedding_dim"] or 4 * base,
        "act": "silu",
        "time": kind,
        "cosine_first": given["flip_sin_to_cos"] and kind != "fourier",
        "shift": given["freq_shift"],
    }
    if kind == "fourier":
        hearing |= {"time_features": 2 * base, "fourier_log": True, "fourier_scale": 16.0}
        made["divide"] = True
    if kind == "learned":
        hearing["steps"] = given["num_train_timesteps"]
        if hearing["steps"] is None:
            raise UserError(f"{where}: time_embedding_type 'learned' needs num_train_timesteps")
    made["hearing"] = hearing | _classes(given, hearing["width"], where)
    return made


def _classes(given: Mapping[str, Any], width: int, where: str) -> dict[str, Any]:
    kind = given["class_embed_type"]
    if kind is None:
        return {} if given["num_class_embeds"] is None else {"classes": given["num_class_embeds"]}
    if kind == "timestep":
        return {"level": True}
    if kind == "identity":
        return {"embedding": width, "embedding_by": "identity"}
    size = given["projection_class_embeddings_input_dim"]
    if size is None:
        raise UserError(f"{where}: class_embed_type {kind!r} needs projection_class_embeddings_input_dim")
    return {"embedding": size, "embedding_by": "mlp" if kind == "projection" else "linear"}


def _condition(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Of a UNet2DConditionModel."""
    widths = given["block_out_channels"]
    count, base = len(widths), widths[0]
    made = _shared(given)
    said = _each(given["attention_head_dim"], count)
    kinds = given["down_block_types"]
    made["heads"] = tuple(
        _heads(kind, width, number_said, where) for kind, width, number_said in zip(made["down"], widths, said)
    )
    # On the way up diffusers turns the heads of CrossAttn blocks around and the widths of others not.
    made["up_heads"] = tuple(
        _heads(kind, width, said[i] if kind == "cross" else said[count - 1 - i], where)
        for i, (kind, width) in enumerate(zip(made["up"], widths))
    )
    made["resample"] = tuple(DOWN[kind][1] or "conv" for kind in kinds)
    made["up_resample"] = tuple(UP[kind][1] or "conv" for kind in reversed(given["up_block_types"]))
    middle = None if given["mid_block_type"] is None else MIDDLE[given["mid_block_type"]]
    made["middle"] = middle
    if middle is not None:
        made["middle_heads"] = _heads(middle, widths[-1], said[-1], where)
    made["context"] = _each(given["cross_attention_dim"], count)
    made["only_text"] = _each(given["only_cross_attention"], count)
    only = given["mid_block_only_cross_attention"]
    alone = given["only_cross_attention"]
    made["middle_only_text"] = bool(alone if only is None and isinstance(alone, bool) else only) and middle == "added"
    depths = _each(given["transformer_layers_per_block"], count)
    made["transformer_layers"] = depths
    backwards = given["reverse_transformer_layers_per_block"]
    if backwards is not None:
        made["up_transformer_layers"] = tuple(reversed(_each(backwards, count)))
    late = [kind in LATE_ACT for kind in kinds]
    if late != [kind in LATE_ACT for kind in reversed(given["up_block_types"])] and (
        given["resnet_skip_time_act"] or given["resnet_out_scale_factor"] != 1.0
    ):
        raise UserError(
            f"{where}: resnet_skip_time_act {given['resnet_skip_time_act']} and resnet_out_scale_factor "
            f"{given['resnet_out_scale_factor']} are read where a level's blocks heed them on both ways, not on one alone"
        )
    made["activate"] = tuple(not (given["resnet_skip_time_act"] and heeds) for heeds in late)
    made["out_scale"] = tuple(given["resnet_out_scale_factor"] if heeds else 1.0 for heeds in late)
    made["middle_activate"] = not (given["resnet_skip_time_act"] and middle == "added")
    made["text_norm"] = given["cross_attention_norm"]
    made["dual"] = given["dual_cross_attention"]
    made["kernel_in"], made["kernel_out"] = given["conv_in_kernel"], given["conv_out_kernel"]
    made["hearing"] = _heard(given, base, where)
    if made["hearing"].get("hint"):
        made["in_channels"] -= HINT_CHANNELS
    return made


def _heard(given: Mapping[str, Any], base: int, where: str) -> dict[str, Any]:
    fourier = given["time_embedding_type"] == "fourier"
    width = given["time_embedding_dim"] or base * (2 if fourier else 4)
    context = _each(given["cross_attention_dim"], 1)[0]
    hearing: dict[str, Any] = {
        "width": width,
        "time": given["time_embedding_type"],
        "cosine_first": given["flip_sin_to_cos"],
        "shift": given["freq_shift"],
        "post": given["timestep_post_act"],
        "final": given["time_embedding_act_fn"],
        "guidance": given["time_cond_proj_dim"],
        "joins": given["class_embeddings_concat"],
        "tokens": context,
    }
    if fourier:
        hearing |= {"time_features": width, "fourier_log": False, "fourier_scale": 1.0}
    hearing |= _classes(given, width, where)
    told_twice = given["class_embed_type"] not in (None, "timestep") and (
        given["addition_embed_type"] in ("image", "image_hint", "text_image")
        or given["encoder_hid_dim_type"] not in (None, "text_proj")
    )
    if told_twice:
        raise UserError(
            f"{where}: class_embed_type {given['class_embed_type']!r} and an embedding of a picture are two vectors in one "
            "place"
        )
    tokens = given["encoder_hid_dim_type"] or (None if given["encoder_hid_dim"] is None else "text_proj")
    size = given["encoder_hid_dim"]
    if tokens is not None and size is None:
        raise UserError(f"{where}: encoder_hid_dim_type {tokens!r} needs encoder_hid_dim")
    if tokens == "text_proj":
        hearing |= {"tokens": size, "context": context, "tokens_by": "text"}
    elif tokens == "image_proj":
        hearing |= {"tokens": None, "embedding": size, "embedding_by": None, "context": context, "tokens_by": "image"}
    elif tokens == "text_image_proj":
        hearing |= {
            "tokens": size, "embedding": context, "embedding_by": None, "context": context, "tokens_by": "text_image",
            "image_tokens": 10,
        }  # fmt: skip
    added = given["addition_embed_type"]
    if added == "text":
        hearing["pool_heads"] = given["addition_embed_type_num_heads"]
    elif added == "text_time":
        features, total = given["addition_time_embed_dim"], given["projection_class_embeddings_input_dim"]
        if features is None or total is None:
            raise UserError(
                f"{where}: addition_embed_type 'text_time' needs addition_time_embed_dim and "
                "projection_class_embeddings_input_dim"
            )
        # Sizes and crops are six numbers, or five where the last is a score of beauty (the refiner).
        ids = next((n for pooled in (1280, 768, 1024) for n in (6, 5) if total - n * features == pooled), 6)
        if total <= ids * features:
            raise UserError(
                f"{where}: projection_class_embeddings_input_dim {total} leaves no room beside {ids} ids of {features}"
            )
        hearing |= {"ids": ids, "id_features": features, "pooled": total - ids * features}
    elif added in ("image", "image_hint"):
        hearing |= {"embedding": size, "embedding_by": "linear_norm", "hint": added == "image_hint"}
    elif added == "text_image":
        hearing |= {"embedding": context, "embedding_by": "linear", "pooled": context, "pooled_by": "linear_norm"}
    return hearing
