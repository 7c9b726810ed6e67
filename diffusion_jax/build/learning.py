"""The groups `optimizer`, `ema` and `mesh`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optax
from jax.sharding import Mesh

from diffusion_jax.build.constructors import Spec, construct, signature_of
from diffusion_jax.build.own import pick
from diffusion_jax.parallel.mesh import make_mesh
from diffusion_jax.train.ema import Average, Ema, HalfLife, PowerFunction
from diffusion_jax.train.optim import adamw, clamp_params, muon, projected
from diffusion_jax.typing import Params

__all__ = ["AVERAGES", "OPTIMIZERS", "ema", "mesh", "optimizer"]

AVERAGES: dict[str, Callable[..., Any]] = {"ema": Ema, "half_life": HalfLife, "power": PowerFunction}
OPTIMIZERS: dict[str, Callable[..., Any]] = {"adamw": adamw, "muon": muon}


def optimizer(
    spec: Spec,
    total_steps: int,
    clamp: Mapping[str, tuple[float, float]] | None = None,
    project: Callable[[Params], Params] | None = None,
) -> Any:
    """The optax transformation of a config's `optimizer` group over `total_steps` steps; `clamp` as in `train.optim.adamw`.

    `project` is what is done to the parameters after each step, and comes last of all.

    One of one's own is given `total_steps` and `clamp` where it has keywords for them; otherwise the bounds come after it.
    """
    spec = {"name": "adamw", **spec}
    made = construct("optimizer", OPTIMIZERS, spec, total_steps=total_steps, clamp=clamp)
    if clamp and "clamp" not in signature_of(pick("optimizer", spec["name"], OPTIMIZERS)).parameters:
        made = optax.chain(made, clamp_params(clamp))
    return made if project is None else optax.chain(made, projected(project))


def mesh(spec: Spec | None) -> Mesh:
    """The devices of a config's `mesh` group; without one, all of them along "data"."""
    return make_mesh(**dict(spec or {}))


def ema(spec: Spec, batch_size: int = 1) -> Average:
    """The parameter average of a config's `ema` group; `batch_size` is that of a step, for one that counts images."""
    spec = {"name": "ema", **spec}
    given = {"batch_size": batch_size} if spec["name"] == "half_life" else {}
    return construct("ema", AVERAGES, spec, **given)
