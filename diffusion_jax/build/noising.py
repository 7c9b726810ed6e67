"""The groups `schedule` and `loss` of a diffusion config: schedules, times, weightings, predictions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import process
from diffusion_jax.build.constructors import Spec, accepts, as_declared, complete, construct
from diffusion_jax.build.own import pick
from diffusion_jax.process import weighting
from diffusion_jax.process.importance import Importance
from diffusion_jax.process.prediction import KINDS
from diffusion_jax.typing import Schedule, UserError, one_of

__all__ = ["PREDICTIONS", "SCHEDULES", "TIMES", "WEIGHTS", "loss", "loss_options", "schedule"]


def _shifted(base: Any, shift: float) -> Schedule:
    """Another schedule, by its name or as a group, with `shift` times its sigma / alpha."""
    group = {"name": base} if isinstance(base, str) else base
    if not isinstance(group, Mapping | ConfigDict) or "name" not in group:
        raise UserError(f"config key 'schedule.base' is {base!r}; it is the name of a schedule, or a group with a name")
    return process.Shifted(schedule(group), shift)


SCHEDULES: dict[str, Callable[..., Any]] = {
    "vp_linear": process.VPLinear,
    "sub_vp": process.SubVP,
    "cosine": process.Cosine,
    "ve": process.VE,
    "edm": process.EDM,
    "rectified_flow": process.RectifiedFlow,
    "discrete": process.Discrete,
    "shifted": _shifted,
}
"""By name; a learned schedule has none, for its parameters are trained with a network's, which no config does."""
TIMES: dict[str, Callable[..., Any]] = {
    "uniform": process.times.uniform,
    "stratified": process.times.stratified,
    "logit_normal": process.times.logit_normal,
    "log_normal": process.times.log_normal,
    "mode": process.times.mode,
    "cosmap": process.times.cosmap,
    "importance": Importance,
}
WEIGHTS: dict[str, Callable[..., weighting.Weighting]] = {
    "simple": weighting.simple,
    "eps_simple": weighting.eps_simple,
    "flow_matching": weighting.flow_matching,
    "vlb": weighting.vlb,
    "vlb_discrete": weighting.vlb_discrete,
    "likelihood": weighting.likelihood,
    "edm": weighting.edm,
    "min_snr": weighting.min_snr,
    "p2": weighting.p2,
    "sigmoid": weighting.sigmoid,
}
PREDICTIONS = (*KINDS, "edm")


def schedule(spec: Spec) -> Schedule:
    """The schedule of a config's `schedule` group.

    One of one's own may be any frozen dataclass of numbers; it is handed to compiled functions as what it is, and need not be a
    pytree (`typing.pytree_dataclass`), which one with arrays has to be.
    """
    made = construct("schedule", SCHEDULES, spec)
    complete("schedule", spec["name"], made, Schedule)
    _check_inverse(spec["name"], made)
    leaves = jax.tree.leaves(made)
    if len(leaves) == 1 and leaves[0] is made:
        try:
            hash(made)
        except TypeError as error:
            raise UserError(
                f"schedule {spec['name']!r} is neither a pytree nor hashable: make it a frozen dataclass"
            ) from error
        jax.tree_util.register_static(type(made))
    return made


def _check_inverse(name: str, made: Schedule) -> None:
    """UserError for a schedule of one's own whose `t_from_logsnr` is not the inverse of its `logsnr`."""
    if name in SCHEDULES:
        return
    with jax.ensure_compile_time_eval():
        times = jnp.linspace(made.t_min, made.t_max, 5)[1:-1]
        back = np.asarray(made.t_from_logsnr(made.logsnr(times)))
    worst = int(np.argmax(np.abs(back - np.asarray(times))))
    if not np.allclose(back, times, atol=1e-2):
        raise UserError(
            f"schedule {name!r}: t_from_logsnr(logsnr({times[worst]:.3g})) is {back[worst]:.3g}; it is to be that time"
        )


def loss(spec: Spec) -> dict[str, Any]:
    """The `space`, `weight` and `sample_t` of a config's `loss` group, for `systems.diffusion.loss.diffusion_loss`.

    The optional groups `weight_options` and `times_options` hold the keyword arguments of the weighting and the times.
    """
    accepts("loss", loss_options, spec)
    weight, times = spec["weight"], spec["times"]
    chosen = {}
    for key in ("weight_options", "times_options"):
        chosen[key] = spec.get(key, {})
        if not isinstance(chosen[key], Mapping | ConfigDict):
            raise UserError(f"config key 'loss.{key}' is {chosen[key]!r}; it is a group of keys")
    sampler, options = pick("loss.times", times, TIMES), chosen["times_options"]
    made = inspect.isclass(sampler)
    accepts(f"loss.times {times!r}", sampler, options, () if made else ("key", "n", "schedule"))
    options = as_declared(sampler, options)
    return {
        "space": one_of("loss.space", spec["space"], KINDS),
        "weight": construct("loss.weight", WEIGHTS, {"name": weight, **chosen["weight_options"]}),
        "sample_t": sampler(**options) if made else functools.partial(sampler, **options),
    }


def loss_options(
    space: str,
    weight: str,
    times: str,
    weight_options: Any = None,
    times_options: Any = None,
    uncertainty: bool = False,
) -> None:
    """The keys of a diffusion config's `loss` group; those with a default may be absent."""
