"""What is wrong with a config, before anything is built: one line that names the key, its value and the nearest valid one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.build.keys import REQUIRED, Group
from diffusion_jax.build.learning import ema, optimizer
from diffusion_jax.build.ranges import short
from diffusion_jax.systems.table import groups, keys, system_of
from diffusion_jax.typing import UserError, one_of

__all__ = ["check"]

OPTIONAL = ("mesh",)
"""Groups that every config may be without."""


def check(config: ConfigDict) -> None:
    """UserError for a key that nothing reads, one that is missing, a value out of its range, and values that do not agree."""
    system = system_of(config)
    optional = {*OPTIONAL, *system.optional}
    known, inside = keys(config), groups(config)
    tops = {name.partition(".")[0] for name in (*known, *inside)}
    for key in config:
        one_of(f"config key of system {config.system!r}:", key, tops)
    needed = {key for key, found in known.items() if "." not in key and found.default is REQUIRED}
    needed |= {name for name in inside if "." not in name and name not in optional}
    for key in sorted(needed - set(config)):
        raise UserError(f"config key {key!r} is missing; a config of system {config.system!r} has one")
    walk = _Walk(inside, known, config.system, optional)
    walk(config, "", Group("", None, dict.fromkeys(known.keys() | inside.keys())))
    # A name that is wrong is told before the keys that go with it: a second walk looks at all others.
    for name, group in inside.items():
        spec = _at(config, name)
        if isinstance(spec, ConfigDict):
            walk(spec, f"{name}.", group)
    _agree(config)
    system.check(config)


class _Walk:
    """The keys that stand in one group, each held against what it may be."""

    def __init__(
        self, inside: Mapping[str, Group], known: Mapping[str, Any], system: str, optional: Collection[str]
    ) -> None:
        self.inside, self.known, self.system, self.optional = inside, known, system, optional

    def __call__(self, spec: ConfigDict, prefix: str, group: Group) -> None:
        for key in sorted(spec, key=lambda key: (key != "name", str(key))):
            dotted, value = f"{prefix}{key}", spec[key]
            if key not in group.defaults:
                near = difflib.get_close_matches(str(key), group.defaults, n=1, cutoff=0.4)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise UserError(
                    f"{group.label} takes no {key!r}{hint} (it takes {', '.join(group.defaults) or 'nothing'})"
                )
            if isinstance(value, ConfigDict) and dotted in self.inside:
                continue
            if value is None and dotted in self.optional:
                continue
            if dotted not in self.known:
                raise UserError(f"config key {dotted!r} is {short(value)}; it is a group of keys")
            self.known[dotted].range.check(dotted, value)
        for key, default in group.defaults.items():
            if prefix and default is REQUIRED and key not in spec and f"{prefix}{key}" not in self.inside:
                raise UserError(f"config key '{prefix}{key}' is missing; a config of system {self.system!r} has one")


def _at(config: ConfigDict, name: str) -> Any:
    node: Any = config
    for part in name.split("."):
        node = node.get(part) if isinstance(node, ConfigDict) else None
    return node


def _agree(config: ConfigDict) -> None:
    """Values that are right alone and wrong together, in the groups of every system."""
    warmup = config.optimizer.get("warmup_steps", 0)
    if warmup >= config.steps:
        raise UserError(
            f"config key 'optimizer.warmup_steps' is {warmup} of the {config.steps} of key 'steps'; nearest: {config.steps - 1}"
        )
    optimizer(config.optimizer, config.steps)
    ema(config.ema)
