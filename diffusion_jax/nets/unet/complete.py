"""A U-Net's keywords with every default told, so that two networks can be compared and one be written down."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from diffusion_jax.nets.unet.hearing import Hearing
from diffusion_jax.nets.unet.unet import UNet

__all__ = ["complete_unet"]

SIZES = ("classes", "level", "embedding", "pooled", "ids", "augment", "tokens")
COMPUTED = ("scan", "remat", "norm", "dtype", "rngs", "self")
"""Keywords that say how it is computed, not what."""


def complete_unet(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every keyword of `UNet` that changes its weights or its output, one value a level where there may be several.

    Two configs that compute the same come out equal: what nothing uses is set to one value.
    """
    made = _defaults(UNet) | {name: value for name, value in config.items() if name not in COMPUTED}
    count = len(made["channels"])

    def each(value: Any) -> tuple[Any, ...]:
        return tuple(value) if isinstance(value, list | tuple) else (value,) * count

    heard = {name: made.pop(name) for name in SIZES if made.get(name) not in (None, False)} | dict(made.pop("hearing"))
    for name in SIZES:
        made.pop(name, None)
    entrance = made["first"] or made["channels"][0]
    heard = _defaults(Hearing) | {"base": entrance, "act": made["act"]} | heard
    heard["width"] = heard["width"] or 4 * entrance
    heard["time_features"] = heard["time_features"] or entrance
    heard.pop("base")
    made["channels"] = tuple(made["channels"])
    for name in ("layers", "down", "resample", "only_text", "transformer_layers", "activate", "out_scale"):
        made[name] = each(made[name])
    made["first"] = entrance
    made["out_channels"] = made["out_channels"] or made["in_channels"]
    made["up"] = made["down"] if made["up"] is None else each(made["up"])
    made["up_resample"] = made["resample"] if made["up_resample"] is None else each(made["up_resample"])
    dims = each(made.pop("head_dim"))
    counts = each(made["heads"])
    made["heads"] = tuple(
        number or (1 if dim is None else width // dim) for number, dim, width in zip(counts, dims, made["channels"])
    )
    made["up_heads"] = made["heads"] if made["up_heads"] is None else each(made["up_heads"])
    made["middle_heads"] = made["middle_heads"] or made["heads"][-1]
    context = made["context"] if made["context"] is not None else heard["context"] or heard["tokens"]
    made["context"] = each(context)
    depths = made["up_transformer_layers"]
    made["up_transformer_layers"] = made["transformer_layers"] if depths is None else each(depths)
    made["middle_only_text"] = bool(
        made["only_text"][-1] if made["middle_only_text"] is None else made["middle_only_text"]
    )
    made["middle_scale"] = made["out_scale"][-1] if made["middle_scale"] is None else made["middle_scale"]
    made["middle_activate"] = made["activate"][-1] if made["middle_activate"] is None else made["middle_activate"]
    made["act_out"] = made["act_out"] or made["act"]
    # What is never used may be anything.
    used = {"down": "heads", "up": "up_heads"}
    for side, name in used.items():
        made[name] = tuple(n if kind != "plain" else 1 for n, kind in zip(made[name], made[side]))
    if made["middle"] in (None, "plain", "single"):
        made["middle_heads"] = 1
    if made["middle"] != "attention":
        made["middle_groups"] = None
    elif made["middle_groups"] is None:
        made["middle_groups"] = made["groups"]
    if made["middle"] != "added":
        made["middle_only_text"] = False
    texts = [kind in ("cross", "added") for kind in made["down"]]
    if not any(texts) and made["middle"] not in ("cross", "added"):
        made["context"] = (None,) * count
    for side, name in (("down", "transformer_layers"), ("up", "up_transformer_layers")):
        depths = [d if kind == "cross" else 1 for d, kind in zip(made[name], made[side])]
        if side == "down" and made["middle"] == "cross":
            depths[-1] = made[name][-1]  # the middle's as well
        made[name] = tuple(depths)
    for name in ("resample", "up_resample"):
        made[name] = (*made[name][:-1], "conv") if name == "resample" else ("conv", *made[name][1:])
    return {**made, "hearing": heard}


def _defaults(cls: type) -> dict[str, Any]:
    found = inspect.signature(cls.__init__).parameters
    return {name: p.default for name, p in found.items() if name not in COMPUTED and p.default is not p.empty}
