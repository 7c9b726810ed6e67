"""What all of OpenAI's models have in common, and what both libraries' configs share.

Weights alone do not tell the activation, the number of heads or the eps of the norms. They come from `config.json`
(`clip_config_hf`), from `open_clip_config.json` (`clip_config_open_clip`), from the user, or, for OpenAI's archives, from what
all of OpenAI's models have in common: QuickGELU and heads of 64 features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion_jax.typing import UserError

__all__ = ["HF_ACTIVATIONS", "OPENAI", "SIGLIP", "count", "from_openai", "preprocess_of", "vision_sizes"]

Config = dict[str, Any]
OPENAI = {
    "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
    "resize": "shortest", "interpolation": "bicubic",
}  # fmt: skip
SIGLIP = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize": "squash", "interpolation": "bicubic"}
"""How images are prepared: channel means and deviations of values in [0, 1], and the way to the model's size."""

HF_ACTIVATIONS = {
    "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh",
}  # fmt: skip
"""transformers' names of the activations that there are; of several names for one, the last is the one to write."""


def vision_sizes(size: int, patch: int, channels: int, pool: str) -> Config:
    """The sizes of a vision transformer; edges that no whole patch covers are let go."""
    return {"image_size": size, "patch": patch, "channels": channels, "pool": pool, "trim": size % patch > 0}


def preprocess_of(config: Mapping[str, Any]) -> Config:
    """How images are prepared where no file says it: the family's way."""
    return dict(SIGLIP if config.get("logit_bias") else OPENAI)


def from_openai(tensors: Mapping[str, np.ndarray], where: str) -> Config:
    """The model of an OpenAI state dict, from its shapes: QuickGELU, heads of 64 features."""
    try:
        layers = count(tensors, "transformer.resblocks.")
        words = tensors["token_embedding.weight"].shape
        embed = tensors["text_projection"].shape[1]
        shared = {"activation": "quick_gelu", "eps": 1e-5, "mlp_ratio": 4.0}
        if "visual.layer1.0.conv1.weight" in tensors:
            blocks = [count(tensors, f"visual.layer{stage}.") for stage in range(1, 5)]
            places = tensors["visual.attnpool.positional_embedding"].shape[0] - 1
            vision: Config = {"tower": "resnet", "layers": blocks, "channels": 3}
            vision |= {"width": tensors["visual.layer1.0.conv1.weight"].shape[0], "image_size": math.isqrt(places) * 32}
        else:
            width, channels, patch, _ = tensors["visual.conv1.weight"].shape
            side = math.isqrt(tensors["visual.positional_embedding"].shape[0] - 1)
            vision = {"width": width, "layers": count(tensors, "visual.transformer.resblocks."), "heads": width // 64}
            vision |= shared | vision_sizes(side * patch, patch, channels, "class")
        context = tensors["positional_embedding"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{where} is no OpenAI state dict: {error} is missing or has another shape") from error
    text = {"width": words[1], "layers": layers, "heads": words[1] // 64, "vocabulary_size": words[0], **shared}
    text |= {"context_length": context, "pool": "end", "end_token": None}
    return {"embed": embed, "logit_bias": False, "vision": vision, "text": text}


def count(tensors: Mapping[str, Any], prefix: str) -> int:
    """How many numbered parts follow a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})
