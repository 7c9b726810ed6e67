"""What a checkpoint's own config says of the model, as keyword arguments of `nets.CLIP`, and back.

Weights alone do not tell the activation, the number of heads or the eps of the norms. They come from `config.json`
(Hugging Face), from `open_clip_config.json`, from the user, or, for OpenAI's archives, from what all of OpenAI's models
have in common: QuickGELU and heads of 64 features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion_jax.typing import UserError, one_of

__all__ = ["OPENAI", "SIGLIP", "from_hf", "from_open_clip", "from_openai", "preprocess_of", "to_hf", "to_open_clip"]

Config = dict[str, Any]
OPENAI = {
    "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
    "resize": "shortest", "interpolation": "bicubic",
}  # fmt: skip
SIGLIP = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize": "squash", "interpolation": "bicubic"}
"""How images are prepared: channel means and deviations of values in [0, 1], and the way to the model's size."""

_HF_ACTIVATIONS = {
    "quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh",
}  # fmt: skip
_CLIP_TOWER = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_hidden_layers": 12, "projection_dim": 512}
_SIGLIP_TOWER = {
    "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_hidden_layers": 12, "hidden_size": 768,
    "intermediate_size": 3072, "num_attention_heads": 12,
}  # fmt: skip
# The defaults of transformers' config classes, for files that leave them out.
_HF_DEFAULTS: dict[tuple[str, str], Config] = {
    ("clip", "text"): {
        **_CLIP_TOWER, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8,
        "max_position_embeddings": 77, "vocab_size": 49408, "eos_token_id": 49407,
    },
    ("clip", "vision"): {
        **_CLIP_TOWER, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "image_size": 224,
        "patch_size": 32, "num_channels": 3,
    },
    ("siglip", "text"): {**_SIGLIP_TOWER, "max_position_embeddings": 64, "vocab_size": 32000},
    ("siglip", "vision"): {**_SIGLIP_TOWER, "image_size": 224, "patch_size": 16, "num_channels": 3},
}  # fmt: skip


def from_hf(found: Mapping[str, Any], where: str) -> Config:
    """The model of a Hugging Face `config.json`: CLIPModel, SiglipModel, or one tower of CLIP.

    Raises UserError for another architecture.
    """
    kind = str(found.get("model_type"))
    alone = {"clip_text_model": "text", "clip_vision_model": "vision"}.get(kind)
    family = "clip" if alone else kind
    if family == "siglip2" and "num_patches" not in found.get("vision_config", {}):
        family = "siglip"
    if family not in {"clip", "siglip"}:
        names = ", ".join(found.get("architectures") or []) or "no architecture named"
        raise UserError(f"{where}: model_type {kind!r} ({names}) is not CLIP or SigLIP")
    config: Config = {"embed": None, "logit_bias": family == "siglip"}
    for tower in ("text", "vision"):
        if alone not in (None, tower):
            continue
        given = found if alone else found.get(f"{tower}_config") or {}
        sizes = {**_HF_DEFAULTS[family, tower], **given}
        config[tower] = _hf_tower(family, tower, sizes, where)
        config["embed"] = sizes["hidden_size"] if family == "siglip" else sizes["projection_dim"]
    if family == "clip" and not alone:
        config["embed"] = found.get("projection_dim", 512)
    if family == "siglip":
        config["embed"] = config["vision"]["width"]
    if alone == "text" and (found.get("architectures") or ["CLIPTextModel"]) == ["CLIPTextModel"]:
        config["embed"] = None
    return config


def _hf_tower(family: str, tower: str, sizes: Mapping[str, Any], where: str) -> Config:
    width = sizes["hidden_size"]
    activation = _HF_ACTIVATIONS[one_of(f"{where}: hidden_act", sizes["hidden_act"], _HF_ACTIVATIONS)]
    made: Config = {
        "width": width,
        "layers": sizes["num_hidden_layers"],
        "heads": sizes["num_attention_heads"],
        "mlp_ratio": sizes["intermediate_size"] / width,
        "activation": activation,
        "eps": sizes["layer_norm_eps"],
    }
    if tower == "vision":
        size, patch = sizes["image_size"], sizes["patch_size"]
        pool = "class" if family == "clip" else "map"
        return made | _vision_sizes(size, patch, sizes["num_channels"], pool)
    end, vocabulary = sizes.get("eos_token_id"), sizes["vocab_size"]
    # 2 stands in old files for "the largest id"; so does the last id of a vocabulary.
    named = family == "clip" and end not in (None, 2, vocabulary - 1)
    return made | {
        "vocabulary_size": vocabulary,
        "context_length": sizes["max_position_embeddings"],
        "pool": "end" if family == "clip" else "last",
        "end_token": end if named else None,
    }


def _vision_sizes(size: int, patch: int, channels: int, pool: str) -> Config:
    return {"image_size": size, "patch": patch, "channels": channels, "pool": pool, "trim": size % patch > 0}


