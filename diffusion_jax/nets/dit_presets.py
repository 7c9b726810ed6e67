"""The published diffusion transformers by name: keyword arguments of `nets.DiT` (DiT: arXiv 2212.09748, table 1).

A name is "dit", the size, the patch and the edge of the pictures, of which latents are an eighth: "dit-xl-2-256". All are of
ImageNet's 1000 classes and none, and give a variance beside eps. Times are steps from 0 to 999, as whole numbers are there.
"""

from __future__ import annotations

from typing import Any

from diffusion_jax.typing import one_of

__all__ = ["DIT_MODELS", "dit_model"]

_SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}  # width, layers, heads


def _dit(size: str, patch: int, edge: int) -> dict[str, Any]:
    width, layers, heads = _SIZES[size]
    return {
        "image_size": edge // 8, "channels": 4, "out_channels": 8, "patch": patch, "width": width, "layers": layers,
        "heads": heads, "mlp_ratio": 4.0, "classes": 1001, "time_scale": 1.0, "time_shift": 0.0, "eps": 1e-6,
    }  # fmt: skip


DIT_MODELS: dict[str, dict[str, Any]] = {
    f"dit-{size}-{patch}-{edge}": _dit(size, patch, edge)
    for edge in (256, 512)
    for size in _SIZES
    for patch in (2, 4, 8)
}
"""Weights were published of "dit-xl-2-256" and "dit-xl-2-512"; the others are of the paper."""


def dit_model(name: str) -> dict[str, Any]:
    """The keywords of a DiT by its name. UserError for no such name."""
    return dict(DIT_MODELS[one_of("model", name, DIT_MODELS)])
