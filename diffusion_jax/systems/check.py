"""What is wrong with a config, before anything is built: one line that names the key, its value and the nearest valid one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.build import guidance as steering
from diffusion_jax.build.key_ranges import range_of
from diffusion_jax.build.keys import OPTIONAL, REQUIRED, Group, groups, keys
from diffusion_jax.build.learning import contrastive_loss, ema, optimizer
from diffusion_jax.build.networks import clip_sizes, one_model
from diffusion_jax.build.noising import loss, schedule
from diffusion_jax.build.ranges import short
from diffusion_jax.build.samplers import grid, solver
from diffusion_jax.build.sources import PAIRS, SOURCES, preprocess, reading
from diffusion_jax.typing import Prediction, UserError, one_of

__all__ = ["check"]


def check(config: ConfigDict) -> None:
    """UserError for a key that nothing reads, one that is missing, a value out of its range, and values that do not agree."""
    range_of("", None, "system").check("system", config.get("system"))
    system = config.system
    known, inside = keys(config), groups(config)
    tops = {name.partition(".")[0] for name in (*known, *inside)}
    for key in config:
        one_of(f"config key of system {system!r}:", key, tops)
    needed = {key for key, found in known.items() if "." not in key and found.default is REQUIRED}
    needed |= {name for name in inside if "." not in name and not (system == "clip" and name in OPTIONAL)}
    for key in sorted(needed - set(config)):
        raise UserError(f"config key {key!r} is missing; a config of system {system!r} has one")
    if system == "diffusion" and isinstance(config.data, ConfigDict) and config.data.get("name") in list(PAIRS):
        raise UserError(
            f"config key 'data.name' is {config.data.name!r}: diffusion configs train on the digits alone ('digits'); "
            f"CLIP configs read {', '.join(PAIRS)} too"
        )
    _walk(config, "", Group("", None, dict.fromkeys(known.keys() | inside.keys())), inside, known, system)
    # A name that is wrong is told before the keys that go with it: a second walk looks at all others.
    for name, group in inside.items():
        spec = _at(config, name)
        if isinstance(spec, ConfigDict):
            _walk(spec, f"{name}.", group, inside, known, system)
    _agree(config, system)


def _walk(
    spec: ConfigDict, prefix: str, group: Group, inside: Mapping[str, Group], known: Mapping[str, Any], system: str
) -> None:
    """The keys that stand in one group."""
    for key in sorted(spec, key=lambda key: (key != "name", str(key))):
        dotted, value = f"{prefix}{key}", spec[key]
        if key not in group.defaults:
            near = difflib.get_close_matches(str(key), group.defaults, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{group.label} takes no {key!r}{hint} (it takes {', '.join(group.defaults) or 'nothing'})")
        if isinstance(value, ConfigDict) and dotted in inside:
            continue
        if value is None and system == "clip" and dotted in OPTIONAL:
            continue
        if dotted not in known:
            raise UserError(f"config key {dotted!r} is {short(value)}; it is a group of keys")
        known[dotted].range.check(dotted, value)
    for key, default in group.defaults.items():
        if prefix and default is REQUIRED and key not in spec and f"{prefix}{key}" not in inside:
            raise UserError(f"config key '{prefix}{key}' is missing; a config of system {system!r} has one")


def _at(config: ConfigDict, name: str) -> Any:
    node: Any = config
    for part in name.split("."):
        node = node.get(part) if isinstance(node, ConfigDict) else None
    return node


def _agree(config: ConfigDict, system: str) -> None:
    """Values that are right alone and wrong together, as the constructors find them."""
    one_model(config.model, {"clip": "clip", "diffusion": "dit"}[system])
    warmup = config.optimizer.get("warmup_steps", 0)
    if warmup >= config.steps:
        raise UserError(
            f"config key 'optimizer.warmup_steps' is {warmup} of the {config.steps} of key 'steps'; nearest: {config.steps - 1}"
        )
    optimizer(config.optimizer, config.steps)
    ema(config.ema)
    if system == "clip":
        _clip_agrees(config)
    else:
        _diffusion_agrees(config)


def _clip_agrees(config: ConfigDict) -> None:
    sizes = clip_sizes(config.model)
    contrastive_loss(config.get("loss"), logit_bias=sizes["logit_bias"])
    for name in ("vision", "text"):
        _hidden(f"model.{name}", sizes[name])
    if config.data.name in SOURCES:
        return
    patch, size = sizes["vision"].get("patch", 1), sizes["vision"]["image_size"]
    if patch > size:
        raise UserError(f"config key 'model.vision.patch' is {patch}, above the image_size {size}; nearest: {size}")
    preprocess(config.get("preprocess"), sizes)
    reading(config.data)
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


def _diffusion_agrees(config: ConfigDict) -> None:
    model, sampler = config.model, config.sampler
    _hidden("model", {"width": model.get("width", 1), "mlp_ratio": model.get("mlp_ratio")})
    made = schedule(config.schedule)
    loss(config.loss)
    solver(sampler.solver)
    grid(sampler.get("grid", "natural"), sampler.num_steps, made)
    guidance = sampler.get("guidance")
    if guidance is not None:
        steering.check(guidance)
        steering.check_solver(guidance, sampler.solver)
    kind = "x0" if config.prediction == "edm" else config.prediction
    # A rule whose scale or option is out of its range says so when it is made, which would be after the first steps.
    null = {"pooled": np.zeros((1, 1), np.float32)}
    steering.guided(guidance, _no_network, null, sampler.guidance_scale, schedule=made, prediction=kind)


def _no_network(xt: Any, t: Any, cond: Any = None) -> Prediction:
    """Stands where a denoiser will: rules are made round it, and never called."""
    raise AssertionError("a rehearsal draws nothing")
