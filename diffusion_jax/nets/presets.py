"""The published dual encoders by name: keyword arguments of `nets.CLIP`.

Names and sizes are open_clip's. OpenAI's weights want `activation="quick_gelu"` and LAION's and DataComp's "gelu";
the sizes are the same, so a name with "-quickgelu" is the first kind, as there. SigLIP and SigLIP 2 differ in vocabulary.

Sources: CLIP arXiv 2103.00020, tables 19 and 20; H, g and bigG arXiv 2212.07143 and their public configs; SigLIP arXiv
2303.15343 and SigLIP 2 arXiv 2502.14786 and theirs.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from diffusion_jax.nets.clip import TOWERS
from diffusion_jax.nets.text import TextTransformer
from diffusion_jax.typing import one_of

__all__ = ["CLIP_MODELS", "clip_model", "complete"]


def _clip(
    patch: int,
    width: int,
    layers: int,
    heads: int,
    embed: int,
    text: tuple[int, int, int],
    *,
    image_size: int = 224,
    mlp_ratio: float = 4.0,
    activation: str = "gelu",
) -> dict[str, Any]:
    vision = {"patch": patch, "width": width, "layers": layers, "heads": heads, "image_size": image_size}
    return {
        "embed": embed,
        "vision": {**vision, "mlp_ratio": mlp_ratio, "activation": activation},
        "text": {"width": text[0], "layers": text[1], "heads": text[2], "activation": activation},
    }


def _resnet(
    layers: tuple[int, ...], width: int, embed: int, image_size: int, text: tuple[int, int], activation: str
) -> dict[str, Any]:
    return {
        "embed": embed,
        "vision": {"tower": "resnet", "layers": list(layers), "width": width, "image_size": image_size},
        "text": {"width": text[0], "layers": 12, "heads": text[1], "activation": activation},
    }


def _siglip(
    patch: int,
    size: tuple[int, int, int, float],
    image_size: int,
    *,
    text: tuple[int, int, int, float] | None = None,
    vocabulary: int = 32000,
    context: int = 64,
) -> dict[str, Any]:
    shared = {"init": "glorot", "eps": 1e-6, "activation": "gelu_tanh"}
    names = ("width", "layers", "heads", "mlp_ratio")
    return {
        "embed": size[0],
        "logit_bias": True,
        "vision": {
            "patch": patch,
            "image_size": image_size,
            "trim": image_size % patch > 0,
            "pool": "map",
            **dict(zip(names, size)),
            **shared,
        },
        "text": {
            "vocabulary_size": vocabulary,
            "context_length": context,
            "pool": "last",
            **dict(zip(names, text or size)),
            **shared,
        },
    }


_VITS: dict[str, tuple[tuple[int, int, int, int, int, tuple[int, int, int]], dict[str, Any]]] = {
    "ViT-B-32": ((32, 768, 12, 12, 512, (512, 12, 8)), {}),
    "ViT-B-16": ((16, 768, 12, 12, 512, (512, 12, 8)), {}),
    "ViT-L-14": ((14, 1024, 24, 16, 768, (768, 12, 12)), {}),
    "ViT-L-14-336": ((14, 1024, 24, 16, 768, (768, 12, 12)), {"image_size": 336}),
    "ViT-H-14": ((14, 1280, 32, 16, 1024, (1024, 24, 16)), {}),
    "ViT-g-14": ((14, 1408, 40, 16, 1024, (1024, 24, 16)), {"mlp_ratio": 4.3637}),
    "ViT-bigG-14": ((14, 1664, 48, 16, 1280, (1280, 32, 20)), {"mlp_ratio": 4.9231}),
}
_RESNETS: dict[str, tuple[tuple[int, ...], int, int, int, tuple[int, int]]] = {
    "RN50": ((3, 4, 6, 3), 64, 1024, 224, (512, 8)),
    "RN101": ((3, 4, 23, 3), 64, 512, 224, (512, 8)),
    "RN50x4": ((4, 6, 10, 6), 80, 640, 288, (640, 10)),
    "RN50x16": ((6, 8, 18, 8), 96, 768, 384, (768, 12)),
    "RN50x64": ((3, 15, 36, 10), 128, 1024, 448, (1024, 16)),
}
_BASE, _LARGE = (768, 12, 12, 4.0), (1024, 24, 16, 4.0)
_SO400M, _GIANT = (1152, 27, 16, 3.7362), (1536, 40, 16, 4.0)
_GEMMA = 256000

CLIP_MODELS: dict[str, dict[str, Any]] = {
    **{name: _clip(*sizes, **options) for name, (sizes, options) in _VITS.items()},
    **{
        f"{name}-quickgelu": _clip(*sizes, **options, activation="quick_gelu")
        for name, (sizes, options) in _VITS.items()
    },
    **{name: _resnet(*sizes, "gelu") for name, sizes in _RESNETS.items()},
    **{f"{name}-quickgelu": _resnet(*sizes, "quick_gelu") for name, sizes in _RESNETS.items()},
    "ViT-B-16-SigLIP": _siglip(16, _BASE, 224),
    "ViT-B-16-SigLIP-256": _siglip(16, _BASE, 256),
    "ViT-B-16-SigLIP-384": _siglip(16, _BASE, 384),
    "ViT-B-16-SigLIP-512": _siglip(16, _BASE, 512),
    "ViT-L-16-SigLIP-256": _siglip(16, _LARGE, 256),
    "ViT-L-16-SigLIP-384": _siglip(16, _LARGE, 384),
    "ViT-SO400M-14-SigLIP": _siglip(14, _SO400M, 224, context=16),
    "ViT-SO400M-14-SigLIP-384": _siglip(14, _SO400M, 384),
    "ViT-B-32-SigLIP2-256": _siglip(32, _BASE, 256, vocabulary=_GEMMA),
    "ViT-B-16-SigLIP2": _siglip(16, _BASE, 224, vocabulary=_GEMMA),
    "ViT-B-16-SigLIP2-256": _siglip(16, _BASE, 256, vocabulary=_GEMMA),
    "ViT-B-16-SigLIP2-384": _siglip(16, _BASE, 384, vocabulary=_GEMMA),
    "ViT-B-16-SigLIP2-512": _siglip(16, _BASE, 512, vocabulary=_GEMMA),
    "ViT-L-16-SigLIP2-256": _siglip(16, _LARGE, 256, vocabulary=_GEMMA),
    "ViT-L-16-SigLIP2-384": _siglip(16, _LARGE, 384, vocabulary=_GEMMA),
    "ViT-L-16-SigLIP2-512": _siglip(16, _LARGE, 512, vocabulary=_GEMMA),
    "ViT-SO400M-14-SigLIP2": _siglip(14, _SO400M, 224, vocabulary=_GEMMA),
    "ViT-SO400M-14-SigLIP2-378": _siglip(14, _SO400M, 378, vocabulary=_GEMMA),
    "ViT-SO400M-16-SigLIP2-256": _siglip(16, _SO400M, 256, vocabulary=_GEMMA),
    "ViT-SO400M-16-SigLIP2-384": _siglip(16, _SO400M, 384, vocabulary=_GEMMA),
    "ViT-SO400M-16-SigLIP2-512": _siglip(16, _SO400M, 512, vocabulary=_GEMMA),
    "ViT-gopt-16-SigLIP2-256": _siglip(16, _GIANT, 256, text=_SO400M, vocabulary=_GEMMA),
    "ViT-gopt-16-SigLIP2-384": _siglip(16, _GIANT, 384, text=_SO400M, vocabulary=_GEMMA),
}
"""Keyword arguments of `nets.CLIP` by name."""


def clip_model(
    name: str, *, vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The keyword arguments of `nets.CLIP` for a published model, every size told, with `vision` and `text` changed as given.

    `clip_model("ViT-B-32", text={"context_length": 248})`. Raises UserError for a name that does not exist.
    """
    found = copy.deepcopy(CLIP_MODELS[one_of("CLIP model", name, CLIP_MODELS)])
    return complete({**found, "vision": found["vision"] | (vision or {}), "text": found["text"] | (text or {})})


_HOW = {"self", "rngs", "embed", "norm", "scan", "remat", "dtype", "patch_dropout", "init"}
"""Arguments that say how a tower is computed or trained, not what it is: left as they are given."""


def complete(model: Mapping[str, Any]) -> dict[str, Any]:
    """`model` (keyword arguments of `nets.CLIP`) with the towers' defaults where it is silent."""
    tower = TOWERS[one_of("tower", model["vision"].get("tower", "vit"), TOWERS)]
    made = {"logit_bias": False, **model}
    for key, make in (("vision", tower), ("text", TextTransformer)):
        parameters = inspect.signature(make.__init__).parameters  # type: ignore[misc]
        made[key] = {n: p.default for n, p in parameters.items() if n not in _HOW} | dict(model[key])
    return made
