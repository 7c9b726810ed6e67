"""Which groups a diffusion config may have, and what is wrong with their values together."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.build import guidance as guidances
from diffusion_jax.build.constructors import parameters
from diffusion_jax.build.keys import REQUIRED, Group, chosen, group_of, named_group, spec_at
from diffusion_jax.build.networks import NETWORKS, given_to
from diffusion_jax.build.noising import SCHEDULES, TIMES, WEIGHTS, loss, loss_options, schedule
from diffusion_jax.build.own import pick
from diffusion_jax.build.samplers import grid, solver
from diffusion_jax.build.sources import (
    ALTERED,
    AUGMENTATION,
    GENERATIVE,
    READING,
    SOURCES,
    altered,
    augmentation,
    check_pictures,
    gives_pictures,
    reading,
)
from diffusion_jax.systems.diffusion.conditions import CONDITIONS
from diffusion_jax.systems.diffusion.conditions import GIVEN as CONDITION_GIVEN
from diffusion_jax.systems.diffusion.spaces import GIVEN as SPACE_GIVEN
from diffusion_jax.systems.diffusion.spaces import SPACES
from diffusion_jax.typing import Prediction, Schedule, UserError

__all__ = ["KEYS", "OPTIONAL", "check", "check_cached", "check_sampler", "groups"]

KEYS: dict[str, Any] = {"prediction": REQUIRED, "time": REQUIRED, "sigma_data": 0.5}
"""The keys that stand in no group."""
OPTIONAL = ("condition", "space", "preprocess")
"""Groups that a diffusion config may be without."""


def groups(config: ConfigDict) -> dict[str, Group]:
    """Every group that this config may have, by its dotted name."""
    said, sampler = spec_at(config, "loss"), spec_at(config, "sampler")
    found = {
        "data": _data(config),
        "preprocess": Group("preprocess", None, GENERATIVE),
        **_condition(config),
        "space": named_group("space", SPACES, config, SPACE_GIVEN, first="pixels", silent=True),
        "model": _model(config),
        "schedule": named_group("schedule", SCHEDULES, config),
        "loss": Group("loss", None, parameters(loss_options)),
    }
    if "base" in found["schedule"].defaults and found["schedule"].name in (None, "shifted"):
        within = spec_at(config, "schedule").get("base")
        name = chosen(within.get("name") if isinstance(within, ConfigDict) else within, SCHEDULES)
        plain = {key: make for key, make in SCHEDULES.items() if key != "shifted"}
        found["schedule.base"] = group_of(f"schedule.base {name!r}", "schedule.base", name, plain).beside(name=REQUIRED)
    for key, table in (("weight", WEIGHTS), ("times", TIMES)):
        name = chosen(said.get(key), table)
        found[f"loss.{key}_options"] = group_of(
            f"loss.{key} {name!r}", f"loss.{key}", name, table, ("key", "n", "schedule")
        )
    keys = ("solver", "num_steps", "guidance_scale")
    found["sampler"] = Group("sampler", None, dict.fromkeys(keys, REQUIRED) | {"grid": "natural", "guidance": None})
    named = sampler.get("guidance")
    named = named.get("name", "classifier_free") if isinstance(named, ConfigDict) else named
    named = "classifier_free" if named is None else named
    guidances.check_named(named)
    name = chosen(named, guidances.GUIDANCE)
    rule = group_of(f"guidance {name!r}", "guidance", name, guidances.GUIDANCE, guidances.GIVEN)
    found["sampler.guidance"] = rule.beside(**dict.fromkeys(guidances.LIMITS), name="classifier_free")
    return found


def _condition(config: ConfigDict) -> dict[str, Group]:
    """The condition's, and of several those of each part, `condition.parts.NAME`."""
    found = {"condition": named_group("condition", CONDITIONS, config, CONDITION_GIVEN, first="none")}
    if "parts" not in found["condition"].defaults:
        return found
    parts = spec_at(spec_at(config, "condition"), "parts")
    found["condition.parts"] = Group("condition.parts", None, dict.fromkeys(parts, REQUIRED))
    for name in parts:
        group = named_group(name, CONDITIONS, parts, CONDITION_GIVEN)
        defaults = {key: default for key, default in group.defaults.items() if key != "parts"}
        label = f"condition part {name!r}"
        found[f"condition.parts.{name}"] = dataclasses.replace(group, label=label, defaults=defaults)
    return found


