"""The groups `model` and `loss` of a CLIP config: the dual encoder, its sizes, and the contrastive loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diffusion_jax.build.constructors import Spec, accepts, as_declared
from diffusion_jax.build.networks import compute_dtype
from diffusion_jax.nets import CLIP, CLIP_MODELS, Network, TextTransformer, complete
from diffusion_jax.nets.clip import TOWERS
from diffusion_jax.typing import UserError, one_of

__all__ = [
    "CONTRASTIVE", "HOW", "beside_preset", "clip_network", "clip_options", "clip_sizes", "contrastive_loss",
]  # fmt: skip

CONTRASTIVE: dict[str, Any] = {"chunk": 0, "micro_batches": 1, "identity": False}
"""The options of a contrastive loss beside its name."""


def contrastive_loss(spec: Spec | None, *, logit_bias: bool) -> dict[str, Any]:
    """The `loss` group of a CLIP config: name ("infonce", "sigmoid"), chunk, micro_batches, identity.

    `chunk` is 0 for whole logits, or how many columns of them stand at once on a device. Without a group, the loss that
    the model was made for. UserError for numbers that are no sizes, and for "sigmoid" without a logit bias.
    """
    options: dict[str, Any] = {"name": "sigmoid" if logit_bias else "infonce", **CONTRASTIVE}
    for key, value in dict(spec or {}).items():
        options[one_of("config key of loss:", key, options)] = value
    one_of("loss", options["name"], ("infonce", "sigmoid"))
    for key, least in (("chunk", 0), ("micro_batches", 1)):
        if not isinstance(options[key], int) or options[key] < least:
            raise UserError(f"config key 'loss.{key}' is {options[key]!r}; it is a whole number of at least {least}")
    if options["name"] == "sigmoid" and not logit_bias:
        raise UserError("loss 'sigmoid' needs model.logit_bias=True; nearest: loss 'infonce'")
    return options


def clip_sizes(spec: Spec, **given: Any) -> dict[str, Any]:
    """Every size of the dual encoder of a config's `model` group, as keyword arguments of `nets.CLIP`.

    The group has `embed`, `vision` and `text`, or the name of a published model as `preset` and in `vision` and `text` what
    differs from it. `given` are sizes that the data decide: image_size, channels, vocabulary_size; None leaves one
    to the group.
    """
    one_of("model", spec["name"], ("clip",))
    accepts("model 'clip'", clip_options, [key for key in spec if key != "name"])
    base: Mapping[str, Any] = {"vision": {}, "text": {}}
    if spec.get("preset"):
        base = CLIP_MODELS[one_of("model.preset", spec["preset"], CLIP_MODELS)]
    elif any(spec.get(key) is None for key in ("embed", "vision", "text")):
        raise UserError("model 'clip' needs 'embed', 'vision' and 'text', or a 'preset' such as 'ViT-B-16'")
    decided = {key: value for key, value in given.items() if value is not None}
    made: dict[str, Any] = {"embed": spec.get("embed") or base["embed"]}
    made["logit_bias"] = spec.get("logit_bias", base.get("logit_bias", False))
    for key, names in (("vision", ("image_size", "channels")), ("text", ("vocabulary_size",))):
        own = {name: decided[name] for name in names if name in decided}
        options = {**base[key], **spec.get(key, {})}
        make: Callable[..., Any] = TextTransformer
        if key == "vision":
            make = TOWERS[one_of("model.vision.tower", options.get("tower", "vit"), TOWERS)]
        asked = [name for name in options if name != "tower" and (name not in own or name in spec.get(key, {}))]
        accepts(f"model.{key}", make, asked, {*own, *HOW, "embed"})
        made[key] = as_declared(make, {**options, **own})
    return complete(made)


HOW = ("scan", "remat", "norm", "dtype")
"""Keys of the group itself that say how both towers are computed."""


def beside_preset(spec: Spec) -> str:
    """Where a config's `model` group names a published size and says something else beside it; "" where it does not.

    Such a key takes the place of the preset's, which is meant for an image size and surprises in a width.
    """
    if not spec.get("preset"):
        return ""
    base = CLIP_MODELS[spec["preset"]]
    own = {
        f"{tower}.{key}": (value, base[tower].get(key))
        for tower in ("vision", "text")
        for key, value in (spec.get(tower) or {}).items()
    }
    own["embed"] = (spec.get("embed"), base["embed"])
    told = [
        f"model.{key} {value!r} in place of {there!r}"
        for key, (value, there) in own.items()
        if value not in (None, there)
    ]
    return (
        f"model.preset {spec['preset']!r} with {', '.join(told)} (--config.model.vision={{}} empties a group)"
        if told
        else ""
    )


def clip_network(spec: Spec, **given: Any) -> Network:
    """The dual encoder of a config's `model` group; `given` as in `clip_sizes`."""
    model = clip_sizes(spec, **given)
    how = {key: spec[key] for key in ("scan", "remat", "norm") if key in spec}
    how["dtype"] = compute_dtype(spec["dtype"])
    towers = {key: {**model[key], **how} for key in ("vision", "text")}
    return Network(lambda rngs: CLIP(rngs, **{**model, **towers}))


def clip_options(
    dtype: str,
    embed: int | None = None,
    vision: Any = None,
    text: Any = None,
    preset: str | None = None,
    logit_bias: bool = False,
    scan: bool = False,
    remat: str | None = None,
    norm: str = "saved",
) -> None:
    """The keys of a CLIP config's `model` group; those with a default may be absent."""
