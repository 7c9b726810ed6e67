"""How a run was made, at the end of its page: what makes it again, how long it takes, every setting and version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusion_jax.report.figures import bars
from diffusion_jax.report.numbers import Number, duration
from diffusion_jax.report.page import Block, Code, Details, Table

__all__ = ["Making", "how_it_was_made"]


@dataclass(frozen=True, eq=False)
class Making:
    """How the run was made: seconds by stage, versions by package, the resolved config, the commands."""

    seconds: Mapping[str, Number]
    versions: Mapping[str, str]
    config: Mapping[str, Any]
    commands: Sequence[str]


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value) pairs, in their own order."""
    pairs: list[tuple[str, str]] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", f"{value:g}" if isinstance(value, float) else str(value)))
    return pairs


def how_it_was_made(making: Making) -> tuple[Block, ...]:
    """The commands, the time by stage, and settings and versions to be opened; what there is of these."""
    blocks: list[Block] = []
    if making.commands:
        blocks += ["To make it again:", Code("\n".join(making.commands))]
    if making.seconds:
        total = sum(making.seconds.values())
        blocks.append(
            bars(
                {stage: (spent, duration(spent)) for stage, spent in making.seconds.items()},
                title=f"Time by stage, {duration(total)} in all",
                alt="; ".join(f"{stage} {duration(spent)}" for stage, spent in making.seconds.items()),
                caption="Wall-clock time, with compilation, on the machine that made this page.",
            )
        )
    for summary, pairs in (("Settings", _flat(making.config)), ("Versions", list(making.versions.items()))):
        if pairs:
            table = Table(("Name", "Value"), tuple((name, value) for name, value in pairs))
            blocks.append(Details(f"{summary} ({len(pairs)})", (table,)))
    return tuple(blocks)
