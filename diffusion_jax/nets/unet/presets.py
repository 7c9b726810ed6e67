"""The published U-Nets by name: keyword arguments of `nets.UNet`, `nets.EDM2UNet` or `nets.GLIDE`, every size in them.

Sources: DDPM arXiv 2006.11239; ADM arXiv 2105.05233, tables 11 and 12; GLIDE arXiv 2112.10741, section 4; DALL-E 2 arXiv
2204.06125 and Karlo's public weights; score SDEs arXiv 2011.13456 as EDM sets them, arXiv 2206.00364, table 7; EDM2 arXiv
2312.02696, table 6; latent diffusion arXiv 2112.10752 and Stable Diffusion's public configs; SDXL arXiv 2307.01952.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from diffusion_jax.typing import one_of

__all__ = ["UNET_MODELS", "unet_model"]


def _by_size(sizes: tuple[float | int, ...], image_size: int, attends: tuple[int, ...], kind: str) -> tuple[str, ...]:
    """The kind of attention of each level: at the pictures' sizes in `attends`."""
    return tuple(kind if image_size >> i in attends else "plain" for i in range(len(sizes)))


def _ddpm(base: int, multiples: tuple[int, ...], image_size: int, dropout_rate: float = 0.0) -> dict[str, Any]:
    return {
        "in_channels": 3,
        "channels": tuple(base * m for m in multiples),
        "layers": 2,
        "down": _by_size(multiples, image_size, (16,), "attention"),
        "heads": 1,
        "eps": 1e-6,
        "padding": 0,
        "dropout_rate": dropout_rate,
        "hearing": {"cosine_first": False, "shift": 1.0},
    }


def _adm(
    base: int,
    multiples: tuple[float | int, ...],
    image_size: int,
    *,
    layers: int = 2,
    attends: tuple[int, ...] = (32, 16, 8),
    heads: int | None = None,
    classes: int | None = 1000,
    image: int | None = None,
    dropout_rate: float = 0.0,
) -> dict[str, Any]:
    said = {"heads": heads} if heads else {"head_dim": 64}
    return {
        "in_channels": 3,
        "out_channels": 6,
        "channels": tuple(round(base * m) for m in multiples),
        "layers": layers,
        "down": _by_size(multiples, image_size, attends, "attention"),
        **said,
        "resample": "resnet",
        "modulation": "scale_shift",
        "middle_scale": 1.0,
        "image": image,
        "dropout_rate": dropout_rate,
        "hearing": {"width": 4 * base, "time_features": base, "classes": classes},
    }


def _edm(filter: str) -> dict[str, Any]:
    fourier = filter == "binomial"
    features = 256 if fourier else 128
    return {
        "in_channels": 3,
        "channels": (256, 256, 256),
        "first": 128,
        "layers": 4,
        "down": ("plain", "attention", "plain"),
        "up_attends": "last",
        "heads": 1,
        "resample": "resnet",
        "resample_shortcut": True,
        "filter": filter,
        "groups": None,
        "eps": 1e-6,
        "out_scale": 2**0.5,
        "activate": False,
        "pyramid": fourier,
        "hearing": {
            "width": 512,
            "time": "fourier" if fourier else "positional",
            "time_features": features,
            "cosine_first": False,
            "shift": 1.0,
            "before": True,
            "classes": 11,
            "augment": 9,
            "post": "silu",
        },
    }


def _stable(
    channels: tuple[int, ...],
    down: tuple[str, ...],
    heads: tuple[int, ...],
    context: int,
    *,
    transformer_layers: tuple[int, ...] | int = 1,
    ids: int | None = None,
) -> dict[str, Any]:
    hearing: dict[str, Any] = {"tokens": context}
    if ids is not None:
        hearing |= {"ids": ids, "id_features": 256, "pooled": 1280}
    return {
        "in_channels": 4,
        "channels": channels,
        "layers": 2,
        "down": down,
        "middle": "cross",
        "heads": heads,
        "context": context,
        "transformer_layers": transformer_layers,
        "hearing": hearing,
    }


_SD = ("cross", "cross", "cross", "plain")
_SD_CHANNELS = (320, 640, 1280, 1280)


