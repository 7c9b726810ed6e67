"""What a drawing is asked with, looked at before anything is drawn: requests, scales, options of solvers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffusion_jax.typing import UserError

__all__ = ["distinct", "finite_of", "noise_of", "scale_of"]


def distinct(requests: list[Any]) -> tuple[list[Any], np.ndarray]:
    """(each request once, the row of each there); those that cannot be told apart by a hash all stay."""
    try:
        place = {request: row for row, request in enumerate(dict.fromkeys(requests))}
    except TypeError:
        return requests, np.arange(len(requests))
    return list(place), np.array([place[request] for request in requests])


def finite_of(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a solver. UserError for a number that is not finite."""
    for key, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key} {value} of the solver is not a finite number")
    return options


def noise_of(noise: Any, shape: tuple[int, ...], steps: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(what a drawing of `shape` [n, ...] begins with, what its steps draw [steps, n, ...]) of what is given, or None.

    UserError for arrays of other shapes, and for what is not finite.
    """
    if noise is None:
        return None, None
    found = np.asarray(noise, np.float32)
    if found.shape not in (shape, (1 + steps, *shape)):
        raise UserError(
            f"noise has shape {found.shape}: it is {shape} for what the drawing begins with, or {(1 + steps, *shape)} for its "
            f"{steps} steps too"
        )
    if not np.isfinite(found).all():
        raise UserError("noise holds numbers that are not finite")
    return (found, None) if found.shape == shape else (found[0], found[1:])


def scale_of(given: Any) -> Any:
    """A guidance scale as a float, or one an image as float32 [n]. UserError for what is no finite number."""
    if isinstance(given, jax.core.Tracer):
        return given
    try:
        scale = np.asarray(given)
    except ValueError:  # a list of lists of several lengths
        scale = np.asarray(None)
    if scale.dtype.kind not in "iuf" or scale.ndim > 1 or not scale.size:
        raise UserError(f"guidance scale {given!r} is not a number, or one an image")
    if not np.isfinite(scale).all():
        raise UserError(f"guidance scale {scale} is not finite; 1 is no guidance, usual are 1 to 8")
    return float(scale) if scale.ndim == 0 else scale.astype(np.float32)
