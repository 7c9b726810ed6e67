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

__all__ = ["check", "check_keys"]

OPTIONAL = ("mesh",)
"""Groups that every config may be without."""


def check(config: ConfigDict) -> None:
    """UserError for a key that nothing reads, one that is missing, a value out of its range, and values that do not agree."""
    check_keys(config)
    _agree(config)
    system_of(config).check(config)


def check_keys(config: ConfigDict) -> None:
    """UserError for a key that nothing reads, one that is missing, and a value out of its range: nothing is built for it."""
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
    walk = _Walk(config, inside, known, optional)
    walk(config, "", Group("", None, dict.fromkeys(known.keys() | inside.keys())))
    # A name that is wrong is told before the keys that go with it: a second walk looks at all others.
    for name, group in inside.items():
        spec = _at(config, name)
        if isinstance(spec, ConfigDict):
            walk(spec, f"{name}.", group)


class _Walk:
    """The keys that stand in one group, each held against what it may be."""

    def __init__(
        self, config: ConfigDict, inside: Mapping[str, Group], known: Mapping[str, Any], optional: Collection[str]
    ) -> None:
        self.config, self.inside, self.known, self.optional = config, inside, known, optional

    def __call__(self, spec: ConfigDict, prefix: str, group: Group) -> None:
        for key in sorted(spec, key=lambda key: (key != "name", str(key))):
            dotted, value = f"{prefix}{key}", spec[key]
            if key not in group.defaults:
                raise UserError(self._not_taken(str(key), prefix.removesuffix("."), group))
            if isinstance(value, ConfigDict) and dotted in self.inside:
                continue
            if value is None and dotted in self.optional:
                continue
            if dotted not in self.known:
                group_key = prefix.removesuffix(".")
                whole = self.known.get(group_key)
                form = f", and {group_key!r} {whole.range.words}" if whole is not None and whole.range.open else ""
                raise UserError(f"config key {dotted!r} is {short(value)}; it is a group of keys{form}")
            self.known[dotted].range.check(dotted, value)
        for key, default in group.defaults.items():
            dotted = f"{prefix}{key}"
            if (
                prefix
                and default is REQUIRED
                and key not in spec
                and (dotted in self.known or dotted not in self.inside)
            ):
                raise UserError(self._missing(dotted, group))

    def _missing(self, dotted: str, group: Group) -> str:
        if group.name is None or dotted.endswith(".name"):
            needs = f"; a config of system {self.config.system!r} has one"
        else:
            needs = f": {group.label} needs it"
        said = f" ({self.known[dotted].range.words})" if dotted in self.known else ""
        return f"config key {dotted!r} is missing{needs}{said}"

    def _not_taken(self, key: str, place: str, group: Group) -> str:
        """What is said of a key that a group does not take: it may be misspelt, or be left of another name."""
        takes = f"(it takes {', '.join(group.defaults) or 'nothing'})"
        if group.name is not None and key in self._of_any_name(place):
            empty = f"--config.{place}={{}} before --config.{place}.name={group.name} empties the group"
            return f"{group.label} takes no {key!r} {takes}; where that is left of another name, {empty}"
        near = difflib.get_close_matches(key, group.defaults, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{group.label} takes no {key!r}{hint} {takes}"

    def _of_any_name(self, place: str) -> Collection[str]:
        """The keys that a group takes under one name or another."""
        other = self.config.copy_and_resolve_references()
        spec = _at(other, place)
        with spec.unlocked(), spec.ignore_type():
            spec["name"] = ""
        inside = groups(other)
        return inside[place].defaults if place in inside else ()


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
            f"config key 'optimizer.warmup_steps' is {warmup}, which is not below key 'steps', {config.steps}; "
            f"nearest: {config.steps - 1}"
        )
    optimizer(config.optimizer, config.steps)
    ema(config.ema)
