"""The group `model` of a diffusion config: networks by name, the sizes that data and condition decide, how they compute.

A network is a module that takes (xt, time, cond). Its class says in `reads` which entries of a condition it can read and in
`needs` which it cannot do without; `sizes(shape, entries)` or `sizes(shape, entries, counts)`, where it has one, gives the
keywords that follow from the shape of an example, from the entries' shapes, and from how many values those have that are
indices. Without it a constructor is given `shape`, `entries` and `counts` if it has such keywords. `after_step`, a static
method from parameters to parameters, where it has one, is what training does after each step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffusion_jax.build.constructors import Spec, accepts, as_declared, signature_of, wanted
from diffusion_jax.build.own import is_own, pick
from diffusion_jax.nets import ConfigUNet, DiT, EDM2UNet, Network, PriorTransformer, VectorMLP
from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["GIVEN", "NETWORKS", "compute_dtype", "diffusion_network", "given_to", "kept", "network_keywords"]

NETWORKS: dict[str, Callable[..., Any]] = {
    "dit": DiT,
    "edm2_unet": EDM2UNet,
    "mlp": VectorMLP,
    "prior": PriorTransformer,
    "unet": ConfigUNet,
}
SHAPES = ("shape", "entries", "counts")
GIVEN = (
    *SHAPES, "dim", "image_size", "channels", "pooled", "context", "context_length", "classes", "embedding", "image", "level",
    "augment", "in_channels", "ids", "tokens", "guidance",
)  # fmt: skip
"""Keywords of networks that the data and the condition decide."""


def given_to(name: Any) -> tuple[str, ...]:
    """Those of the network of this name: of one of one's own that has no `sizes`, the shapes alone."""
    if not (isinstance(name, str) and (name in NETWORKS or is_own(name))):
        return GIVEN
    make = pick("model", name, NETWORKS)
    if name not in NETWORKS and not hasattr(make, "sizes"):
        return SHAPES
    return tuple(keyword for keyword in GIVEN if keyword not in getattr(make, "chosen", ()))


def compute_dtype(name: str) -> Any:
    """The dtype of a network's computation: "auto" is bfloat16 on an accelerator and float32 on a CPU."""
    one_of("dtype", name, ("auto", "float32", "bfloat16"))
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(name)


def kept(params: Params, param_dtype: str) -> Params:
    """Parameters on the device, in "float32" or rounded to "bfloat16", leaf by leaf. UserError for another dtype."""
    dtype = jnp.dtype(one_of("param_dtype", param_dtype, ("float32", "bfloat16")))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)


def diffusion_network(
    spec: Spec,
    shape: tuple[int, ...],
    entries: Mapping[str, tuple[int, ...]],
    counts: Mapping[str, int] = MappingProxyType({}),
) -> Network:
    """The network of a diffusion config's `model` group, for examples of `shape` and a condition of these `entries`.

    `entries` are the shapes of an example's, {"pooled": (64,), "length": ()}; `counts` says of those that are indices how many
    there are, {"label": classes + 1}. UserError for a condition that the network cannot read, and for one that it cannot do
    without.
    """
    make, keywords = network_keywords(spec, shape, entries, counts)
    return Network(lambda rngs: make(rngs, **keywords), after_step=getattr(make, "after_step", None))


def network_keywords(
    spec: Spec,
    shape: tuple[int, ...],
    entries: Mapping[str, tuple[int, ...]],
    counts: Mapping[str, int] = MappingProxyType({}),
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """(constructor, its keywords) of that network. UserError as `diffusion_network`."""
    name = spec["name"]
    make = pick("model", name, NETWORKS)
    if inspect.isclass(make) and not issubclass(make, nnx.Module):
        raise UserError(f"model {name!r} is a class, but no flax.nnx.Module")
    check_reads(name, make, entries)
    sizes = getattr(make, "sizes", None)
    if sizes is None:
        given = wanted(make, {"shape": shape, "entries": dict(entries), "counts": dict(counts)})
    else:
        given = sizes(shape, entries, **wanted(sizes, {"counts": counts}))
    options = {key: value for key, value in spec.items() if key != "name"}
    accepts(f"model {name!r}", make, options, given)
    if "dtype" in signature_of(make).parameters:
        options["dtype"] = compute_dtype(options.get("dtype", "auto"))
    options = as_declared(make, options)
    return make, {**given, **options}


def check_reads(name: str, make: Any, entries: Mapping[str, tuple[int, ...]]) -> None:
    """UserError unless a network of this class reads all `entries` of a condition and has those that it needs."""
    reads, needs = tuple(getattr(make, "reads", ())), tuple(getattr(make, "needs", ()))
    for entry in entries:
        if entry not in {*reads, *needs}:
            known = f"it reads {', '.join(reads)}" if reads else "it reads none"
            raise UserError(f"model {name!r} cannot read the condition's entry {entry!r} ({known})")
    for entry in needs:
        if entry not in entries:
            given = ", ".join(entries) or "nothing"
            raise UserError(f"model {name!r} needs a condition with {entry!r}; the config's gives {given}")
