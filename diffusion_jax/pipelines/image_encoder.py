"""A published CLIP image encoder as unCLIP's pipelines have it: the tower alone, projected, with the preparation beside it."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax import build, convert
from diffusion_jax.build.networks import compute_dtype, kept
from diffusion_jax.convert.clip_preprocess import from_preprocessor
from diffusion_jax.convert.files import read_json
from diffusion_jax.data.pictures.preprocess import Preprocess
from diffusion_jax.nets import Network
from diffusion_jax.nets.vit import VisionTransformer
from diffusion_jax.typing import Array, Params, UserError

__all__ = ["ImageEncoder", "load_image_encoder"]

PART = 32
"""Pictures at a time."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageEncoder:
    """A vision tower, its weights, and how pictures are prepared for it."""

    path: Path
    network: Network
    params: Params
    size: int
    preprocess: Preprocess

    def encode(self, images: Any) -> np.ndarray:
        """Embeddings float32 [n, size], of the length that they come in, of pictures: paths, PIL images, or arrays.

        Floats are in [-1, 1] and resized first. UserError for what is no picture.
        """
        rows = [self._prepared(image) for image in images]
        found = []
        for start in range(0, len(rows), PART):
            part = np.stack(rows[start : start + PART])
            found.append(np.asarray(_embedded(self.network, self.params, part)))
        return np.concatenate(found)

    def _prepared(self, image: Any) -> np.ndarray:
        if isinstance(image, np.ndarray | jax.Array) and np.issubdtype(image.dtype, np.floating):
            levels = np.clip((np.asarray(image, np.float32) + 1.0) * 127.5, 0, 255).round().astype(np.uint8)
            return self.preprocess(levels)
        return self.preprocess(image)


@functools.partial(jax.jit, static_argnums=0)
def _embedded(network: Network, params: Params, images: Array) -> Array:
    return network.apply(params, images).embedding.astype(np.float32)


def load_image_encoder(
    folder: Path, preprocessor: Path | None, dtype: str = "auto", param_dtype: str = "float32"
) -> ImageEncoder:
    """The encoder in a folder of CLIPVisionModelWithProjection, with the preparation in another (preprocessor_config.json).

    Raises UserError as `convert.load_clip`, and for a folder without a vision tower.
    """
    config, params = convert.load_clip(folder)
    if "vision" not in config:
        raise UserError(f"{str(folder)!r} holds no vision tower")
    file = None if preprocessor is None else preprocessor / "preprocessor_config.json"
    told = read_json(file) if file is not None and file.is_file() else None
    prepared = from_preprocessor(told, config, repr(str(file or folder)))
    how = {"dtype": compute_dtype(dtype), "scan": True}
    sizes = {key: value for key, value in config["vision"].items() if key != "tower"}
    network = Network(lambda rngs: VisionTransformer(rngs, embed=config["embed"], **sizes, **how))
    prepare = build.preprocess(prepared, {"vision": sizes, "logit_bias": False})
    return ImageEncoder(folder, network, kept(params["visual"], param_dtype), config["embed"], prepare)
