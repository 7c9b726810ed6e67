"""Which keys a config may have, found from the constructors that its names pick.

A `Group` is a group's keys with their defaults, a `Key` what one may be. Everything here takes any config, also one that is
wrong: for a name that does not exist a group has the keys of all of its constructors. A part of one's own has the keywords of
its constructor, which may be what their annotations say.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.build.constructors import Spec, parameters, signature_of
from diffusion_jax.build.learning import AVERAGES, OPTIMIZERS
from diffusion_jax.build.own import is_own, pick
from diffusion_jax.build.ranges import Range, declared
from diffusion_jax.parallel.mesh import make_mesh

__all__ = ["COMMON", "REQUIRED", "Group", "Key", "chosen", "common_groups", "group_of", "named_group", "spec_at"]

REQUIRED: Any = inspect.Parameter.empty
"""The default of a key that a config cannot do without."""

COMMON = ("workdir", "seed", "steps", "batch_size", "log_every", "eval_every", "checkpoint_every")
"""The keys of every system that stand in no group."""


@dataclasses.dataclass(frozen=True)
class Key:
    """What a key may be; `default` is what it is when it is absent, or REQUIRED."""

    range: Range
    default: Any


@dataclasses.dataclass(frozen=True)
class Group:
    """A group's keys with their defaults; `label` is what messages call it, `name` the constructor that was picked.

    `ranges` are those of the keywords of a constructor of one's own, which no table has rows for.
    """

    label: str
    name: str | None
    defaults: Mapping[str, Any]
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)

    def beside(self, **defaults: Any) -> Group:
        """The group with keys more, but for those that it has."""
        return dataclasses.replace(self, defaults={**defaults, **self.defaults})


def common_groups(config: ConfigDict) -> dict[str, Group]:
    """The groups of every system, by their names."""
    return {
        "optimizer": named_group("optimizer", OPTIMIZERS, config, ("total_steps", "clamp"), first="adamw"),
        "ema": named_group("ema", AVERAGES, config, ("batch_size",), first="ema", silent=True),
        "mesh": Group("mesh", None, parameters(make_mesh, ("devices",))),
    }


def named_group(
    group: str,
    table: Mapping[str, Callable[..., Any]],
    config: Spec,
    given: tuple[str, ...] = (),
    *,
    first: str | None = None,
    silent: bool = False,
) -> Group:
    """The keys of the constructor that the group's name picks, or of all of them where it picks none.

    `given` are keywords that are not the user's to set, `first` the name where the group says none, which it need
    not do where it may be `silent`.
    """
    told = spec_at(config, group).get("name")
    name = chosen(first if told is None else told, table)
    found = group_of(group if silent and told is None else f"{group} {name!r}", group, name, table, given)
    return dataclasses.replace(found, defaults={"name": first if silent else REQUIRED, **found.defaults})


def group_of(
    label: str, what: str, name: str | None, table: Mapping[str, Callable[..., Any]], given: tuple[str, ...] = ()
) -> Group:
    """The keys of one constructor of a table, or of one's own, or of all of the table."""
    if name is None:
        everything: dict[str, Any] = {}
        for make in table.values():
            everything = parameters(make, given) | everything
        return Group(label, None, everything)
    make = pick(what, name, table)
    ranges = {}
    if is_own(name) and name not in table:
        known = signature_of(make).parameters
        ranges = {key: declared(known[key].annotation) for key in parameters(make, given)}
    return Group(label, name, parameters(make, given), ranges)


def chosen(name: Any, table: Mapping[str, Any]) -> str | None:
    """The name where it is one of the table, or a part of one's own."""
    return name if isinstance(name, str) and (name in table or is_own(name)) else None


def spec_at(config: Spec, group: str) -> Spec:
    """The group where it is one, else an empty one."""
    found = config.get(group)
    return found if isinstance(found, ConfigDict) else {}
