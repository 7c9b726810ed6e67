"""Every key that a config may have, found from the constructors that its names pick.

`groups(config)` gives the groups and their keys, `keys(config)` the same flat: {dotted key: `Key`} with what it may be
(`key_ranges.RANGES`) and what it is when nothing is said. A key of a file that is not among them is read by nothing
and refused; one that the file lacks but that is among them may be set from the command line. Both functions take any
config, also one that is wrong: for a name that does not exist a group has the keys of all of its constructors.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.build.constructors import Spec, parameters
from diffusion_jax.build.guidance import GIVEN, GUIDANCE, LIMITS, check_named
from diffusion_jax.build.key_ranges import range_of
from diffusion_jax.build.learning import CONTRASTIVE, OPTIMIZERS
from diffusion_jax.build.networks import HOW, clip_options
from diffusion_jax.build.noising import SCHEDULES, TIMES, WEIGHTS, loss_options
from diffusion_jax.build.ranges import Range
from diffusion_jax.build.sources import PAIRS, READING, SOURCES, TOKENIZERS
from diffusion_jax.data.pictures.preprocess import Preprocess
from diffusion_jax.nets import CLIP_MODELS, DiT, TextTransformer
from diffusion_jax.nets.clip import TOWERS
from diffusion_jax.parallel.mesh import make_mesh
from diffusion_jax.train.ema import Ema

__all__ = ["OPTIONAL", "REQUIRED", "Group", "Key", "groups", "keys", "systems"]

REQUIRED: Any = inspect.Parameter.empty
"""The default of a key that a config cannot do without."""

COMMON = ("workdir", "seed", "steps", "batch_size", "log_every", "eval_every", "checkpoint_every")
OWN: dict[str, dict[str, Any]] = {
    "clip": {"locked": ()},
    "diffusion": {"locked": (), "text_encoder": REQUIRED, "prediction": REQUIRED, "time": REQUIRED, "sigma_data": 0.5},
}
"""The keys of a system that stand in no group, beside the common ones."""
OPTIONAL = ("tokenizer", "preprocess", "zero_shot", "weights", "loss")
"""Groups that a CLIP config may be without."""
NAME_OR_GROUP = ("sampler.guidance", "schedule.base")
"""What may be a name alone, or a group with a name and its options."""
FIRST = {"tokenizer": "words", "optimizer": "adamw"}
"""The name of a group that does not say it."""


@dataclasses.dataclass(frozen=True)
class Key:
    """What a key may be; `default` is what it is when it is absent, or REQUIRED."""

    range: Range
    default: Any = REQUIRED


@dataclasses.dataclass(frozen=True)
class Group:
    """A group's keys with their defaults; `label` is what messages call it, `name` the constructor that was picked."""

    label: str
    name: str | None
    defaults: Mapping[str, Any]


def systems() -> tuple[str, ...]:
    """The systems that a config may be of."""
    return tuple(OWN)


def keys(config: ConfigDict) -> dict[str, Key]:
    """Every dotted key that this config may have."""
    system = _chosen(config.get("system"), OWN)
    own = OWN[system] if system else {key: value for keys in OWN.values() for key, value in keys.items()}
    found = {key: Key(range_of("", None, key), default) for key, default in (_top() | own).items()}
    inside = groups(config)
    for group, known in inside.items():
        for key, default in known.defaults.items():
            if f"{group}.{key}" not in inside or f"{group}.{key}" in NAME_OR_GROUP:
                found[f"{group}.{key}"] = Key(range_of(group, known.name, key), default)
    return found


def groups(config: ConfigDict) -> dict[str, Group]:
    """Every group that this config may have, by its dotted name."""
    system = _chosen(config.get("system"), OWN)
    found = {
        "optimizer": _named("optimizer", OPTIMIZERS, config, ("total_steps", "clamp")),
        "ema": Group("ema", None, parameters(Ema)),
        "mesh": Group("mesh", None, parameters(make_mesh, ("devices",))),
    }
    if system == "clip" or system is None:
        found |= _clip_groups(config)
    if system == "diffusion" or system is None:
        found |= _diffusion_groups(config)
    return found


def _top() -> dict[str, Any]:
    return {"system": REQUIRED} | dict.fromkeys(COMMON, REQUIRED)


