"""Which groups a CLIP config may have, and what is wrong with their values together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.build.constructors import parameters
from diffusion_jax.build.keys import REQUIRED, Group, chosen, named_group, spec_at
from diffusion_jax.build.sources import (
    AUGMENTATION,
    READING,
    SOURCES,
    TOKENIZERS,
    cropping,
    gives_pictures,
    preprocess,
    reading,
)  # fmt: skip
from diffusion_jax.data.pictures.preprocess import Preprocess
from diffusion_jax.nets import CLIP_MODELS, TextTransformer
from diffusion_jax.nets.clip import TOWERS
from diffusion_jax.systems.clip.network import CONTRASTIVE, HOW, clip_options, clip_sizes, contrastive_loss
from diffusion_jax.typing import UserError

__all__ = ["OPTIONAL", "check", "groups"]

OPTIONAL = ("tokenizer", "preprocess", "zero_shot", "weights", "loss")
"""Groups that a CLIP config may be without."""


def groups(config: ConfigDict) -> dict[str, Group]:
    """Every group that this config may have, by its dotted name."""
    name = chosen(spec_at(config, "data").get("name"), SOURCES)
    arrays = name is not None and not gives_pictures({"name": name})
    found = {
        "data": named_group("data", SOURCES, config, ("split",)).beside(**(AUGMENTATION if arrays else READING)),
        "tokenizer": named_group("tokenizer", TOKENIZERS, config, ("context_length", "vocabulary"), first="words"),
        "weights": Group("weights", None, {"path": "", "model": None, "preprocess": "same"}),
    }
    loss = {key: value for key, value in CONTRASTIVE.items() if not (arrays and key == "identity")}
    found["loss"] = Group("loss", None, {"name": REQUIRED, **loss})
    if not arrays:
        found["preprocess"] = Group(
            "preprocess", None, {**parameters(Preprocess, ("crop",)), "size": None, "channels": None}
        )
        found["zero_shot"] = Group("zero_shot", None, {"path": "", "classes": None, "templates": "photo"})
    model = spec_at(config, "model")
    preset = chosen(model.get("preset"), CLIP_MODELS)
    # What a preset says is what a key is that the config leaves out.
    base: Mapping[str, Any] = CLIP_MODELS[preset] if preset else {"vision": {}, "text": {}}
    options = {"name": REQUIRED, **parameters(clip_options)}
    found["model"] = Group("model 'clip'", "clip", options | {"logit_bias": base.get("logit_bias", False)})
    said = spec_at(model, "vision").get("tower", base["vision"].get("tower", "vit"))
    tower = said if isinstance(said, str) and said in TOWERS else None
    given = (*HOW, "embed", *(("image_size", "channels") if arrays else ()))
    towers = [TOWERS[tower]] if tower else list(TOWERS.values())
    made = {key: default for make in towers for key, default in parameters(make, given).items()}
    texts = parameters(TextTransformer, (*HOW, "embed", "vocabulary_size"))
    found["model.vision"] = Group("model.vision", tower, _with({"tower": "vit", **made}, base["vision"]))
    found["model.text"] = Group("model.text", None, _with(texts, base["text"]))
    return found


def _with(defaults: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, with those of a preset in their place."""
    return {key: preset.get(key, default) for key, default in defaults.items()}


def check(config: ConfigDict) -> None:
    """UserError for values that are right alone and wrong together, as the constructors find them."""
    sizes = clip_sizes(config.model)
    contrastive_loss(config.get("loss"), logit_bias=sizes["logit_bias"])
    for name in ("vision", "text"):
        _hidden(f"model.{name}", sizes[name])
    if not gives_pictures(config.data):
        return
    patch, size = sizes["vision"].get("patch", 1), sizes["vision"]["image_size"]
    if patch > size:
        raise UserError(f"config key 'model.vision.patch' is {patch}, above the image_size {size}; nearest: {size}")
    prepare, how = preprocess(config.get("preprocess"), sizes), reading(config.data)
    cropping(prepare, how)
    if how["crop"] == "none" and prepare.resize == "shortest":
        raise UserError(
            "config key 'data.crop' is 'none', so that training sees pictures whole, squashed, and preprocess.resize "
            "'shortest' shows the run the middle of each; nearest: preprocess.resize 'squash'"
        )
    kept = config.data.get("validation", 0.0) + config.data.get("test", 0.0)
    if kept >= 1:
        raise UserError(
            f"config keys 'data.validation' and 'data.test' sum to {kept:g}: nothing is left to train on; usual: 0.1 and 0"
        )


def _hidden(name: str, sizes: Mapping[str, Any]) -> None:
    """A ratio so small that nothing is left of the MLP."""
    ratio, width = sizes.get("mlp_ratio"), sizes.get("width")
    if ratio is not None and width is not None and round(width * ratio) < 1:
        raise UserError(f"config key '{name}.mlp_ratio' is {ratio}: {width} times it is below 1; usual: 4.0")