def to_hf(config: Mapping[str, Any], preprocess: Mapping[str, Any]) -> tuple[Config, Config]:
    """(config.json, preprocessor_config.json) of a model for Hugging Face's libraries."""
    siglip = bool(config.get("logit_bias"))
    names = {ours: theirs for theirs, ours in _HF_ACTIVATIONS.items() if theirs != "gelu_new"}
    towers = {}
    for tower in ("text", "vision"):
        ours = config[tower]
        sizes = {
            "hidden_size": ours["width"],
            "intermediate_size": round(ours["width"] * ours["mlp_ratio"]),
            "num_hidden_layers": ours["layers"],
            "num_attention_heads": ours["heads"],
            "hidden_act": names[ours["activation"]],
            "layer_norm_eps": ours["eps"],
            "model_type": f"{'siglip' if siglip else 'clip'}_{tower}_model",
        }
        if tower == "text":
            sizes |= {"vocab_size": ours["vocabulary_size"], "max_position_embeddings": ours["context_length"]}
            if siglip:
                sizes |= {"projection_size": config["embed"]}
            else:
                last = ours["vocabulary_size"] - 1
                sizes |= {"eos_token_id": last if ours.get("end_token") is None else ours["end_token"]}
                sizes |= {"bos_token_id": sizes["eos_token_id"] - 1, "pad_token_id": 0}
        else:
            sizes |= {"image_size": ours["image_size"], "patch_size": ours["patch"], "num_channels": ours["channels"]}
        towers[f"{tower}_config"] = sizes if siglip else {**sizes, "projection_dim": config["embed"]}
    made: Config = {
        "architectures": ["SiglipModel" if siglip else "CLIPModel"],
        "model_type": "siglip" if siglip else "clip",
    }
    made |= towers if siglip else {**towers, "projection_dim": config["embed"]}
    size = config["vision"]["image_size"]
    square = {"height": size, "width": size}
    squash = preprocess["resize"] == "squash"
    prepared = {
        "image_processor_type": "SiglipImageProcessor" if siglip else "CLIPImageProcessor",
        "do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True, "rescale_factor": 1 / 255,
        "resample": 3 if preprocess["interpolation"] == "bicubic" else 2,
        "size": square if squash else {"shortest_edge": size},
        "image_mean": list(preprocess["mean"]), "image_std": list(preprocess["std"]),
    }  # fmt: skip
    return made, prepared if squash else {**prepared, "do_center_crop": True, "crop_size": square}


def preprocess_of(config: Mapping[str, Any], found: Mapping[str, Any] | None = None) -> Config:
    """How images are prepared, from a `preprocessor_config.json` or open_clip's `preprocess_cfg`, else the family's way."""
    made: Config = dict(SIGLIP if config.get("logit_bias") else OPENAI)
    for name, ours in (("image_mean", "mean"), ("image_std", "std"), ("mean", "mean"), ("std", "std")):
        if found and name in found:
            made[ours] = list(found[name])
    if found and "resample" in found:
        made["interpolation"] = {2: "bilinear", 3: "bicubic"}.get(found["resample"], "bicubic")
    if found and found.get("interpolation") in ("bicubic", "bilinear"):
        made["interpolation"] = found["interpolation"]
    if found and isinstance(found.get("size"), Mapping):
        made["resize"] = "shortest" if "shortest_edge" in found["size"] else "squash"
    if found and found.get("resize_mode") in ("shortest", "squash"):
        made["resize"] = found["resize_mode"]
    return made


def from_open_clip(found: Mapping[str, Any], tensors: Mapping[str, np.ndarray], where: str) -> Config:
    """The model of open_clip's config (`model_cfg`): its own ViTs and ResNets, and SigLIP with timm's tower.

    A timm tower is told by name alone: its sizes are read from the weights. UserError for a tower that is neither.
    """
    for key in ("vision_cfg", "text_cfg", "embed_dim"):
        if key not in found:
            raise UserError(f"{where} lacks {key!r}: it is no config of open_clip")
    vision, text, embed = found["vision_cfg"], found["text_cfg"], found["embed_dim"]
    if "timm_model_name" in vision:
        return _siglip(vision["timm_model_name"], text, embed, tensors, where)
    activation = "quick_gelu" if found.get("quick_gelu") else "gelu"
    width = vision["width"]
    channels = 3
    if isinstance(vision["layers"], list | tuple):
        tower: Config = {"tower": "resnet", "layers": list(vision["layers"]), "width": width, "channels": channels}
        tower |= {"image_size": vision.get("image_size", 224)}
    else:
        tower = {
            "width": width, "layers": vision["layers"], "heads": width // vision.get("head_width", 64),
            "mlp_ratio": vision.get("mlp_ratio", 4.0), "activation": activation, "eps": 1e-5,
            **_vision_sizes(vision.get("image_size", 224), vision["patch_size"], channels, "class"),
        }  # fmt: skip
    return {
        "embed": embed,
        "logit_bias": False,
        "vision": tower,
        "text": {
            "width": text["width"], "layers": text["layers"], "heads": text["heads"],
            "mlp_ratio": text.get("mlp_ratio", 4.0), "activation": activation, "eps": 1e-5,
            "vocabulary_size": text.get("vocab_size", 49408), "context_length": text.get("context_length", 77),
            "pool": "end", "end_token": None,
        },
    }  # fmt: skip


