"""Guidance by name, for configs and the command line: `guided({"name": "apg", "eta": 0.2, "interval": (0.3, 5)}, ...)`.

Beside the rule's own options a group may hold limits, which are applied in this order: `rescale` (the share phi),
`threshold` (a percentile of |x0|, dynamic thresholding to [-1, 1]) or `clip` (x0 to [-clip, clip]), and `interval` (low and
high sigma / alpha, outside of which nothing of it acts).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from diffusion_jax import sampling
from diffusion_jax.build import samplers
from diffusion_jax.build.constructors import Spec, accepts
from diffusion_jax.build.own import pick
from diffusion_jax.sampling.optional import from_pair
from diffusion_jax.typing import DenoiseFn, PyTree, Schedule, UserError

__all__ = [
    "GUIDANCE",
    "LIMITS",
    "check",
    "check_named",
    "check_negative",
    "check_solver",
    "guided",
    "is_plain",
    "spec_of",
]

GUIDANCE: dict[str, Callable[..., Any]] = {
    "classifier_free": sampling.classifier_free,
    "apg": sampling.apg,
    "cfg_plus_plus": sampling.cfg_plus_plus,
    "cfg_zero": sampling.cfg_zero,
}
FUNCTIONS = ("autoguidance", "classifier_guidance", "clip_guidance", "compose")
"""Kinds of guidance that need more than the run itself, and so have no name in a config."""

LIMITS = ("rescale", "threshold", "clip", "interval")
GIVEN = ("denoise", "null", "guidance_scale", "negative", "schedule")
OFF_AT_ONE = ("classifier_free", "apg", "cfg_zero")
"""Those that give the conditional prediction at scale 1. CFG++ noises x0 with the eps of the other at any scale."""


def spec_of(spec: Any) -> dict[str, Any]:
    """A name alone, or nothing (classifier-free guidance), as a group. Raises UserError for something else."""
    if spec is None or isinstance(spec, str):
        return {"name": spec or "classifier_free"}
    if not isinstance(spec, Mapping | ConfigDict):
        raise UserError(f"guidance is {spec!r}; it is a name or a group with a name")
    return {"name": "classifier_free", **spec}


def check_named(name: Any) -> None:
    """UserError for a kind of guidance that is there, and has no name in a config."""
    if name in FUNCTIONS:
        raise UserError(
            f"guidance {name!r} needs another model, a gradient or more prompts, and so has no name here: "
            f"call diffusion_jax.sampling.{name} in Python (by name: {', '.join(GUIDANCE)})"
        )


def check(spec: Any) -> dict[str, Any]:
    """The group of a guidance. UserError for an unknown name or option, and for limits that cannot be."""
    group = spec_of(spec)
    check_named(group["name"])
    name = group["name"]
    make = pick("guidance", name, GUIDANCE)
    own = [key for key in group if key not in ("name", *LIMITS)]
    allowed = _with_limits(make)
    accepts(f"guidance {name!r}", allowed, own, GIVEN)
    for key, value in group.items():
        numbers = np.ravel(np.asarray(value)) if key != "name" and value is not None else np.zeros(0)
        # The upper end of an interval may be infinite: all noise.
        if numbers.dtype.kind == "f" and (np.isnan(numbers).any() or (key != "interval" and np.isinf(numbers).any())):
            raise UserError(f"{key} {value!r} of guidance {name!r} is not finite")
    ends = group.get("interval")
    if ends is not None and (isinstance(ends, str) or np.shape(ends) != (2,)):
        raise UserError(f"interval {ends!r} is not a low and a high noise level, such as (0.3, 5)")
    if group.get("threshold") is not None and group.get("clip") is not None:
        raise UserError("threshold and clip are two ways to limit x0: give one of them")
    return group


def check_solver(spec: Any, solver: str) -> None:
    """UserError where the guidance does not go with the solver: CFG++'s pair is made for steps from the pair alone."""
    if spec_of(spec)["name"] == "cfg_plus_plus" and not from_pair(samplers.solver(solver)):
        others = [repr(name) for name in samplers.from_pair() if name != "ddim"]
        raise UserError(
            f"guidance 'cfg_plus_plus' needs a solver of first order, which {solver!r} is not; nearest: 'ddim' (or "
            f"{', '.join(others)})"
        )


def _with_limits(make: Callable[..., Any]) -> Callable[..., Any]:
    """Something whose signature is `make`'s and the limits', for messages that name all there is."""

    def options() -> None: ...

    limits = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in LIMITS]
    options.__signature__ = inspect.Signature([*inspect.signature(make).parameters.values(), *limits])  # type: ignore[attr-defined]
    return options


def is_plain(spec: Spec | str | None, guidance_scale: ArrayLike, negative: PyTree | None) -> bool:
    """Whether this comes down to the conditional prediction, which is one evaluation instead of two."""
    group = spec_of(spec)
    return bool(
        group["name"] == "classifier_free"
        and negative is None
        and isinstance(guidance_scale, int | float)
        and guidance_scale == 1
        and all(group.get(name) is None for name in LIMITS)
    )


def check_negative(spec: Spec | str | None, guidance_scale: Any, negative: Any) -> None:
    """UserError for something to keep away from where the guidance is off, and a negative changes nothing."""
    if negative is None or spec_of(spec)["name"] not in OFF_AT_ONE or isinstance(guidance_scale, jax.core.Tracer):
        return
    if np.all(np.asarray(guidance_scale) == 1):
        raise UserError(
            "guidance scale 1 is no guidance, so that a negative changes nothing: give another scale, or no negative"
        )


def guided(
    spec: Spec | str | None,
    denoise: DenoiseFn,
    null: PyTree,
    guidance_scale: ArrayLike = 1.0,
    negative: PyTree | None = None,
    *,
    schedule: Schedule,
    prediction: str,
) -> DenoiseFn:
    """`denoise` guided as `spec` says; `prediction` is what its network was trained to give. Raises UserError as `check`."""
    group = check(spec)
    if is_plain(group, guidance_scale, negative):
        return denoise
    make = pick("guidance", group["name"], GUIDANCE)
    options = {key: value for key, value in group.items() if key not in ("name", *LIMITS)}
    if "schedule" in inspect.signature(make).parameters:
        options["schedule"] = schedule
    made: Any = make(denoise, null, guidance_scale, negative, **options)
    if group.get("rescale") is not None:
        made = sampling.rescale(made, schedule, prediction, group["rescale"])
    if group.get("threshold") is not None:
        made = sampling.dynamic_threshold(made, schedule, group["threshold"])
    if group.get("clip") is not None:
        made = sampling.clip_x0(made, schedule, -group["clip"], group["clip"])
    if group.get("interval") is not None:
        made = sampling.interval(made, denoise, schedule, *(float(end) for end in group["interval"]))
    return made
