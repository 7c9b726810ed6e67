"""`diffusion-jax config show`: a config with all that it leaves out, and what each of its tables offers.

Everything is read off the tables and the signatures of what they name (`systems.table.keys`): no device is asked for, no data
are read and nothing is built, so that it can be asked on a machine that has neither. What it marks, `config check` refuses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.build.constructors import parameters
from diffusion_jax.build.keys import REQUIRED, Group, Key, chosen
from diffusion_jax.build.own import pick
from diffusion_jax.build.ranges import short
from diffusion_jax.build.samplers import SOLVERS
from diffusion_jax.config import load_config, parse_overrides, variants_of
from diffusion_jax.systems.check import check_keys
from diffusion_jax.systems.table import groups, keys

__all__ = ["offers", "resolved", "show"]

ELSEWHERE = {"sampler.solver": ("--solver-option of `diffusion-jax sample`", SOLVERS)}
"""Names whose constructor's keywords are set outside of the config: where, and the table of them."""


def show(spec: str, rest: list[str]) -> int:
    """Prints the config of `FILE[:VARIANT]` under the overrides in `rest`.

    UserError as `load_config`, and, when all is printed, for the first of what is marked in it.
    """
    config = load_config(spec, parse_overrides(rest), keys)
    file, variant, named = variants_of(spec)
    print(f"# {file}{f', variant {variant}' if variant else ''}")
    print(f"# variants (FILE:NAME): {', '.join(named)}" if named else "# the file names no variants")
    try:
        print("\n".join(["", *resolved(config), "", "# What may stand there", *offers(config)]), flush=True)
    except BrokenPipeError:  # who reads it, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    check_keys(config)
    return 0


def resolved(config: ConfigDict) -> list[str]:
    """Every key of the config as nested text, a line each; "(default)" marks one that the file leaves out.

    Also marked are a key that is missing, one that nothing reads, a value outside of what it may be, and a group that is
    absent and off.
    """
    rows = list(_walk(config, "", keys(config), groups(config)))
    width = min(44, max((len(text) for text, note in rows if note), default=0))
    return [f"{text:<{width}}  {note}".rstrip() for text, note in rows]


def _walk(spec: Any, prefix: str, known: dict[str, Key], inside: dict[str, Group]) -> Iterator[tuple[str, str]]:
    """(the line, what is marked of it) of each key of a group, of which the config holds `spec`."""
    pad = "  " * prefix.count(".")
    group = inside.get(prefix.removesuffix("."))
    names = list(group.defaults if group else dict.fromkeys(key for key in (*known, *inside) if "." not in key))
    names.sort(key=lambda name: name != "name")
    for key in (*names, *(key for key in spec if key not in names)):
        dotted, value = f"{prefix}{key}", spec.get(key)
        needed = dotted in known and known[dotted].default is REQUIRED
        if dotted in inside and (isinstance(value, ConfigDict) or (key not in spec and not needed)):
            yield from _group(value, dotted, f"{pad}{key}:", known, inside)
        elif isinstance(value, ConfigDict):
            yield f"{pad}{key}:", "(read by nothing)"
            yield from ((f"{pad}  {name}: {short(item)}", "") for name, item in value.items())
        elif key in spec:
            yield f"{pad}{key}: {short(value)}", _mark(dotted, value, known, inside)
        else:
            yield f"{pad}{key}: {_absent(key, dotted, known, group)}", _why(key, dotted, known, group)


def _group(
    value: ConfigDict | None, dotted: str, head: str, known: dict[str, Key], inside: dict[str, Group]
) -> Iterator[tuple[str, str]]:
    """A group's lines. One that is absent, and no table's, is what its system makes of that: it is not resolved here."""
    rows = list(_walk(value or {}, f"{dotted}.", known, inside))
    if value is None and inside[dotted].name is None:
        yield head, "(absent)"
    elif rows:
        yield head, "(default)" if value is None else ""
        yield from rows


def _mark(dotted: str, value: Any, known: dict[str, Key], inside: dict[str, Group]) -> str:
    if dotted in known:
        return "" if known[dotted].range.holds(value) else f"(not {known[dotted].range.words})"
    return "" if value is None and dotted in inside else "(read by nothing)"


def _absent(key: str, dotted: str, known: dict[str, Key], group: Group | None) -> str:
    """What a key is that the config does not hold."""
    default = known[dotted].default if dotted in known else None
    if key == "name" and group is not None and group.name is not None:
        return repr(group.name)
    return "" if default is REQUIRED else short(default)


def _why(key: str, dotted: str, known: dict[str, Key], group: Group | None) -> str:
    return "(missing)" if not _absent(key, dotted, known, group) else "(default)"


def offers(config: ConfigDict) -> list[str]:
    """What each key may be, by groups: the names of its table, and the keys of the one that is chosen with their defaults."""
    known, inside = keys(config), groups(config)
    top = [key for key in known if "." not in key and key not in inside]
    lines = _section("[config]", [(key, known[key]) for key in top])
    for dotted, group in inside.items():
        at = {key: known[f"{dotted}.{key}"] for key in group.defaults if f"{dotted}.{key}" in known}
        if not at and dotted in known:  # of members that are called as one likes, each has a section of its own
            continue
        name = at.pop("name", None)
        what = group.name if group.name is not None else ""
        head = f"[{dotted}]{f' {what}' if what else ''}{f': {name.range.words}' if name else ''}"
        lines += _section(head, list(at.items()) or [("takes nothing more", None)])
        for key, (where, table) in ELSEWHERE.items():
            if key.rpartition(".")[0] == dotted:
                lines += _elsewhere(config, key, where, table)
    return lines


def _section(head: str, rows: list[tuple[str, Key | None]]) -> list[str]:
    width = max((len(key) for key, known in rows if known), default=0)
    return ["", head, *(f"  {key:<{width}}  {_said(known)}".rstrip() for key, known in rows)]


def _said(known: Key | None) -> str:
    if known is None:
        return ""
    default = "needed" if known.default is REQUIRED else f"default {short(known.default)}"
    return f"{known.range.words} ({default})"


def _elsewhere(config: ConfigDict, dotted: str, where: str, table: dict[str, Any]) -> list[str]:
    """The keywords of a constructor that the config names and does not set."""
    node: Any = config
    for part in dotted.split("."):
        node = node.get(part) if isinstance(node, ConfigDict) else None
    name = chosen(node, table)
    taken = {} if name is None else parameters(pick(dotted, name, table))
    if not taken:
        return []
    said = ", ".join(key if default is REQUIRED else f"{key}={default!r}" for key, default in taken.items())
    return [f"  {dotted.rpartition('.')[2]} {name!r} takes, by {where}: {said}"]