def _siglip(name: str, text: Mapping[str, Any], embed: int, tensors: Mapping[str, Any], where: str) -> Config:
    trunk, heads = "visual.trunk", {768: 12, 1024: 16, 1152: 16, 1536: 16}
    needed = [f"{trunk}.{part}" for part in ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")]
    if "siglip" not in name or any(part not in tensors for part in needed):
        raise UserError(f"{where}: the timm tower {name!r} is not SigLIP's, the only one of timm's that is known here")
    patched, positions, fc = (tensors[part].shape for part in needed)
    width, channels, patch, _ = patched
    if width not in heads:
        raise UserError(
            f"{where}: a SigLIP tower of width {width} is not known; known are {', '.join(map(str, heads))}"
        )
    side = math.isqrt(positions[1])
    shared = {"eps": 1e-6, "activation": "gelu_tanh", "init": "glorot"}
    size = int(name.rpartition("_")[2]) if name.rpartition("_")[2].isdigit() else side * patch
    return {
        "embed": embed,
        "logit_bias": True,
        "vision": {
            "width": width, "layers": _count(tensors, f"{trunk}.blocks."), "heads": heads[width],
            "mlp_ratio": fc[0] / width, **_vision_sizes(size, patch, channels, "map"), **shared,
        },
        "text": {
            "width": text["width"], "layers": text["layers"], "heads": text["heads"],
            "mlp_ratio": text.get("mlp_ratio", 4.0), "vocabulary_size": text["vocab_size"],
            "context_length": text["context_length"], "pool": "last", "end_token": None, **shared,
        },
    }  # fmt: skip


def to_open_clip(config: Mapping[str, Any], preprocess: Mapping[str, Any]) -> Config:
    """open_clip's config of a CLIP model. UserError for SigLIP, whose tower open_clip takes from timm by name."""
    vision, text = config["vision"], config["text"]
    if config.get("logit_bias"):
        raise UserError("open_clip has no config for a SigLIP of its own sizes; nearest: the Hugging Face format")
    sizes: Config = {"image_size": vision["image_size"], "layers": vision["layers"], "width": vision["width"]}
    if vision.get("tower") != "resnet":
        sizes |= {"patch_size": vision["patch"], "mlp_ratio": vision["mlp_ratio"]}
        sizes |= {"head_width": vision["width"] // vision["heads"]}
    names = ("width", "layers", "heads", "context_length", "mlp_ratio")
    words = {name: text[name] for name in names} | {"vocab_size": text["vocabulary_size"]}
    model = {"embed_dim": config["embed"], "vision_cfg": sizes, "text_cfg": words}
    if text["activation"] == "quick_gelu":
        model["quick_gelu"] = True
    prepared = {"mean": list(preprocess["mean"]), "std": list(preprocess["std"])}
    prepared |= {"interpolation": preprocess["interpolation"], "resize_mode": preprocess["resize"]}
    return {"model_cfg": model, "preprocess_cfg": prepared}


def from_openai(tensors: Mapping[str, np.ndarray], where: str) -> Config:
    """The model of an OpenAI state dict, from its shapes: QuickGELU, heads of 64 features."""
    try:
        layers = _count(tensors, "transformer.resblocks.")
        words = tensors["token_embedding.weight"].shape
        embed = tensors["text_projection"].shape[1]
        shared = {"activation": "quick_gelu", "eps": 1e-5, "mlp_ratio": 4.0}
        if "visual.layer1.0.conv1.weight" in tensors:
            blocks = [_count(tensors, f"visual.layer{stage}.") for stage in range(1, 5)]
            places = tensors["visual.attnpool.positional_embedding"].shape[0] - 1
            vision: Config = {"tower": "resnet", "layers": blocks, "channels": 3}
            vision |= {"width": tensors["visual.layer1.0.conv1.weight"].shape[0], "image_size": math.isqrt(places) * 32}
        else:
            width, channels, patch, _ = tensors["visual.conv1.weight"].shape
            side = math.isqrt(tensors["visual.positional_embedding"].shape[0] - 1)
            vision = {"width": width, "layers": _count(tensors, "visual.transformer.resblocks."), "heads": width // 64}
            vision |= shared | _vision_sizes(side * patch, patch, channels, "class")
        context = tensors["positional_embedding"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{where} is no OpenAI state dict: {error} is missing or has another shape") from error
    text = {"width": words[1], "layers": layers, "heads": words[1] // 64, "vocabulary_size": words[0], **shared}
    text |= {"context_length": context, "pool": "end", "end_token": None}
    return {"embed": embed, "logit_bias": False, "vision": vision, "text": text}


def _count(tensors: Mapping[str, Any], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})