def _clip_groups(config: ConfigDict) -> dict[str, Group]:
    data = _spec(config, "data")
    digits = _chosen(data.get("name"), SOURCES) is not None
    found = {"tokenizer": _named("tokenizer", TOKENIZERS, config, ("context_length",))}
    found["weights"] = Group("weights", None, {"path": "", "model": None, "preprocess": "same"})
    loss = {key: value for key, value in CONTRASTIVE.items() if not (digits and key == "identity")}
    found["loss"] = Group("loss", None, {"name": REQUIRED, **loss})
    if digits:
        found["data"] = Group("data 'digits'", "digits", {"name": REQUIRED, "shift": REQUIRED, "noise": REQUIRED})
    else:
        pictures = _named("data", PAIRS, config, ("split",))
        found["data"] = dataclasses.replace(pictures, defaults={**pictures.defaults, **READING})
        found["preprocess"] = Group("preprocess", None, {**parameters(Preprocess, ("crop",)), "size": None})
        found["zero_shot"] = Group("zero_shot", None, {"path": "", "classes": None, "templates": "photo"})
    model = _spec(config, "model")
    found["model"] = Group("model 'clip'", "clip", {"name": REQUIRED, **parameters(clip_options)})
    preset = _chosen(model.get("preset"), CLIP_MODELS)
    base = CLIP_MODELS[preset] if preset else {"vision": {}}
    tower = _chosen(_spec(model, "vision").get("tower", base["vision"].get("tower", "vit")), TOWERS)
    given = (*HOW, "embed", *(("image_size", "channels") if digits else ()))
    made = _all_of([TOWERS[tower]] if tower else list(TOWERS.values()), given)
    found["model.vision"] = Group("model.vision", tower, {"tower": "vit", **made})
    found["model.text"] = Group("model.text", None, parameters(TextTransformer, (*HOW, "embed", "vocabulary_size")))
    return found


def _diffusion_groups(config: ConfigDict) -> dict[str, Group]:
    loss, sampler = _spec(config, "loss"), _spec(config, "sampler")
    found = {"data": Group("data 'digits'", "digits", {"name": REQUIRED, "shift": REQUIRED})}
    if _chosen(_spec(config, "data").get("name"), PAIRS):  # known, so that `checks` may say that CLIP alone reads them
        pictures = _named("data", PAIRS, config, ("split",))
        found["data"] = dataclasses.replace(pictures, defaults={**pictures.defaults, **READING})
    given = ("image_size", "channels", "pooled", "context", "dtype")
    found["model"] = Group("model 'dit'", "dit", {"name": REQUIRED, "dtype": REQUIRED, **parameters(DiT, given)})
    found["schedule"] = _named("schedule", SCHEDULES, config)
    if "base" in found["schedule"].defaults:
        said = _spec(config, "schedule").get("base")
        name = _chosen(said.get("name") if isinstance(said, ConfigDict) else said, SCHEDULES)
        made = _all_of(
            [make for key, make in SCHEDULES.items() if key == name or (name is None and key != "shifted")], ()
        )
        found["schedule.base"] = Group(f"schedule.base {name!r}", name, {"name": REQUIRED, **made})
    found["loss"] = Group("loss", None, parameters(loss_options))
    for key, table in (("weight", WEIGHTS), ("times", TIMES)):
        name = _chosen(loss.get(key), table)
        made = _all_of([table[name]] if name else list(table.values()), ("key", "n", "schedule"))
        found[f"loss.{key}_options"] = Group(f"loss.{key} {name!r}", name, made)
    keys = ("solver", "num_steps", "guidance_scale")
    found["sampler"] = Group("sampler", None, dict.fromkeys(keys, REQUIRED) | {"grid": "natural", "guidance": None})
    said = sampler.get("guidance")
    said = (
        "classifier_free"
        if said is None
        else said.get("name", "classifier_free")
        if isinstance(said, ConfigDict)
        else said
    )
    check_named(said)
    name = _chosen(said, GUIDANCE)
    made = _all_of([GUIDANCE[name]] if name else list(GUIDANCE.values()), GIVEN)
    made = {"name": "classifier_free", **made, **dict.fromkeys(LIMITS)}
    found["sampler.guidance"] = Group(f"guidance {name!r}", name, made)
    return found


def _named(
    group: str, table: Mapping[str, Callable[..., Any]], config: ConfigDict, given: tuple[str, ...] = ()
) -> Group:
    """The keys of the constructor that the group's name picks, or of all of them where it picks none."""
    name = _chosen(_spec(config, group).get("name", FIRST.get(group)), table)
    made = _all_of([table[name]] if name else list(table.values()), given)
    return Group(f"{group} {name!r}", name, {"name": REQUIRED, **made})


def _chosen(name: Any, table: Mapping[str, Any]) -> str | None:
    """The name where it is one of the table."""
    return name if isinstance(name, str) and name in table else None


def _all_of(makes: list[Callable[..., Any]], given: tuple[str, ...]) -> dict[str, Any]:
    return {key: default for make in makes for key, default in parameters(make, given).items()}


def _spec(config: Spec, group: str) -> Spec:
    """The group where it is one, else an empty one."""
    found = config.get(group)
    return found if isinstance(found, ConfigDict) else {}
