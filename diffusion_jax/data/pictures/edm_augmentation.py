"""EDM's augmentation that does not leak into what is drawn (Karras et al., arXiv 2206.00364, appendix F.2, table 6).

Each picture goes through one geometric transformation, and the network is told which by nine numbers. In sampling they are 0,
which says: untouched. Of the steps below, in their order, the flip along x is tried on every picture, each other one with
`probability`; 0.12 is the paper's for 32 x 32, 0.15 for faces of 64 x 64. What is not applied has its parameters at 0.

| step | parameters | labels |
|---|---|---|
| flip along x | a0, 0 or 1, as likely | a0 |
| flip along y | a1, 0 or 1, as likely | a1 |
| scale by 2^(0.2 a2) | a2 ~ N(0, 1) | a2 |
| turn by a3 | a3 ~ U(-pi, pi) | cos a3 - 1, sin a3 |
| stretch by 2^(0.2 a5) along a4, shrink as much across | a4 ~ U(-pi, pi), a5 ~ N(0, 1) | a5 cos a4, a5 sin a4 |
| move by (a6, a7) / 8 of the width and the height | a6, a7 ~ N(0, 1) | a6, a7 |

Points are (x, y) from the middle of the picture, x to the right and y downwards, in pixels; a positive a3 turns
counter-clockwise as one sees it. With p -> A p + t for the whole of it, the output at p is the input at A^-1 (p - t).
A negative a5 stretches by |a5| along a4 + pi, which is the direction that its labels show, where the paper's shrinks along a4:
as many pictures are moved so, and the labels tell how each was.

**Resampling** as in the paper that it builds on (arXiv 2006.06676, appendix B): twice as fine by a wavelet's filter, bilinear
there, and back by its dual, so that where nothing moves nothing is lost; outside is the mirror image. The filters there are
sym6's, which are not quite symmetric: a picture turned over is not quite the resampled one. These are the symmetric pair of 7
and 9 taps of Cohen, Daubechies and Feauveau (1992), the two factors of a half-band filter with zeros of order 4 each. With them
flips and, of squares, quarter turns are exact too, and a ramp stays a ramp.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion_jax.typing import UserError

__all__ = ["LABELS", "edm_augment", "move", "moves"]

LABELS = 9
STRENGTH = 0.2  # of scaling and stretching: the logarithm to base 2 that one standard deviation is
TRAVEL = 0.125  # what one standard deviation moves, as a share of the picture
UP = (1.115087052456994, 0.5912717631142503, -0.0575435262285003, -0.0912717631142502)
DOWN = (0.6029490182363602, 0.2668641184428751, -0.0782232665289900, -0.0168641184428750, 0.0267487574108100)
"""From the middle outwards; UP sums to 2, for every other sample it meets is 0."""


def edm_augment(
    images: Float[Array, "batch height width channels"],
    keys: Array,
    probability: float = 0.12,
    *,
    flips: float = 1.0,
) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch 9"]]:
    """(the images, each moved as its own key says, and the labels that say how); keys [batch].

    `probability` is that of every step but the flip along x, `flips` that of trying this one (1 in the paper, where half of
    the pictures are flipped). What is not moved, or flipped alone, has the very numbers it had. Images in [-1, 1] may
    leave it by a little where they are resampled, as there. Raises UserError for a probability outside [0, 1].
    """
    for name, share in (("probability", probability), ("flips", flips)):
        if not 0.0 <= share <= 1.0:
            raise UserError(f"{name} {share} of the augmentation is not from 0 to 1; usual: 0.12, and 1 of flips")
    labels = jax.vmap(lambda key: _draw(key, probability, flips))(keys)
    return move(images, labels), labels


def _draw(key: Array, probability: float, flips: float) -> Float[Array, " 9"]:
    """The labels of one picture."""
    key_tried, key_sides, key_normal, key_angles = jax.random.split(key, 4)
    tried = jax.random.uniform(key_tried, (6,)) < jnp.array([flips, *[probability] * 5])
    x_flip, y_flip, scaled, turned, stretched, moved = tried
    sides = jax.random.bernoulli(key_sides, 0.5, (2,)) * jnp.stack([x_flip, y_flip])
    a2, a5, a6, a7 = jax.random.normal(key_normal, (4,))
    a3, a4 = jax.random.uniform(key_angles, (2,), minval=-math.pi, maxval=math.pi)
    shift = jnp.stack([a6, a7]) * moved
    turn = jnp.stack([jnp.cos(a3) - 1.0, jnp.sin(a3)]) * turned
    stretch = a5 * jnp.stack([jnp.cos(a4), jnp.sin(a4)]) * stretched
    return jnp.concatenate([sides.astype(jnp.float32), (a2 * scaled)[None], turn, stretch, shift])


def moves(
    labels: Float[Array, "batch 9"], height: int, width: int
) -> tuple[Float[Array, "batch 2 2"], Float[Array, "batch 2"]]:
    """(A, t) of p -> A p + t that labels say, of points (x, y) from the middle in pixels; flips, which come first, included."""
    x_flip, y_flip, a2, cos_less_1, sin, a5_cos, a5_sin, a6, a7 = labels.T
    zeros = jnp.zeros_like(a2)

    def matrix(a: Array, b: Array, c: Array, d: Array) -> Array:
        return jnp.stack([jnp.stack([a, b], axis=-1), jnp.stack([c, d], axis=-1)], axis=-2)

    flip = matrix(1 - 2 * x_flip, zeros, zeros, 1 - 2 * y_flip)
    scale = (2.0 ** (STRENGTH * a2))[:, None, None]
    turn = matrix(1 + cos_less_1, sin, -sin, 1 + cos_less_1)
    # Along (u, v) by m and across it by 1/m; where a5 is 0 any direction will do.
    a5 = jnp.hypot(a5_cos, a5_sin)
    u, v = jnp.where(a5 == 0, 1.0, a5_cos) / jnp.where(a5 == 0, 1.0, a5), a5_sin / jnp.where(a5 == 0, 1.0, a5)
    more, less = 2.0 ** (STRENGTH * a5), 2.0 ** (-STRENGTH * a5)
    mixed = (more - less) * u * v
    stretch = matrix(more * u * u + less * v * v, mixed, mixed, more * v * v + less * u * u)
    shift = TRAVEL * jnp.stack([a6 * width, a7 * height], axis=-1)
    exact = jax.lax.Precision.HIGHEST  # an accelerator may round what a product of matrices takes
    return jnp.matmul(stretch, jnp.matmul(turn, scale * flip, precision=exact), precision=exact), shift


def move(
    images: Float[Array, "batch height width channels"], labels: Float[Array, "batch 9"]
) -> Float[Array, "batch height width channels"]:
    """The images as labels say; see the module."""
    height, width = images.shape[1:3]
    # Flips are made first and exactly, what is left is resampled.
    for axis, place in ((2, 0), (1, 1)):
        images = jnp.where(labels[:, place, None, None, None] > 0.5, jnp.flip(images, axis), images)
    rest = labels.at[:, :2].set(0.0)
    matrix, shift = moves(rest, height, width)
    fine = _finer(_finer(images, 1), 2)
    rows, columns = (_places(size) for size in (height, width))
    p = jnp.stack(jnp.broadcast_arrays(columns[None, :], rows[:, None]), axis=-1)[None] - 2.0 * shift[:, None, None]
    a, b, c, d = (matrix[:, i, j, None, None] for i in (0, 1) for j in (0, 1))
    x, y = (d * p[..., 0] - b * p[..., 1]) / (a * d - b * c), (a * p[..., 1] - c * p[..., 0]) / (a * d - b * c)
    looked = jax.vmap(_looked_up)(fine, y + (height - 1.0), x + (width - 1.0))
    moved = _coarser(_coarser(looked, 1, height), 2, width)
    return jnp.where(jnp.any(rest != 0, axis=1)[:, None, None, None], moved, images)


def _places(size: int) -> Array:
    """Where the samples that `_coarser` needs lie, in half pixels from the middle."""
    return jnp.arange(-4, 2 * size + 3, dtype=jnp.float32) - (size - 1.0)


def _finer(x: Array, axis: int) -> Array:
    """n samples along an axis as 2 n - 1, those between among them, by the filter of 7 taps."""
    n = x.shape[axis]
    if n == 1:
        return x
    padded = jnp.pad(x, [(2, 2) if i == axis else (0, 0) for i in range(x.ndim)], mode="reflect")

    def at(offset: int, count: int) -> Array:
        return jax.lax.slice_in_dim(padded, 2 + offset, 2 + offset + count, axis=axis)

    on = UP[0] * at(0, n) + UP[2] * (at(-1, n) + at(1, n))
    between = UP[1] * (at(0, n - 1) + at(1, n - 1)) + UP[3] * (at(-1, n - 1) + at(2, n - 1))
    first, last = jnp.split(on, [n - 1], axis=axis)
    pairs = jnp.stack([first, between], axis=axis + 1)
    return jnp.concatenate([pairs.reshape(*x.shape[:axis], 2 * n - 2, *x.shape[axis + 1 :]), last], axis=axis)


def _coarser(y: Array, axis: int, n: int) -> Array:
    """Of samples from -4 to 2 (n - 1) + 4 the n of even places, by the filter of 9 taps."""

    def at(offset: int) -> Array:
        return jax.lax.slice_in_dim(y, 4 + offset, 4 + offset + 2 * n - 1, 2, axis)

    return DOWN[0] * at(0) + sum(DOWN[i] * (at(-i) + at(i)) for i in range(1, 5))


def _looked_up(fine: Array, rows: Array, columns: Array) -> Array:
    """fine [m, n, channels] at real places, between its samples by bilinear interpolation, beyond its ends as in a mirror."""
    (y, dy), (x, dx) = _mirrored(rows, fine.shape[0]), _mirrored(columns, fine.shape[1])
    dy, dx = dy[..., None], dx[..., None]

    def at(i: int, j: int) -> Array:
        place = jnp.minimum(y + i, fine.shape[0] - 1), jnp.minimum(x + j, fine.shape[1] - 1)
        return fine.at[place].get(mode="promise_in_bounds")

    top, bottom = (at(i, 0) * (1 - dx) + at(i, 1) * dx for i in (0, 1))
    return top * (1 - dy) + bottom * dy


def _mirrored(place: Array, size: int) -> tuple[Array, Array]:
    """(the sample at or before each place, how far it is from there), with places beyond the ends mirrored at them."""
    last = max(size - 1, 1)
    inside = last - jnp.abs(jnp.mod(place, 2.0 * last) - last)
    whole = jnp.clip(jnp.floor(inside), 0, size - 1)
    return whole.astype(jnp.int32), inside - whole
