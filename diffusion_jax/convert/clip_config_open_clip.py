"""open_clip's `open_clip_config.json` as keyword arguments of `nets.CLIP`; a row for every field there is.

`model_cfg` builds one of three vision towers: a vision transformer, a ResNet (where `layers` is a list), or one of timm's
by name, of which SigLIP's is known here. A field that open_clip does not hand to the tower it builds changes nothing, as
`pool_type` of a ResNet. Fields of an architecture that is switched off (`text_arch` "modern", `hf_model_name`,
`attentional_pool`) change nothing either, and the switch itself is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from diffusion_jax.convert.clip_config import Config, count, vision_sizes
from diffusion_jax.convert.fields import (
    UNUSED,
    Field,
    Table,
    choice,
    flag,
    group,
    natural,
    number,
    only,
    read,
    reads,
    square,
    whole,
)
from diffusion_jax.typing import UserError

__all__ = ["OPEN_CLIP_TABLES", "from_open_clip", "names_a_tokenizer"]

_COCA = "it is CoCa's, whose towers are others"
_CUSTOM = {
    name: only(False, why="it changes the blocks, which are those of CLIP here")
    for name in ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
}


def _approximate(what: str, value: Any) -> str | None:
    """`act_kwargs` of nn.GELU: how the function is computed; None where it does not say."""
    given = group(what, value)
    for name in given:
        if name != "approximate":
            raise UserError(f"{what}: {name} {given[name]!r} is not known (known: approximate)")
    return choice(("none", "tanh"))(f"{what}: approximate", given["approximate"]) if given else None


def _eps(what: str, value: Any) -> float | None:
    """`norm_kwargs` of nn.LayerNorm; None where it does not say."""
    given = group(what, value)
    for name in given:
        if name != "eps":
            raise UserError(f"{what}: {name} {given[name]!r} is not possible here (known: eps)")
    return number(f"{what}: eps", given["eps"]) if given else None


def _stages(what: str, value: Any) -> int | list[int]:
    """`layers`: a number, or four of them for a ResNet."""
    if not isinstance(value, list | tuple):
        return whole(what, value)
    if len(value) != 4:
        raise UserError(f"{what} {list(value)!r} of a ResNet are not four numbers, such as [3, 4, 6, 3]")
    return [whole(what, one) for one in value]


def _siglips(what: str, value: Any) -> str:
    """The name of a tower of SigLIP's."""
    if not isinstance(value, str) or "siglip" not in value:
        raise UserError(f"{what} {value!r} is not SigLIP's, the only one of timm's towers that is known here")
    return value


