"""What a checkpoint's own config says of the model, as keyword arguments of `nets.CLIP`.

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

__all__ = ["HF_ACTIVATIONS", "OPENAI", "SIGLIP", "from_hf", "from_open_clip", "from_openai", "preprocess_of"]

Config = dict[str, Any]
OPENAI = {
    "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
    "resize": "shortest", "interpolation": "bicubic",
}  # fmt: skip
SIGLIP = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize": "squash", "interpolation": "bicubic"}
"""How images are prepared: channel means and deviations of values in [0, 1], and the way to the model's size."""

HF_ACTIVATIONS = {
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
    activation = HF_ACTIVATIONS[one_of(f"{where}: hidden_act", sizes["hidden_act"], HF_ACTIVATIONS)]
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
