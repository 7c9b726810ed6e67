"""A model's sizes as the config files of other libraries: the inverse of `clip_config`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from diffusion_jax.convert.clip_config import HF_ACTIVATIONS, Config
from diffusion_jax.convert.clip_preprocess import RESAMPLE
from diffusion_jax.typing import UserError, one_of

__all__ = ["to_hf", "to_open_clip"]


def to_hf(config: Mapping[str, Any], preprocess: Mapping[str, Any] | None) -> tuple[Config, Config | None]:
    """(config.json, preprocessor_config.json) of a model for Hugging Face's libraries.

    A model of one tower is CLIP's, and without `preprocess` where it is of text.
    """
    siglip = bool(config.get("logit_bias"))
    towers = {f"{name}_config": _hf_tower(config, name, siglip) for name in ("text", "vision") if name in config}
    if len(towers) == 1:
        ((name, sizes),) = towers.items()
        kind = "Text" if name == "text_config" else "Vision"
        projected = "WithProjection" if config["embed"] is not None else ""
        made = {"architectures": [f"CLIP{kind}Model{projected}"], **sizes}
    else:
        made = {
            "architectures": ["SiglipModel" if siglip else "CLIPModel"],
            "model_type": "siglip" if siglip else "clip",
        }
        made |= towers if siglip else {**towers, "projection_dim": config["embed"]}
    if preprocess is None:
        return made, None
    edge = config["vision"]["image_size"]
    size = preprocess.get("size") or edge
    squash = preprocess["resize"] == "squash"
    numbers = {name: number for number, name in RESAMPLE.items()}
    prepared = {
        "image_processor_type": "SiglipImageProcessor" if siglip else "CLIPImageProcessor",
        "do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True, "rescale_factor": 1 / 255,
        "resample": numbers[preprocess["interpolation"]],
        "size": {"height": size, "width": size} if squash else {"shortest_edge": size},
        "image_mean": list(preprocess["mean"]), "image_std": list(preprocess["std"]),
    }  # fmt: skip
    if squash and size == edge:
        return made, prepared | ({} if siglip else {"do_center_crop": False})
    return made, {**prepared, "do_center_crop": True, "crop_size": {"height": edge, "width": edge}}


def _hf_tower(config: Mapping[str, Any], tower: str, siglip: bool) -> Config:
    names = {ours: theirs for theirs, ours in HF_ACTIVATIONS.items() if theirs != "gelu_new"}
    ours = config[tower]
    sizes = {
        "hidden_size": ours["width"],
        "intermediate_size": round(ours["width"] * ours["mlp_ratio"]),
        "num_hidden_layers": ours["layers"],
        "num_attention_heads": ours["heads"],
        "hidden_act": names[one_of("activation", ours["activation"], names)],
        "layer_norm_eps": ours["eps"],
        "model_type": f"{'siglip' if siglip else 'clip'}_{tower}_model",
    }
    if tower == "text":
        sizes |= {"vocab_size": ours["vocabulary_size"], "max_position_embeddings": ours["context_length"]}
        if siglip:
            return sizes | {"projection_size": config["embed"]}
        last = ours["vocabulary_size"] - 1
        sizes |= {"eos_token_id": last if ours["end_token"] is None else ours["end_token"]}
        sizes |= {"bos_token_id": sizes["eos_token_id"] - 1, "pad_token_id": 0}
    else:
        sizes |= {"image_size": ours["image_size"], "patch_size": ours["patch"], "num_channels": ours["channels"]}
    return sizes if siglip or config["embed"] is None else {**sizes, "projection_dim": config["embed"]}


def to_open_clip(config: Mapping[str, Any], preprocess: Mapping[str, Any]) -> Config:
    """open_clip's config of a CLIP model. UserError for SigLIP's tower, which open_clip takes from timm by name."""
    vision, text = config["vision"], config["text"]
    sizes: Config = {"image_size": vision["image_size"], "layers": vision["layers"], "width": vision["width"]}
    if vision.get("tower") == "resnet":
        sizes["layers"] = list(vision["layers"])
        if vision["heads"] is not None:
            sizes["head_width"] = vision["width"] * 32 // vision["heads"]
    elif vision["pool"] == "map":
        raise UserError("open_clip has no config for a SigLIP of its own sizes")
    else:
        sizes |= {"patch_size": vision["patch"], "head_width": vision["width"] // vision["heads"], **_blocks(vision)}
        said = {"pool_type": "avg" if vision["pool"] == "avg" else None, "no_ln_pre": not vision["pre_norm"]}
        said |= {"final_ln_after_pool": vision["norm_after_pool"]}
        sizes |= {key: value for key, value in said.items() if value}
    words = {name: text[name] for name in ("width", "layers", "heads", "context_length")} | _blocks(text)
    words |= {"vocab_size": text["vocabulary_size"]}
    if text["pool"] != "end":
        words["pool_type"] = text["pool"]
    elif text["end_token"] not in (None, text["vocabulary_size"] - 1):
        words |= {"pool_type": "eos", "eos_id": text["end_token"]}
    causal = text["pool"] == "end" if text["causal"] is None else text["causal"]
    biased = text["pool"] == "last" if text["proj_bias"] is None else text["proj_bias"]
    said = {"no_causal_mask": not causal, "proj_bias": biased, "proj_type": None if text["projected"] else "none"}
    words |= {key: value for key, value in said.items() if value}
    model = {"embed_dim": config["embed"], "vision_cfg": sizes, "text_cfg": words}
    if text["activation"] == "quick_gelu":
        model["quick_gelu"] = True
    if config["logit_bias"]:
        model["init_logit_bias"] = -10.0  # that there is one; its value is among the weights
    prepared = {"mean": list(preprocess["mean"]), "std": list(preprocess["std"])}
    prepared |= {"interpolation": preprocess["interpolation"], "resize_mode": preprocess["resize"]}
    return {"model_cfg": model, "preprocess_cfg": prepared}


def _blocks(tower: Mapping[str, Any]) -> Config:
    """What open_clip calls the settings of a tower's blocks; its own defaults are left out."""
    width, hidden = tower["width"], round(tower["width"] * tower["mlp_ratio"])
    ratio = hidden / width
    made: Config = {"mlp_ratio": ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)}
    if tower["eps"] != 1e-5:
        made["norm_kwargs"] = {"eps": tower["eps"]}
    if tower["activation"] == "gelu_tanh":
        made["act_kwargs"] = {"approximate": "tanh"}
    return made