def _data(config: ConfigDict) -> Group:
    """Of arrays a shift, of pictures how they are read; of both how they are altered."""
    name = chosen(spec_at(config, "data").get("name"), SOURCES)
    reading = {key: default for key, default in READING.items() if key != "eval_pairs"}
    shift = {"shift": AUGMENTATION["shift"]}
    beside = shift | reading if name is None else reading if gives_pictures({"name": name}) else shift
    return named_group("data", SOURCES, config, ("split",)).beside(**beside, **ALTERED)


def _model(config: ConfigDict) -> Group:
    """The network's, whose `dtype` is a name here, "auto" where nothing is said (`build.networks.compute_dtype`)."""
    found = named_group("model", NETWORKS, config, given_to(spec_at(config, "model").get("name")))
    if "dtype" not in found.defaults:
        return found
    return dataclasses.replace(found, defaults={**found.defaults, "dtype": "auto"})


def check(config: ConfigDict) -> None:
    """UserError for values that are right alone and wrong together, as the constructors find them."""
    check_pictures(config)
    check_cached(config)
    model, sampler = config.model, config.sampler
    ratio, width = model.get("mlp_ratio"), model.get("width", 1)
    if ratio is not None and round(width * ratio) < 1:
        raise UserError(f"config key 'model.mlp_ratio' is {ratio}: {width} times it is below 1; usual: 4.0")
    made = schedule(config.schedule)
    loss(config.loss)
    if pick("condition", (config.get("condition") or {"name": "none"})["name"], CONDITIONS) is not CONDITIONS["none"]:
        check_sampler(sampler, made, config.prediction)
        return
    check_sampler(sampler, made)
    if sampler.get("guidance") is not None or sampler.guidance_scale != 1:
        raise UserError(
            f"config key 'sampler.guidance_scale' is {sampler.guidance_scale}: without a condition there is nothing to "
            "guide by; nearest: 1.0, without a guidance"
        )


def check_sampler(sampler: ConfigDict, made: Schedule, prediction: str | None = None) -> None:
    """UserError for a sampler that cannot be made, or not under the schedule `made`; its guidance, of a model that is told
    something and predicts `prediction`."""
    solver(sampler.solver)
    grid(sampler.get("grid", "natural"), sampler.num_steps, made)
    guidance = sampler.get("guidance")
    if guidance is not None:
        guidances.check(guidance)
        guidances.check_solver(guidance, sampler.solver)
    if prediction is not None:
        kind = "x0" if prediction == "edm" else prediction
        # A rule whose scale or option is out of its range says so when it is made, which would be after the first steps.
        null = {"pooled": np.zeros((1, 1), np.float32)}
        guidances.guided(guidance, _no_network, null, sampler.guidance_scale, schedule=made, prediction=kind)


def check_cached(config: ConfigDict) -> None:
    """UserError for what alters pictures by chance where x0 is made of them once and kept."""
    if not (config.get("space") or {}).get("cache"):
        return
    said: dict[str, tuple[Any, Any]] = {"augment": (altered(config.data)["augment"], 0.0)}
    if gives_pictures(config.data):
        how = reading(config.data)
        said["crop"] = (how["crop"], "none" if how["crop"] == "none" else "center")
        if config.space.get("name") != "latents":  # whose cache has pictures turned too
            said["flip"] = (how["flip"], False)
    else:
        said["shift"] = (augmentation(config.data)["shift"], 0.0)
    for key, (value, still) in said.items():
        if value != still:
            raise UserError(
                f"config key 'data.{key}' is {value!r}, and with 'space.cache' x0 is made once, of pictures that nothing "
                f"alters; nearest: {still!r}, or no cache"
            )


def _no_network(xt: Any, t: Any, cond: Any = None) -> Prediction:
    """Stands where a denoiser will: rules are made round it, and never called."""
    raise AssertionError("a rehearsal draws nothing")
