"""What is asked of a pipeline, looked at before anything is drawn: scales, shares, tiles, grids and solvers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion_jax.build import guidance as guidances
from diffusion_jax.systems.vae.pretrained import Autoencoder
from diffusion_jax.typing import UserError, whole_number

__all__ = ["check_guided", "check_negative", "falling", "guiding", "number", "solves", "tile_of"]

PLUS_PLUS = 0.6
"""The usual scale of CFG++ (arXiv 2406.08070), which is from 0 to 1."""
OVERLAP = 4
"""A fourth of a tile is in common with the next: latents of a tile are so many times a whole number."""


def number(what: str, value: Any, usual: str) -> float:
    """`value` as a float. UserError for what is no finite number."""
    try:
        found = math.nan if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"{what} is {value!r:.60}, not a finite number; usual: {usual}")
    return found


def guiding(value: Any, usual: float, guidance: Any = None, *, told: bool = False) -> float:
    """The scale of a guidance, `usual` of None: 1, which is none, of all that is 1 or less, as published recipes have 0.

    A network that is `told` the scale has it as it is, and so has a `guidance` that acts below 1, as CFG++ from 0 to 1.
    UserError for what is negative or no number.
    """
    name = guidances.spec_of(guidance)["name"]
    usual = PLUS_PLUS if name == "cfg_plus_plus" else usual
    scale = usual if value is None else number("guidance_scale", value, "1 (none) to 8")
    if scale < 0:
        raise UserError(f"guidance_scale {scale:g} is negative; nearest: 0, which as 1 is no guidance")
    off = name in guidances.OFF_AT_ONE and not told
    return max(scale, 1.0) if off else scale


def check_negative(given: Sequence[Any], guidance: Any, scale: float, told: bool) -> None:
    """UserError where one of the texts to keep away from says something, and nothing is kept away from."""
    several = [texts if hasattr(texts, "__iter__") and not isinstance(texts, str) else [texts] for texts in given]
    said = [text for texts in several for text in texts]
    if not any(said):
        return
    if told:
        raise UserError("this U-Net is told the guidance scale and keeps away from nothing: give no negative")
    check_guided(guidance, scale)


def check_guided(guidance: Any, scale: float) -> None:
    """UserError where a negative would change nothing: at a scale, as `guiding` gives it, at which `guidance` is off."""
    if scale == 1 and guidances.spec_of(guidance)["name"] in guidances.OFF_AT_ONE:
        raise UserError(
            "a guidance_scale of 1 or less is no guidance, so that a negative changes nothing: give more, or no negative"
        )


def tile_of(vae: Autoencoder, tile: Any) -> int | None:
    """The latents of a side of tiles of `tile` pixels. UserError, with the nearest, where these have no fourth part."""
    if tile is None:
        return None
    unit = OVERLAP * vae.factor
    tile = whole_number("tile", tile, unit)
    if tile % unit:
        raise UserError(
            f"tile {tile} is not divided by {unit}: tiles have a fourth in common, of whole latents of {vae.factor} pixels; "
            f"nearest: {max(1, round(tile / unit)) * unit}"
        )
    return tile // vae.factor


def falling(grid: Any) -> np.ndarray:
    """Times as float64 [n]. UserError for what are not two at least, falling from one to the next."""
    try:
        times = np.asarray(grid, np.float64)
    except (TypeError, ValueError):
        times = np.zeros(())
    if times.ndim != 1 or len(times) < 2 or not np.all(np.isfinite(times)) or np.any(np.diff(times) >= 0):
        raise UserError(f"grid is {grid!r:.60}: it is a name, or two times at least that fall, as (1.0, 0.5, 0.001)")
    return times


def solves(solver: Any) -> Any:
    """`solver`, where it is one. UserError for what has no steps."""
    if isinstance(solver, type) or not callable(getattr(solver, "step", None)):
        raise UserError(f"solver is {solver!r:.60}: it is a name, or one of this library, as DDIM()")
    return solver
