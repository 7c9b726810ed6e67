"""A U-Net as a config names it: a published one, or a few sizes, and what follows from the pictures and the condition.

    config.model = ConfigDict({"name": "unet", "channels": (64, 128, 128), "layers": 2, "attention": (16,)})
    config.model = ConfigDict({"name": "unet", "preset": "ddpm++-cifar10"})

`attention` are sizes of the pictures: a level that works at one of them attends, to the text where the condition has one and in
the way that `text` says, else to itself. `image_tokens` are as many tokens more, made of the condition's `embedding` (unCLIP's
decoder: arXiv 2204.06125, section 2.1). What is given takes the preset's place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from diffusion_jax.nets.unet.presets import UNET_MODELS, unet_model
from diffusion_jax.nets.unet.unet import UNet
from diffusion_jax.typing import UserError

__all__ = ["BLOCKS", "CONFIGURABLE", "MODULATIONS", "RESAMPLES", "TEXTS", "ConfigUNet", "unet_keywords"]

CONFIGURABLE = tuple(name for name, sizes in UNET_MODELS.items() if "width" not in sizes and "unet" not in sizes)
"""The presets of `UNet` itself: EDM2's is a network of its own, and GLIDE has words of its own."""
TEXTS, RESAMPLES, MODULATIONS, BLOCKS = (
    ("cross", "added"),
    ("conv", "resnet", "pool"),
    ("shift", "scale_shift"),
    ("resnet", "convnext"),
)
KEPT = (
    "cosine_first",
    "shift",
    "time",
    "time_features",
    "fourier_scale",
    "fourier_log",
    "before",
    "post",
    "final",
    "width",
)
"""What of a preset's hearing is its own and does not follow from the condition."""


def unet_keywords(
    *,
    image_size: int,
    in_channels: int,
    classes: int | None = None,
    level: bool = False,
    embedding: int | None = None,
    pooled: int | None = None,
    ids: int | None = None,
    augment: int | None = None,
    tokens: int | None = None,
    image: int | None = None,
    preset: str | None = None,
    channels: Sequence[int] | None = None,
    layers: int | None = None,
    attention: Sequence[int] | None = None,
    text: str = "cross",
    heads: int | None = None,
    head_dim: int | None = None,
    resample: str | None = None,
    modulation: str | None = None,
    block: str | None = None,
    groups: int | None = None,
    image_tokens: int = 0,
    time_scale: float = 1.0,
    dropout_rate: float | None = None,
    scan: bool = False,
    remat: str | None = None,
    norm: str = "saved",
    dtype: Any = jnp.float32,
) -> dict[str, Any]:
    """What `UNet` is made with, of what a config and its data say. UserError for sizes that do not go together."""
    if preset is None and channels is None:
        raise UserError("a U-Net needs 'channels', such as (64, 128, 128), or a 'preset', such as 'ddpm++-cifar10'")
    made: dict[str, Any] = {"modulation": "scale_shift", "groups": None} if preset is None else unet_model(preset)
    heard = {name: value for name, value in made.pop("hearing", {}).items() if name in KEPT}
    widths = tuple(channels or made["channels"])
    if channels is not None:
        made["channels"] = widths
    if image_size % 2 ** (len(widths) - 1):
        raise UserError(
            f"pictures of {image_size} x {image_size} are not halved {len(widths) - 1} times, as channels {widths} would "
            "have it"
        )
    if image_tokens and embedding is None:
        raise UserError(f"image_tokens {image_tokens} are made of a picture's embedding, and the condition has none")
    if image_tokens:
        by, wide = ("image", widths[-1]) if tokens is None else ("text_image", tokens)
        heard |= {"tokens_by": by, "image_tokens": image_tokens, "context": wide}
    attends = text if tokens is not None or image_tokens else "attention"
    sizes = [image_size >> i for i in range(len(widths))]
    if attention is not None:
        wrong = [size for size in attention if size not in sizes]
        if wrong:
            raise UserError(f"attention at {wrong[0]} x {wrong[0]}: the levels work at {', '.join(map(str, sizes))}")
        made["down"] = tuple(attends if size in tuple(attention) else "plain" for size in sizes)
    elif len(made.get("down", ())) == len(widths) and not isinstance(made["down"], str):
        made["down"] = tuple(attends if kind != "plain" else "plain" for kind in made["down"])
    else:
        made["down"] = "plain"
    if made.get("middle", "attention") in ("attention", "cross", "added"):
        made["middle"] = attends
    if heads is not None or head_dim is not None:
        made |= {"heads": heads, "head_dim": head_dim}
    given = {
        "layers": layers, "resample": resample, "modulation": modulation, "block": block, "groups": groups,
        "dropout_rate": dropout_rate,
    }  # fmt: skip
    made |= {name: value for name, value in given.items() if value is not None}
    for name in ("in_channels", "out_channels", "image", "context"):
        made.pop(name, None)
    return {
        "in_channels": in_channels, "image": image, "classes": classes, "level": level, "embedding": embedding,
        "pooled": pooled, "ids": ids, "augment": augment, "tokens": tokens, "hearing": heard | {"time_scale": time_scale},
        "scan": scan, "remat": remat, "norm": norm, "dtype": dtype, **made,
    }  # fmt: skip


def _takes(declared: Callable[..., Any]) -> Callable[[Any], Any]:
    """A constructor of (self, rngs, **keywords) that says the keywords of `declared` as its own."""

    def told(init: Any) -> Any:
        own = inspect.signature(init).parameters
        keywords = inspect.signature(declared).parameters.values()
        init.__signature__ = inspect.Signature([own["self"], own["rngs"], *keywords])
        return init

    return told


class ConfigUNet(UNet):
    """`UNet` by a preset or by `channels`, for square pictures; see the module's docstring."""

    reads: ClassVar[tuple[str, ...]] = (
        "label", "embedding", "pooled", "ids", "level", "augment", "tokens", "length", "image",
    )  # fmt: skip

    chosen: ClassVar[tuple[str, ...]] = ("channels",)

    @staticmethod
    def sizes(
        shape: tuple[int, ...],
        entries: Mapping[str, tuple[int, ...]],
        counts: Mapping[str, int] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """As `UNet.sizes`. UserError for pictures that are not square."""
        found = UNet.sizes(shape, entries, counts)
        if shape[0] != shape[1]:
            raise UserError(f"a U-Net of a config draws square pictures [size, size, channels], not {tuple(shape)}")
        return {**found, "image_size": shape[0]}

    @_takes(unet_keywords)
    def __init__(self, rngs: nnx.Rngs, **keywords: Any) -> None:
        super().__init__(rngs, **unet_keywords(**keywords))
