"""The names of LoRA files: which tensor is which half of the adapter of which weight.

Four habits, told apart name by name:

| whose | a name |
|---|---|
| PEFT, diffusers | `unet.P.lora_A.weight`, `unet.P.lora_B.weight`; also `base_model.model.P...`, and P alone |
| older diffusers | `unet.P.lora.down.weight`, `P.lora_linear_layer.down.weight` |
| oldest diffusers | `unet....attn1.processor.to_q_lora.down.weight` |
| kohya | `lora_unet_P.lora_down.weight`, `.lora_up.weight`, `.alpha`, where P has its dots as underscores |

P is the name of a weight, without its `.weight`, in diffusers' and transformers' layouts; kohya's of Stable Diffusion XL are
those of latent diffusion. The table of a network is made of its own entries (`unet_keys`, `unet_guided`, `clip_keys`), so that
a name is found there or is none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_jax.convert.clip_keys import entries as clip_entries
from diffusion_jax.convert.entries import Entry
from diffusion_jax.convert.unet_guided import guided_entries
from diffusion_jax.convert.unet_keys import entries as unet_entries
from diffusion_jax.typing import UserError

__all__ = ["COMPONENTS", "Named", "Place", "kohya", "named", "other_kind", "places"]

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
KOHYA = {"unet": "unet", "te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}
OTHER = {
    r"\.hada_": "LoHa", r"\.lokr_": "LoKr", r"\.dora_scale": "DoRA", r"\.lora_magnitude_vector": "DoRA",
    r"\.lora_mid\.": "LoRA of three factors", r"\.lora_B\.bias": "LoRA with biases", r"\.lora_embedding_": "LoRA of embeddings",
    r"\.diff(_b)?$": "differences of whole weights",
}  # fmt: skip
"""What else lies in files of adapters, by a pattern found in its names."""
_HALVES = {
    "lora_A.weight": "A", "lora_B.weight": "B", "lora_down.weight": "A", "lora_up.weight": "B", "down.weight": "A",
    "up.weight": "B", "alpha": "alpha",
}  # fmt: skip
_ENDING = "|".join(re.escape(ending) for ending in _HALVES)
_OURS = re.compile(rf"(?P<module>.+?)(?P<old>_lora)?\.(?:lora\.|lora_linear_layer\.)?(?P<half>{_ENDING})")
_THEIRS = re.compile(rf"lora_(?P<component>unet|te|te1|te2)_(?P<module>\w+)\.(?P<half>{_ENDING})")
_OLD_UNET = {"to_out": "to_out.0"}
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
TEXT = "text_model."


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the adapter of a weight lies here: the path of its layer, the part of a joined kernel, the layer of a stack.

    `shape` is the weight's in the file, [out, in] or [out, in, rows, columns].
    """

    layer: str
    part: str | None
    index: int | None
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Named:
    """What a name says: `half` "A", "B" or "alpha" of a `module`; `component` None where no prefix tells it.

    `flat` is kohya's habit, in which the module's dots are underscores.
    """

    component: str | None
    module: str
    half: str
    flat: bool = False


def other_kind(name: str) -> str | None:
    """What a tensor is that belongs to adapters of another kind, in a word; None for LoRA's."""
    return next((kind for pattern, kind in OTHER.items() if re.search(pattern, name)), None)


def named(name: str) -> Named | None:
    """What a name says, None for one of no habit."""
    if match := _THEIRS.fullmatch(name):
        return Named(KOHYA[match["component"]], match["module"], _HALVES[match["half"]], flat=True)
    component = next((part for part in COMPONENTS if name.startswith(f"{part}.")), None)
    match = _OURS.fullmatch(
        name.removeprefix(f"{component}.").removeprefix("base_model.model.").replace(".processor.", ".")
    )
    if match is None:
        return None
    *above, last = match["module"].split(".")
    if match["old"]:
        last = (_OLD_TEXT if "self_attn" in above else _OLD_UNET).get(last, last)
    return Named(component, ".".join((*above, last)), _HALVES[match["half"]])


def places(component: str, config: Mapping[str, Any], *, linear: bool = True) -> dict[str, Place]:
    """The weights of a network that may be adapted, by name; `linear` says how the ends of spatial transformers lie in files.

    `config` is that of `load_unet` or `load_clip`. UserError for one that is neither.
    """
    return _places(_entries(component, config, linear))


def kohya(component: str, config: Mapping[str, Any]) -> dict[str, Place]:
    """The same by kohya's names, those after latent diffusion's included."""
    found = places(component, config)
    if component == "unet":
        # What that layout cannot hold has no such names.
        with contextlib.suppress(UserError):
            found |= _places(guided_entries(config, order="parts", projections="linear"))
    return {name.replace(".", "_"): place for name, place in found.items()}


def _entries(component: str, config: Mapping[str, Any], linear: bool) -> list[Entry]:
    try:
        if component == "unet":
            return unet_entries(config, projections="linear" if linear else "conv")
        return clip_entries({"embed": config["embed"], "text": config["text"]}, "hf")
    except KeyError as error:
        reader = "load_unet, or nets.complete_unet," if component == "unet" else "load_clip"
        raise UserError(
            f"the config of {component} does not say {error.args[0]!r}: give one as {reader} makes it"
        ) from error


def _places(entries: Sequence[Entry]) -> dict[str, Place]:
    found = {}
    for entry in entries:
        if len(entry.ours) != 1 or not entry.ours[0].endswith("/kernel"):
            continue
        parts = ("q", "k", "v")[-len(entry.theirs) :] if len(entry.theirs) > 1 else (None,)
        for name, shape, part in zip(entry.theirs, entry.shapes, parts):
            if name.endswith(".weight") and len(shape) in (2, 4):
                layer = entry.ours[0].removesuffix("/kernel")
                found[name.removesuffix(".weight")] = Place(layer, part, entry.layer, shape)
    return found
