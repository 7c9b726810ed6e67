"""Where two CLIP models compute something else: their settings, put beside each other.

A setting that a config leaves out has the default of `nets.CLIP`, and two ways to say the same thing are equal: a ratio is
compared as the hidden width it makes, an end token that is the last id as "the largest id". What only says how a model
is computed or trained (`HOW`) is left out, and so is `OPENING`, how a file is opened, which each library does its own way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_jax.typing import one_of

__all__ = ["DEFAULTS", "HOW", "OPENING", "Difference", "completed", "differences", "told"]

Config = dict[str, Any]

HOW = ("scan", "remat", "norm", "dtype", "patch_dropout", "init")
"""Arguments of a tower that do not change what it computes once it is trained."""
OPENING = ("rgb", "exif", "centre", "background")
_BLOCKS = {"mlp_ratio": 4.0, "activation": "quick_gelu", "eps": 1e-5}
DEFAULTS: dict[str, Config] = {
    "vit": {
        "image_size": 224, "channels": 3, "patch": 32, "width": 768, "layers": 12, "heads": 12, "pool": "class",
        "trim": False, "pre_norm": True, "norm_after_pool": False, **_BLOCKS,
    },
    "resnet": {"image_size": 224, "channels": 3, "width": 64, "layers": (3, 4, 6, 3), "heads": None},
    "text": {
        "vocabulary_size": 49408, "context_length": 77, "width": 512, "layers": 12, "heads": 8, "pool": "end",
        "end_token": None, "causal": None, "proj_bias": None, "projected": True, **_BLOCKS,
    },
    "preprocess": {"resize": "shortest", "size": None, "interpolation": "bicubic", "channels": 3},
}  # fmt: skip
"""What `nets.CLIP` and a `preprocess` group take where nothing is said; a test holds them together."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """A setting, such as "vision.heads", and its two values; `ABSENT` where one of the models has no such part."""

    key: str
    first: Any
    second: Any


ABSENT = "absent"


def told(found: Sequence[Difference], prefix: str = "") -> str:
    """Every difference in words: "vision.heads 4 there, 1 here", joined by commas."""
    return ", ".join(f"{prefix}{one.key} {one.first!r} there, {one.second!r} here" for one in found)


def completed(config: Mapping[str, Any]) -> Config:
    """`config` with every setting of its towers told. UserError for one that does not exist."""
    made: Config = {"logit_bias": False, **{key: value for key, value in config.items() if value is not None}}
    made["embed"] = config.get("embed")
    for tower in ("vision", "text"):
        if config.get(tower) is None:
            continue
        given = dict(config[tower])
        defaults = DEFAULTS["text"]
        if tower == "vision":
            defaults = DEFAULTS[one_of("tower", given.get("tower", "vit"), ("vit", "resnet"))]
        for key in given:
            one_of(f"setting {tower}.", key, (*defaults, *HOW, "tower"))
        made[tower] = {**defaults, **given}
    return made


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Every setting in which two models (keyword arguments of `nets.CLIP`, and "preprocess" where both have it) differ."""
    one, other = _settings(first), _settings(second)
    if first.get("preprocess") and second.get("preprocess"):
        one, other = one | _prepared(first), other | _prepared(second)
    keys = list(dict.fromkeys([*one, *other]))
    found = [Difference(key, one.get(key, ABSENT), other.get(key, ABSENT)) for key in keys]
    found = [each for each in found if not _equal(each.first, each.second)]
    # Another kind of tower has other settings: one line is enough.
    whole = [each.key.removesuffix("tower") for each in found if each.key in ("vision.tower", "text.tower")]
    return [each for each in found if each.key.endswith(".tower") or not each.key.startswith(tuple(whole))]


def _settings(config: Mapping[str, Any]) -> Config:
    """{"embed", "vision.heads", ...}: what a model computes, each in one spelling."""
    made = completed(config)
    flat: Config = {"embed": made["embed"], "logit_bias": bool(made["logit_bias"])}
    for tower in ("vision", "text"):
        if tower not in made:
            continue
        own = {key: value for key, value in made[tower].items() if key not in HOW}
        own = {"tower": own.pop("tower", "vit" if tower == "vision" else "transformer"), **own}
        if own["tower"] == "resnet":
            own["layers"] = tuple(own["layers"])
            own["heads"] = own["heads"] or own["width"] // 2
        else:
            own["mlp_ratio"] = round(own["width"] * own["mlp_ratio"]) / own["width"]
        own.pop("trim", None)  # follows from image_size and patch
        if tower == "text":
            family = {"causal": own["pool"] == "end", "proj_bias": own["pool"] == "last"}
            own |= {key: value for key, value in family.items() if own[key] is None}
            if own["pool"] != "end" or own["end_token"] == own["vocabulary_size"] - 1:
                own["end_token"] = None
        flat |= {f"{tower}.{key}": value for key, value in own.items()}
    return flat


def _prepared(config: Mapping[str, Any]) -> Config:
    found = {key: v for key, v in {**DEFAULTS["preprocess"], **config["preprocess"]}.items() if key not in OPENING}
    if found["size"] == (config.get("vision") or {}).get("image_size"):
        found["size"] = None  # nothing is cut off
    return {f"preprocess.{key}": tuple(v) if isinstance(v, list | tuple) else v for key, v in found.items()}


def _equal(first: Any, second: Any) -> bool:
    """Equal; numbers up to the digits that config files keep of a float32."""
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    if isinstance(first, float) and isinstance(second, int | float):
        return math.isclose(first, second, rel_tol=1e-6)
    return bool(first == second)