_BLOCKS: dict[str, Field] = {
    "ls_init_value": only(None, why="layer scale (ls_init_value) is not in the blocks here"),
    "act_kwargs": reads(_approximate),
    "norm_kwargs": reads(_eps),
    # Both blocks compute the same, under the same names, while none of the switches below is on.
    "block_type": only("default", "custom", why="the blocks are those of CLIP here"),
    **_CUSTOM,
    "mlp_ratio": reads(number, 4.0),
    "output_tokens": UNUSED,  # hands the tokens out beside the embedding
}
_TIMM_OFF = dict.fromkeys(
    (
        "timm_model_pretrained",
        "timm_pool",
        "timm_proj",
        "timm_proj_bias",
        "timm_drop",
        "timm_drop_path",
        "timm_model_kwargs",
    ),
    UNUSED,
)
_POOLER = dict.fromkeys(("attn_pooler_queries", "attn_pooler_heads"), UNUSED)
VIT: Table = {
    **_BLOCKS,
    **_TIMM_OFF,
    **_POOLER,
    "timm_model_name": only("", why="the tower is timm's"),
    "layers": reads(_stages, 12),
    "width": reads(whole, 768),
    "head_width": reads(whole, 64),
    "patch_size": reads(square, 16),
    "image_size": reads(square, 224),
    "image_seq_len": UNUSED,
    "patch_dropout": UNUSED,  # acts in training alone
    "attentional_pool": only(False, why=_COCA),
    "no_ln_pre": reads(flag, False),
    "pos_embed_type": only(
        "learnable", "sin_cos_2d", why="positions are read from the weights, where both of these stand"
    ),
    "final_ln_after_pool": reads(flag, False),
    "pool_type": reads(choice(("tok", "avg")), "tok"),
}
RESNET: Table = {
    **dict.fromkeys(VIT, UNUSED),
    "timm_model_name": VIT["timm_model_name"],
    **{name: VIT[name] for name in ("layers", "image_size", "head_width")},
    "width": reads(whole, 768),
}
SIGLIP_VISION: Table = {
    **dict.fromkeys(VIT, UNUSED),
    "timm_model_name": reads(_siglips),
    "image_size": reads(square),
    "timm_pool": only("map", why="SigLIP's tower pools by attention"),
    "timm_proj": only("none", "linear", "", why="the embedding is the pooled feature, or one linear map of it"),
    "timm_proj_bias": only(False, why="the map to the embedding has no bias here"),
    "timm_model_kwargs": only({}, why="it builds another tower than the name says"),
}
_MODERN = dict.fromkeys(
    [
        "attention_mode",
        "pos_embed",
        "rope_temperature",
        "mlp_type",
        "norm_type",
        "norm_eps",
        "attn_gated",
        "pre_norm",
        "norm_placement",
        "zero_init_residual",
        "reg_tokens",
        "value_residual",
        "attention_bias",
        "mlp_bias",
        "gate_bias",
    ],
    UNUSED,
)
_TOKENS = (
    "hf_tokenizer_name",
    "tokenizer_mode",
    "tokenizer_kwargs",
    "tokenizer_type",
    "tiktoken_name",
    "bos_id",
    "pad_id",
)
TEXT: Table = {
    **_BLOCKS,
    **_MODERN,
    **dict.fromkeys(_TOKENS, UNUSED),  # how texts become ids, which is the tokenizer's: see `names_a_tokenizer`
    **dict.fromkeys(("hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "hf_model_config"), UNUSED),
    "hf_model_name": only("", why="the text tower is a model of Hugging Face's, of which none is known here"),
    "text_arch": only("clip", why="the tower has other blocks"),
    "variable_text": only(False, why="rows of tokens have one length here"),
    "context_length": reads(whole, 77),
    "vocab_size": reads(whole, 49408),
    "width": reads(whole, 512),
    "heads": reads(whole, 8),
    "layers": reads(whole, 12),
    "embed_cls": only(False, why=_COCA),
    "eos_id": reads(natural),
    "no_causal_mask": reads(flag, False),
    "final_ln_after_pool": UNUSED,  # open_clip does not hand it to the tower
    "pool_type": reads(choice(("argmax", "eos", "first", "last")), "argmax"),
    "proj_bias": reads(flag, False),
    "proj_type": reads(choice(("linear", "none")), "linear"),
}
_OTHERS = ("multimodal_cfg", "audio_cfg", "genlip_cfg", "genlap_cfg", "audio_naflex_cfg")
MODEL: Table = {
    **{name: only(None, why="it is no CLIP") for name in _OTHERS},
    "embed_dim": reads(whole),
    "vision_cfg": reads(group),
    "text_cfg": reads(group),
    "quick_gelu": reads(flag, False),
    "init_logit_bias": reads(lambda what, value: True, False),
    **dict.fromkeys(("custom_text", "init_logit_scale", "nonscalar_logit_scale", "cast_dtype", "output_dict"), UNUSED),
}
OPEN_CLIP_TABLES: dict[str, Table] = {
    "model_cfg": MODEL,
    "vision_cfg": VIT,
    "vision_cfg of a ResNet": RESNET,
    "vision_cfg of SigLIP": SIGLIP_VISION,
    "text_cfg": TEXT,
}


def from_open_clip(found: Any, tensors: Mapping[str, Any], where: str) -> Config:
    """The model of open_clip's config (`model_cfg`): its own ViTs and ResNets, and SigLIP with timm's tower.

    A timm tower is told by name alone: its sizes are read from the weights. Raises UserError for another tower, and for a field
    or value that the tables do not have.
    """
    found = group(f"{where}: model_cfg", found)
    for key in ("vision_cfg", "text_cfg", "embed_dim"):
        if found.get(key) is None:
            raise UserError(f"{where} lacks {key!r}: it is no config of open_clip")
    top = read(MODEL, found, where)
    vision, embed = top["vision_cfg"], top["embed_dim"]
    config: Config = {"embed": embed, "logit_bias": top["init_logit_bias"]}
    quick = top["quick_gelu"]
    if vision.get("timm_model_name"):
        tower = _timm(read(SIGLIP_VISION, vision, f"{where}: vision_cfg"), tensors, where)
        # The towers of SigLIP were trained with the tanh form, which open_clip's older configs do not say.
        text = _text(top["text_cfg"], quick, embed, where, unsaid="gelu_tanh") | {"init": "glorot"}
    else:
        if isinstance(vision.get("layers"), list | tuple):
            tower = _resnet(read(RESNET, vision, f"{where}: vision_cfg"))
        else:
            tower = _vit(read(VIT, vision, f"{where}: vision_cfg"), quick, f"{where}: vision_cfg")
        text = _text(top["text_cfg"], quick, embed, where, unsaid="gelu")
    return config | {"vision": tower, "text": text}


def names_a_tokenizer(found: Mapping[str, Any]) -> str | None:
    """The tokenizer that an `open_clip_config.json` names in place of CLIP's own, or None."""
    model = found.get("model_cfg", found)
    text = model.get("text_cfg") if isinstance(model, Mapping) else None
    return text.get("hf_tokenizer_name") or text.get("tokenizer_type") or None if isinstance(text, Mapping) else None


def _activation(quick: bool, approximate: str | None, unsaid: str, where: str) -> str:
    if quick and approximate:
        raise UserError(
            f"{where}: act_kwargs {{'approximate': {approximate!r}}} is GELU's; this model's quick_gelu has none"
        )
    return "quick_gelu" if quick else {None: unsaid, "none": "gelu", "tanh": "gelu_tanh"}[approximate]


def _ratio(width: int, ratio: float) -> float:
    """open_clip cuts width * ratio down to a whole number, and this code rounds it."""
    hidden = int(width * ratio)
    return ratio if round(width * ratio) == hidden else hidden / width


def _resnet(sizes: Mapping[str, Any]) -> Config:
    width = sizes["width"]
    made: Config = {"tower": "resnet", "layers": sizes["layers"], "width": width, "channels": 3}
    heads = width * 32 // sizes["head_width"]
    return made | {"image_size": sizes["image_size"]} | ({} if sizes["head_width"] == 64 else {"heads": heads})


def _vit(sizes: Mapping[str, Any], quick: bool, where: str) -> Config:
    width = sizes["width"]
    heads = width // sizes["head_width"]
    if heads < 1 or width % heads:
        raise UserError(
            f"{where}: head_width {sizes['head_width']} cuts width {width} into {heads} heads, which do not divide it"
        )
    made: Config = {
        "width": width, "layers": sizes["layers"], "heads": heads, "mlp_ratio": _ratio(width, sizes["mlp_ratio"]),
        "activation": _activation(quick, sizes["act_kwargs"], "gelu", where), "eps": sizes["norm_kwargs"] or 1e-5,
        **vision_sizes(sizes["image_size"], sizes["patch_size"], 3, {"tok": "class", "avg": "avg"}[sizes["pool_type"]]),
    }  # fmt: skip
    if sizes["no_ln_pre"]:
        made["pre_norm"] = False
    # On the class token alone a norm of each token is the same before and after.
    if sizes["final_ln_after_pool"] and sizes["pool_type"] == "avg":
        made["norm_after_pool"] = True
    return made


def _text(given: Any, quick: bool, embed: int, where: str, *, unsaid: str) -> Config:
    place = f"{where}: text_cfg"
    sizes = read(TEXT, given, place)
    width, vocabulary, pool, end = sizes["width"], sizes["vocab_size"], sizes["pool_type"], sizes["eos_id"]
    if width % sizes["heads"]:
        raise UserError(f"{place}: width {width} is not divided by heads {sizes['heads']}")
    if pool == "eos" and (end is None or end >= vocabulary):
        raise UserError(f"{place}: pool_type 'eos' needs eos_id, an id below vocab_size {vocabulary}; it is {end!r}")
    ours = {"argmax": "end", "eos": "end"}.get(pool, pool)
    made: Config = {
        "width": width, "layers": sizes["layers"], "heads": sizes["heads"], "mlp_ratio": _ratio(width, sizes["mlp_ratio"]),
        "activation": _activation(quick, sizes["act_kwargs"], unsaid, place), "eps": sizes["norm_kwargs"] or 1e-5,
        "vocabulary_size": vocabulary, "context_length": sizes["context_length"],
        "pool": ours, "end_token": end if pool == "eos" else None,
    }  # fmt: skip
    causal = not sizes["no_causal_mask"]
    if causal != (ours == "end"):
        made["causal"] = causal
    if sizes["proj_type"] == "none":
        if width != embed:
            raise UserError(f"{place}: proj_type 'none' gives {width} features, and embed_dim is {embed}")
        made["projected"] = False
    elif sizes["proj_bias"] != (ours == "last"):
        made["proj_bias"] = sizes["proj_bias"]
    return made


def _timm(sizes: Mapping[str, Any], tensors: Mapping[str, Any], where: str) -> Config:
    """SigLIP's vision tower, from the shapes of its weights."""
    name = sizes["timm_model_name"]
    trunk, heads = "visual.trunk", {768: 12, 1024: 16, 1152: 16, 1536: 16}
    needed = [f"{trunk}.{part}" for part in ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")]
    if any(part not in tensors for part in needed):
        raise UserError(f"{where}: the weights are not those of the timm tower {name!r}: {needed[0]} is missing")
    patched, positions, fc = (tensors[part].shape for part in needed)
    width, channels, patch, _ = patched
    if width not in heads:
        raise UserError(
            f"{where}: a SigLIP tower of width {width} is not known; known are {', '.join(map(str, heads))}"
        )
    side = math.isqrt(positions[1])
    size = int(name.rpartition("_")[2]) if name.rpartition("_")[2].isdigit() else side * patch
    size = sizes["image_size"] or size
    if size // patch != side:
        raise UserError(
            f"{where}: vision_cfg: image_size {size} is not that of the weights, {side} x {side} patches of {patch}"
        )
    return {
        "width": width, "layers": count(tensors, f"{trunk}.blocks."), "heads": heads[width], "mlp_ratio": fc[0] / width,
        **vision_sizes(size, patch, channels, "map"), "eps": 1e-6, "activation": "gelu_tanh", "init": "glorot",
    }  # fmt: skip