def _karlo_decoder() -> dict[str, Any]:
    return {
        "in_channels": 3,
        "out_channels": 6,
        "channels": (320, 640, 960, 1280),
        "layers": 3,
        "down": ("plain", "added", "added", "added"),
        "middle": "added",
        "head_dim": 64,
        "context": 1536,
        "resample": "resnet",
        "modulation": "scale_shift",
        "hearing": {"tokens": 1536, "embedding": 1280, "embedding_by": "identity"},
    }


def _karlo_upsampler() -> dict[str, Any]:
    return {
        "in_channels": 6,
        "out_channels": 3,
        "channels": (320, 640, 960, 1280),
        "layers": 3,
        "down": "plain",
        "middle": "plain",
        "resample": "resnet",
    }


def _glide(base: int, multiples: tuple[int, ...], image_size: int, layers: int, image: int | None) -> dict[str, Any]:
    adm = _adm(base, multiples, image_size, layers=layers, classes=None, image=None)
    unet = {
        name: value
        for name, value in adm.items()
        if name not in ("in_channels", "out_channels", "image", "dropout_rate")
    }
    unet |= {"down": _by_size(multiples, image_size, (32, 16, 8), "added"), "middle": "added"}
    return {"in_channels": 3, "out_channels": 6, "image": image, "unet": unet}


def _edm2(width: int, dropout_rate: float = 0.0) -> dict[str, Any]:
    return {"image_size": 64, "in_channels": 4, "width": width, "classes": 1001, "dropout_rate": dropout_rate}


UNET_MODELS: dict[str, dict[str, Any]] = {
    "ddpm-cifar10": _ddpm(128, (1, 2, 2, 2), 32, 0.1),
    "ddpm-256": _ddpm(128, (1, 1, 2, 2, 4, 4), 256),
    "adm-64": _adm(192, (1, 2, 3, 4), 64, layers=3, dropout_rate=0.1),
    "adm-128": _adm(256, (1, 1, 2, 3, 4), 128, heads=4),
    "adm-256": _adm(256, (1, 1, 2, 2, 4, 4), 256),
    "adm-256-uncond": _adm(256, (1, 1, 2, 2, 4, 4), 256, classes=None),
    "adm-512": _adm(256, (0.5, 1, 1, 2, 2, 4, 4), 512),
    "adm-64-256": _adm(192, (1, 1, 2, 2, 4, 4), 256, heads=4, image=3),
    "adm-128-512": _adm(192, (1, 1, 2, 2, 4, 4), 512, attends=(32, 16), image=3),
    "ddpm++-cifar10": _edm("box"),
    "ncsn++-cifar10": _edm("binomial"),
    "glide": _glide(192, (1, 2, 3, 4), 64, 3, None),
    "glide-upsampler": _glide(192, (1, 1, 2, 2, 4, 4), 256, 2, 3),
    "karlo-decoder": _karlo_decoder(),
    "karlo-upsampler": _karlo_upsampler(),
    "sd-1.5": _stable(_SD_CHANNELS, _SD, (8, 8, 8, 8), 768),
    "sd-2.1": _stable(_SD_CHANNELS, _SD, (5, 10, 20, 20), 1024),
    "sdxl": _stable(
        (320, 640, 1280), ("plain", "cross", "cross"), (5, 10, 20), 2048, transformer_layers=(1, 2, 10), ids=6
    ),
    "sdxl-refiner": _stable(
        (384, 768, 1536, 1536), ("plain", "cross", "cross", "plain"), (6, 12, 24, 24), 1280, transformer_layers=4, ids=5
    ),
    "edm2-xs": _edm2(128),
    "edm2-s": _edm2(192),
    "edm2-m": _edm2(256, 0.1),
    "edm2-l": _edm2(320, 0.1),
    "edm2-xl": _edm2(384, 0.1),
    "edm2-xxl": _edm2(448, 0.1),
}


def unet_model(name: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The keywords of a published U-Net, with `changes` in their place; those of `hearing` are joined. UserError for no such
    name."""
    found = copy.deepcopy(UNET_MODELS[one_of("model", name, UNET_MODELS)])
    told = dict(changes or {})
    if "hearing" in told:
        told["hearing"] = found.get("hearing", {}) | dict(told["hearing"])
    return found | told
