"""Large pictures in little memory: by tiles that overlap and are blended, and one example at a time.

Tiles of side s begin every s - o, o the overlap, and those at the end are smaller. Where two overlap, the second fades in
linearly: with n rows in common row y is (1 - y / n) of the first and y / n of the second, y = 0 .. n - 1, first rows with the
tile above, then columns with the tile to the left. Each tile computes its norms and its attention by itself, so that the result
is near that of the whole, not equal to it. As diffusers' `enable_tiling` computes, number for number.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion_jax.nets.vae.coders import nearest_multiple
from diffusion_jax.typing import UserError, whole_number

__all__ = ["sliced", "tiled"]

Maps: TypeAlias = Float[Array, "batch height width channels"]
Made: TypeAlias = Float[Array, "batch _ _ _"]


def tiled(run: Callable[[Array], Array], x: Maps, tile: int, overlap: float = 0.25) -> Made:
    """run(x) [batch, height', width', channels'] by tiles of x that are `tile` high and wide, a share `overlap` in common.

    `run` keeps or changes the size by one factor: decoding, and encoding into moments or latents. It is called once a tile,
    with four shapes at most, so that a jitted one is compiled as often and holds one tile's memory. An x no larger than a tile
    is run whole.

    Raises UserError for an overlap outside [0, 1) and for a tile of which it is not a whole number of rows, before and after.
    """
    tile = whole_number("tile", tile, 1)
    share = Fraction(overlap).limit_denominator(4096)
    if not 0 <= share < 1:
        raise UserError(f"overlap {overlap!r} is not in [0, 1); nearest: {0.0 if overlap < 0 else 0.5}")
    height, width = x.shape[1:3]
    if height <= tile and width <= tile:
        return run(x)
    _whole(tile, share, Fraction(1))
    step = int(tile * (1 - share))
    above: list[Array] = []
    rows: list[Array] = []
    for i in range(0, height, step):
        row: list[Array] = []
        for at, j in enumerate(range(0, width, step)):
            part = x[:, i : i + tile, j : j + tile]
            made = run(part)
            factor = Fraction(made.shape[1], part.shape[1])
            _whole(tile, share, factor)
            common = int(tile * factor * share)
            if above:
                made = _blended(above[at], made, common, 1)
            if row:
                made = _blended(row[-1], made, common, 2)
            row.append(made)
        kept = int(tile * factor) - common
        rows.append(jnp.concatenate([made[:, :kept, :kept] for made in row], axis=2))
        above = row
    return jnp.concatenate(rows, axis=1)


def _whole(tile: int, share: Fraction, factor: Fraction) -> None:
    """UserError where a tile's overlap, or what becomes of it, ends within a row."""
    sizes = [share, factor, share * factor]
    if all((tile * size).denominator == 1 for size in sizes):
        return
    unit = next(n for n in range(1, 1 << 24) if all((n * size).denominator == 1 for size in sizes))
    raise UserError(
        f"tile {tile} has an overlap of {float(tile * share):g} rows, which become {float(tile * share * factor):g}: not "
        f"whole ones; nearest: {nearest_multiple(unit, tile)}"
    )


def _blended(first: Array, second: Array, common: int, axis: int) -> Array:
    """`second`, whose beginning along the axis fades in from the end of `first`."""
    n = min(first.shape[axis], second.shape[axis], common)
    if n == 0:
        return second
    weight = (jnp.arange(n, dtype=second.dtype) / n).reshape([n if i == axis else 1 for i in range(second.ndim)])
    ending = jax.lax.slice_in_dim(first, first.shape[axis] - n, first.shape[axis], axis=axis)
    beginning = jax.lax.slice_in_dim(second, 0, n, axis=axis)
    rest = jax.lax.slice_in_dim(second, n, second.shape[axis], axis=axis)
    return jnp.concatenate([ending * (1 - weight) + beginning * weight, rest], axis=axis)


def sliced(run: Callable[[Array], Array], x: Maps) -> Made:
    """run(x) one example at a time, which needs the memory of one: equal to the whole."""
    return jax.lax.map(lambda one: run(one[None])[0], x)
