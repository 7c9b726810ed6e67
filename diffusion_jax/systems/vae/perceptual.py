"""How unlike two pictures look, as a function (frozen, x, x') -> [batch] of images [batch, h, w, c] in [-1, 1], by name.

`none`; `laplacian`, which needs no weights; the folder of a CLIP, a run or published weights; a folder with the weights of
LPIPS (`convert.lpips`, `metrics.lpips`); "module:attribute", a function of (x, x').

**Laplacian.** A pyramid whose levels L_j are what a picture loses when it is blurred, the next level being every second pixel
of the blurred one, and the last what is left (Burt and Adelson, 1983, without doubling again); the mean |difference| of each
level is weighed by 2^j, coarse levels more (after the loss of GLO, arXiv 1707.05776, whose weights are other ones):

    P = sum_j 2^j mean |L_j(x) - L_j(x')|

Plain |x - x'| sees each pixel alone; here an edge that is lost costs at every scale at which it is seen.

**CLIP.** Features of every token of the image tower, each of unit length: the mean over the tokens of |f(x) - f(x')|^2, which
are of places, and so see where something is, and 1 - cos of the embeddings, which see what it is. In [0, 6].
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from diffusion_jax.build.own import is_own, own
from diffusion_jax.convert.lpips import holds_lpips, load_lpips
from diffusion_jax.metrics import lpips
from diffusion_jax.systems.clip.run import ClipRun
from diffusion_jax.systems.diffusion.encoder import Encoder, as_seen, load_encoder
from diffusion_jax.systems.diffusion.noted import Noted
from diffusion_jax.typing import UserError, nearest_path

__all__ = ["PERCEPTUAL", "Perceptual", "laplacian", "perceptual_named"]

PERCEPTUAL = ("none", "laplacian")
"""Those that need nothing else."""
NOTE = "perceptual.json"
"""Where the CLIP lies that a run is trained by, relative to it, and its fingerprint."""
LEAST = 4  # the shorter side of the coarsest level of a pyramid
Images = Float[Array, "batch height width channels"]


@dataclasses.dataclass(frozen=True, eq=False)
class Perceptual:
    """A distance with the arrays that it needs, which do not train, and the note that a run keeps of where these are from."""

    distance: Callable[[PyTree, Array, Array], Array]
    frozen: PyTree = None
    encoder: Encoder | Noted | None = None

    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """Where the encoder lies from the run's folder, and its fingerprint; nothing without one."""
        return {} if self.encoder is None else self.encoder.notes(folder)

    def agrees(self, folder: Path, anew: bool) -> None:
        """UserError for a run there that was trained by another encoder."""
        if self.encoder is not None:
            self.encoder.agrees(folder, anew)


def _blurred(x: Array) -> Array:
    """Under (1, 4, 6, 4, 1) / 16 along rows and columns, the edge repeated."""
    taps = jnp.asarray([1.0, 4.0, 6.0, 4.0, 1.0], x.dtype) / 16.0
    for axis in (1, 2):
        size = x.shape[axis]
        wide = jnp.pad(x, [(2, 2) if at == axis else (0, 0) for at in range(4)], mode="edge")
        x = sum((taps[at] * jax.lax.slice_in_dim(wide, at, at + size, axis=axis) for at in range(5)), jnp.zeros_like(x))
    return x


def _levels(x: Array) -> list[Array]:
    """The pyramid, the finest first; the last is what is left."""
    found = []
    while min(x.shape[1:3]) >= 2 * LEAST:
        low = _blurred(x)
        found.append(x - low)
        x = low[:, ::2, ::2]
    return [*found, x]


def laplacian(frozen: PyTree, x: Images, made: Images) -> Float[Array, " batch"]:
    """P of the module."""
    # The pyramid is linear: that of the difference is the difference of the two.
    parts = [jnp.abs(level).mean(axis=(1, 2, 3)) * 2.0**at for at, level in enumerate(_levels(x - made))]
    return sum(parts[1:], parts[0])


def _clip(path: str) -> Perceptual:
    run: ClipRun = load_encoder(path, texts=False)
    encode = run.network.method("encode_image")

    def features(params: PyTree, images: Array) -> tuple[Array, Array]:
        out = encode(params, as_seen(run.preprocess, images))
        return _unit(out.tokens), _unit(out.embedding)

    def distance(params: PyTree, x: Array, made: Array) -> Array:
        (places, what), (places_made, what_made) = (features(params, images) for images in (x, made))
        of_places = ((places - places_made) ** 2).sum(-1).reshape(len(x), -1).mean(1)
        return of_places + 1.0 - (what * what_made).sum(-1)

    return Perceptual(distance, run.params, Encoder(run, NOTE, "encoder of the perceptual loss"))


def _unit(x: Array) -> Array:
    """Of unit length along the last axis, float32. A zero vector stays one, with a gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt((x * x).sum(-1, keepdims=True) + 1e-12)


def _lpips(path: str) -> Perceptual:
    params = load_lpips(path)
    return Perceptual(lpips, params, Noted(Path(path), params, NOTE, "weights of LPIPS"))


def _own(name: str) -> Perceptual:
    found = own("loss.perceptual", name)
    if not callable(found):
        raise UserError(f"loss.perceptual {name!r} is a {type(found).__name__}: a function of (x, x') is needed")

    def distance(frozen: PyTree, x: Array, made: Array) -> Array:
        far = found(x, made)
        if np.shape(far) != x.shape[:1]:
            raise UserError(
                f"loss.perceptual {name!r} gives an array of shape {np.shape(far)} for {len(x)} pictures: it gives a number "
                f"each, {x.shape[:1]}"
            )
        return far

    return Perceptual(distance)


def perceptual_named(name: str) -> Perceptual | None:
    """The distance of a name, None for "none". UserError where there is none, and for weights that cannot be read."""
    if name in PERCEPTUAL:
        return None if name == "none" else Perceptual(laplacian)
    if is_own(name) and not os.path.exists(name):
        return _own(name)
    if os.path.exists(name):
        return _lpips(name) if holds_lpips(name) else _clip(name)
    near = nearest_path(name, PERCEPTUAL)
    raise UserError(
        f"loss.perceptual {name!r} is neither of {' and '.join(map(repr, PERCEPTUAL))}, no module:attribute, and no folder of "
        "a CLIP or of LPIPS" + (f"; did you mean {near!r}?" if near else "")
    )
