"""What pictures are compared in: callables of images [n, h, w, c] in [-1, 1] that give rows of features [n, d], by name.

`pixels` are the images themselves; `lite0` the 1,280 pooled features of EfficientNet-Lite0 (ImageNet's weights, from the extra
`lite0`), which see what a picture shows; a path is a CLIP, a run or published weights, whose image embeddings are
taken; "mine:function" is a callable of one's own. A number belongs to its features: those of two are not compared.

Networks are given what a viewer is: the 256 grey levels of the picture, grey as three equal channels, at a larger size where
it is small.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.build.own import is_own, own
from diffusion_jax.convert.efficientnet_lite0 import MEAN, SPREAD, load_lite0
from diffusion_jax.nets import Network
from diffusion_jax.nets.efficientnet import EfficientNet
from diffusion_jax.report.pictures import to_uint8
from diffusion_jax.systems.clip.run import ClipRun
from diffusion_jax.systems.diffusion.encoder import load_encoder
from diffusion_jax.typing import UserError

__all__ = ["FEATURES", "Features", "features_named", "lite0_edge"]

Say = Callable[[str], None]
SMALLEST, LARGEST = 64, 224
"""Edges at which EfficientNet-Lite0 is asked: five halvings leave two places of 64, and 224 is what it was trained at."""


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """`images -> rows` by its `name`, some images at a time."""

    name: str
    rows: Callable[[np.ndarray], Any]
    at_once: int = 256

    def __call__(self, images: np.ndarray, say: Say = lambda text: None, what: str = "images") -> np.ndarray:
        """Features [n, d] in float32 of images [n, h, w, c], clipped to [-1, 1] as files are. UserError for what are
        no rows of numbers."""
        found: list[np.ndarray] = []
        told = 0
        for start in range(0, len(images), self.at_once):
            part = images[start : start + self.at_once]
            rows = np.asarray(self.rows(np.clip(part, -1.0, 1.0)), np.float32)
            if rows.ndim != 2 or len(rows) != len(part) or not np.isfinite(rows).all():
                raise UserError(
                    f"features {self.name!r} give {rows.shape} for {len(part)} images: finite rows [{len(part)}, d] are needed"
                )
            found.append(rows)
            done = start + len(part)
            if self.name != "pixels" and len(images) > 1000 and done * 4 // len(images) > told and done < len(images):
                told = done * 4 // len(images)
                say(f"  {self.name} features of {what}: {done} of {len(images)}")
        return np.concatenate(found)


def _pixels() -> Features:
    return Features("pixels", lambda images: images.reshape(len(images), -1))


def lite0_edge(height: int, width: int) -> int:
    """The longer edge at which EfficientNet-Lite0 sees a picture: twice its own, from 64 to 224."""
    return min(LARGEST, max(SMALLEST, 2 * max(height, width)))


def _lite0() -> Features:
    params = load_lite0()
    network = Network(lambda rngs: EfficientNet(rngs))

    @jax.jit
    def pooled(params: Any, images: Any) -> Any:
        n, height, width, _ = images.shape
        scale = lite0_edge(height, width) / max(height, width)
        size = (n, max(1, round(height * scale)), max(1, round(width * scale)), 3)
        return network.apply(params, (jax.image.resize(images, size, "linear") - MEAN) / SPREAD).pooled

    def rows(images: np.ndarray) -> Any:
        seen = _coloured(images).astype(np.float32)
        missing = np.zeros((at_once - len(seen), *seen.shape[1:]), np.float32)  # one shape, compiled once
        return pooled(params, jnp.asarray(np.concatenate([seen, missing])))[: len(seen)]

    at_once = 64
    return Features("lite0", rows, at_once)


def _clip(path: str) -> Features:
    """The image embeddings of a CLIP run or of published weights."""
    run = load_encoder(path, texts=False)

    def rows(images: np.ndarray) -> np.ndarray:
        return run.encode_image(_as_taken(run, images), batch_size=256)

    return Features(str(path), rows)


def _as_taken(run: ClipRun, images: np.ndarray) -> np.ndarray:
    """Pictures for a CLIP that prepares them, and images in [-1, 1] for one that takes arrays as they are."""
    return np.clip(images, -1.0, 1.0).astype(np.float32) if run.preprocess is None else _coloured(images)


def _coloured(images: np.ndarray) -> np.ndarray:
    """uint8 [n, h, w, 3]. UserError for what is no picture."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(
            f"images of shape {images.shape[1:]} are no pictures of 1 or 3 channels: take --features pixels"
        )
    levels = to_uint8(images)
    return np.repeat(levels, 3, axis=-1) if levels.shape[-1] == 1 else levels


FEATURES: dict[str, Callable[[], Features]] = {"pixels": _pixels, "lite0": _lite0}
"""Each by its name, made when it is asked for."""


def features_named(name: str) -> Features:
    """The features of a name, of a CLIP's folder or file, or "module:attribute".

    Raises UserError where there are none, and for weights that are not installed or not to be read.
    """
    if name in FEATURES:
        return FEATURES[name]()
    if is_own(name) and not os.path.exists(name):
        found = own("features", name)
        if not callable(found):
            raise UserError(f"features {name!r} are a {type(found).__name__}: a function of images is needed")
        return Features(name, found)
    if os.path.exists(name):
        return _clip(name)
    raise UserError(f"features {name!r} are none of {', '.join(FEATURES)}, no module:attribute, and no CLIP's folder")
