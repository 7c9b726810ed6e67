"""The condition of a picture joined by channels: a low-resolution copy, or the picture with a part of it hidden.

**low_resolution** (SR3, arXiv 2104.07636; cascades, arXiv 2106.15282): x0 with each side reduced by `factor`, by the mean of
factor x factor pixels, and brought back to its size bilinearly. What a cascade is given in sampling is drawn by another
model and has its faults; so the copy y is noised in training (conditioning augmentation, section 3 of the second),

    image = cos(pi s / 2) y + sin(pi s / 2) eps,   level = s ~ U(0, 1),

and the network is told s. In sampling s is `sample_level`. Nothing told is 0 at level 1, where nothing of y is left.

**masked** (the inpainting of GLIDE, arXiv 2112.10741): `image` has the channels of the picture, 0 where it is hidden, and one
more, the mask, 1 where it is hidden. What is hidden in training is half of the time a box, of sides from a quarter to the
whole of the picture's, and else a thick line through four random points. Nothing told is all hidden.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from diffusion_jax.data.pictures.decoding import in_channels, open_picture
from diffusion_jax.metrics import psnr
from diffusion_jax.systems.diffusion.conditions.condition import SHOWN, Pick, Plain
from diffusion_jax.systems.diffusion.conditions.pictures import Pictures, pictures_of
from diffusion_jax.typing import Array, PyTree, Source, UserError, one_of

__all__ = ["IMAGE_KINDS", "LowResolution", "Masked", "hidden", "image", "reduced", "shrunk"]

_NOISE = 2000  # what an example's key is folded with for the noise on its low-resolution copy, apart from the sampler's


def shrunk(images: Float[Array, "batch height width channels"], factor: int) -> Float[Array, "batch h w channels"]:
    """The images of factor x factor fewer pixels, each the mean of as many."""
    b, h, w, c = images.shape
    return images.reshape(b, h // factor, factor, w // factor, factor, c).mean(axis=(2, 4))


def reduced(
    images: Float[Array, "batch height width channels"], factor: int
) -> Float[Array, "batch height width channels"]:
    """The same at their size again by bilinear interpolation."""
    return jax.image.resize(shrunk(images, factor), images.shape, "bilinear")


def _noised(images: Array, level: Array, noise: Array) -> Array:
    angle = (0.5 * math.pi * level)[:, None, None, None]
    return jnp.cos(angle) * images + jnp.sin(angle) * noise


@dataclasses.dataclass(frozen=True, eq=False)
class _Joined(Plain):
    """What both kinds share: everything is made of the picture within the step."""

    pictures: Pictures
    drop: float

    def training(self, data: Source) -> Pick:
        """Nothing: all is made in the step."""
        return lambda rows, rng: {}

    def held_out(self, data: Source) -> PyTree:
        """Nothing, as `training`."""
        return {}


@dataclasses.dataclass(frozen=True, eq=False)
class LowResolution(_Joined):
    """`image` [h, w, c] and its noise `level`; see the module."""

    factor: int = 4
    sample_level: float = 0.0
    asks: ClassVar[tuple[str, ...]] = ("image",)

    @property
    def entries(self) -> Mapping[str, tuple[int, ...]]:
        """Of the size of the pictures."""
        return {"image": self.pictures.shape, "level": ()}

    @property
    def null(self) -> PyTree:  # type: ignore[override]
        """Zeros at level 1."""
        return {"image": np.zeros((1, *self.pictures.shape), np.float32), "level": np.ones(1, np.float32)}

    def made(self, frozen: PyTree, images: Array, key: Array) -> PyTree:
        """The copies of the batch, each with noise of its own level."""
        key_level, key_noise = jax.random.split(key)
        level = jax.random.uniform(key_level, images.shape[:1])
        noise = jax.random.normal(key_noise, images.shape)
        return {"image": _noised(reduced(images, self.factor), level, noise), "level": level}

    def shown(self, data: Source, held_out: Source) -> list[Any]:
        """The first pictures that are held out."""
        return [held_out[i]["image"] for i in range(min(SHOWN, len(held_out)))]

    def listed(self, what: str, given: Any) -> list[Any]:
        """Pictures."""
        return pictures_of(what, given)

    def request(self, requests: Sequence[Any]) -> PyTree:
        """Of pictures without noise: those of the reduced size as they are, others reduced; `drawn` puts noise to them."""
        small = self._small(requests)
        image = jax.image.resize(small, (len(small), *self.pictures.shape), "bilinear")
        return {"image": np.asarray(image), "level": np.zeros(len(small), np.float32)}

    def _small(self, requests: Sequence[Any]) -> np.ndarray:
        """What requests show, [n, height / factor, width / factor, channels]."""
        h, w, c = self.pictures.shape
        small, found = Pictures((h // self.factor, w // self.factor, c), self.pictures.prepare), []
        for request in requests:
            there = _of_shape(request, small.shape)
            if there is not None:
                found.append(small([there]))
            else:
                found.append(np.asarray(shrunk(jnp.asarray(self.pictures([request])), self.factor)))
        return np.concatenate(found)

    def fidelity(self, requests: Sequence[Any], images: np.ndarray) -> np.ndarray:
        """Of the images reduced, beside what the requests show."""
        made = np.asarray(shrunk(jnp.asarray(np.clip(images, -1.0, 1.0), jnp.float32), self.factor))
        return psnr(made, self._small(requests))

    def drawn(self, cond: PyTree, keys: Array) -> PyTree:
        """With noise of `sample_level`, of each example's key; what is told nothing stays so."""
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, _NOISE), self.pictures.shape))(keys)
        level = jnp.full(keys.shape, self.sample_level)
        told = cond["level"] == 0
        noised = _noised(jnp.asarray(cond["image"]), level, noise)
        return {
            "image": jnp.where(told[:, None, None, None], noised, cond["image"]),
            "level": jnp.where(told, level, cond["level"]),
        }


def _of_shape(request: Any, shape: tuple[int, ...]) -> Any:
    """An array, or the levels of an opaque picture, that has this shape already; None for another, which is to be prepared."""
    if isinstance(request, np.ndarray | jax.Array):
        return request if np.shape(request) == shape else None
    picture = open_picture(request, exif=True)
    if (picture.height, picture.width) != shape[:2] or picture.mode not in ("L", "RGB"):
        return None
    return np.asarray(in_channels(picture, shape[2])).reshape(shape)


def hidden(key: Array, shape: tuple[int, int, int]) -> Float[Array, "batch height width 1"]:
    """Random parts of pictures, 1 where they are hidden: a box or a thick line; `shape` is (batch, height, width)."""
    batch, height, width = shape
    keys = jax.random.split(key, 5)
    size = jnp.array([height, width], jnp.float32)
    y, x = jnp.arange(height) + 0.5, jnp.arange(width) + 0.5
    place = jnp.stack(jnp.broadcast_arrays(y[:, None], x[None, :]), axis=-1)[None]  # [1, h, w, 2]
    sides = jax.random.uniform(keys[0], (batch, 2), minval=0.25, maxval=1.0) * size[None]
    corner = jax.random.uniform(keys[1], (batch, 2)) * (size[None] - sides)
    within = place - corner[:, None, None]
    box = jnp.all((within >= 0) & (within <= sides[:, None, None]), axis=-1)
    points = jax.random.uniform(keys[2], (batch, 4, 2)) * size[None, None]
    thick = jax.random.uniform(keys[3], (batch,), minval=0.04, maxval=0.12) * min(height, width)
    lines = jnp.zeros((batch, height, width), bool)
    for i in range(3):
        start, along = points[:, None, None, i], (points[:, i + 1] - points[:, i])[:, None, None]
        share = jnp.sum((place - start) * along, axis=-1) / jnp.maximum(jnp.sum(along**2, axis=-1), 1e-6)
        nearest = start + jnp.clip(share, 0.0, 1.0)[..., None] * along
        lines |= jnp.sum((place - nearest) ** 2, axis=-1) <= jnp.maximum(thick, 0.75)[:, None, None] ** 2
    boxes = jax.random.bernoulli(keys[4], 0.5, (batch,))
    return jnp.where(boxes[:, None, None], box, lines)[..., None].astype(jnp.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Masked(_Joined):
    """`image` [h, w, c + 1]: the picture with a part hidden, and the mask; see the module."""

    asks: ClassVar[tuple[str, ...]] = ("image", "mask")

    @property
    def entries(self) -> Mapping[str, tuple[int, ...]]:
        """The channels of the pictures and one more."""
        h, w, c = self.pictures.shape
        return {"image": (h, w, c + 1)}

    @property
    def null(self) -> PyTree:  # type: ignore[override]
        """All hidden."""
        h, w, c = self.pictures.shape
        return {"image": np.concatenate([np.zeros((1, h, w, c)), np.ones((1, h, w, 1))], axis=-1).astype(np.float32)}

    def made(self, frozen: PyTree, images: Array, key: Array) -> PyTree:
        """The batch with random parts hidden."""
        batch, height, width = images.shape[:3]
        mask = hidden(key, (batch, height, width))
        return {"image": jnp.concatenate([images * (1.0 - mask), mask], axis=-1)}

    def shown(self, data: Source, held_out: Source) -> list[Any]:
        """The first pictures that are held out, without their middle."""
        h, w, _ = self.pictures.shape
        mask = np.zeros((h, w), np.uint8)
        mask[h // 4 : -(h // 4) or None, w // 4 : -(w // 4) or None] = 255
        return [{"image": held_out[i]["image"], "mask": mask} for i in range(min(SHOWN, len(held_out)))]

    def listed(self, what: str, given: Any) -> list[Any]:
        """{"image", "mask"} or several."""
        found = [given] if isinstance(given, Mapping) else list(given) if isinstance(given, list | tuple) else []
        if not found:
            raise UserError(
                f"{what}: give {{'image': a picture, 'mask': a picture, white where it is hidden}}, or several"
            )
        return found

    def request(self, requests: Sequence[Any]) -> PyTree:
        """Of {"image", "mask"}; without both it is told nothing. UserError for one alone."""
        rows = []
        for request in requests:
            one_of_asked(request, self.asks)
            picture, mask = request.get("image"), request.get("mask")
            if picture is None and mask is None:
                rows.append(self.null["image"])
                continue
            if picture is None or mask is None:
                lacks = "mask" if mask is None else "image"
                raise UserError(
                    f"a request without {lacks!r}: a masked picture is {{'image': ..., 'mask': ...}} (sample: give --{lacks} "
                    "FILE too)"
                )
            seen = 1.0 - self._mask(mask)
            rows.append(np.concatenate([self.pictures([picture]) * seen, 1.0 - seen], axis=-1))
        return {"image": np.concatenate(rows).astype(np.float32)}

    def fidelity(self, requests: Sequence[Any], images: np.ndarray) -> np.ndarray:
        """Of the pixels that are not hidden."""
        told = self.request(requests)["image"]
        return psnr(images, told[..., :-1], told[..., -1:] == 0)

    def _mask(self, given: Any) -> np.ndarray:
        """float32 [1, h, w, 1], 1 where hidden: of bools or 0 and 1 as they are, of a picture where it is lighter than grey.

        A picture is resized and cropped as the one that it hides a part of is.
        """
        h, w, _ = self.pictures.shape
        array = np.asarray(given) if isinstance(given, np.ndarray | jax.Array) else None
        if array is not None and (array.dtype == bool or np.issubdtype(array.dtype, np.floating)):
            if array.shape not in ((h, w), (h, w, 1)) or not np.isin(array, (0, 1)).all():
                raise UserError(
                    f"a mask of shape {array.shape}: it is {(h, w)}, 1 or True where the picture is hidden, else 0"
                )
            return array.reshape(1, h, w, 1).astype(np.float32)
        grey = self.pictures([np.asarray(open_picture(given, exif=True).convert("L"))])  # an array: white stays white
        return (grey.mean(axis=-1, keepdims=True) > 0).astype(np.float32)


def one_of_asked(request: Any, asks: Sequence[str]) -> None:
    """UserError for a request that is no {name: value} of what is asked."""
    if not isinstance(request, Mapping):
        raise UserError(f"a request is {{{', '.join(f'{ask!r}: ...' for ask in asks)}}}, not {type(request).__name__}")
    for name in request:
        one_of("request", name, asks)


def image(
    config: ConfigDict,
    kind: str = "low_resolution",
    factor: int = 4,
    sample_level: float = 0.0,
    drop: float = 0.1,
    run: Path | None = None,
    data: Source | None = None,
) -> LowResolution | Masked:
    """The image condition of a config, or of the run in `run`. UserError for a factor that does not divide the pictures."""
    pictures = Pictures.of(config, run, data)
    if one_of("condition.kind", kind, IMAGE_KINDS) == "masked":
        return Masked(pictures, drop)
    height, width, _ = pictures.shape
    if factor < 2 or height % factor or width % factor:
        near = [n for n in range(2, min(height, width) + 1) if height % n == 0 and width % n == 0]
        hint = f"; nearest: {min(near, key=lambda n: abs(n - factor))}" if near else ""
        raise UserError(f"config key 'condition.factor' is {factor}: it divides pictures of {height} x {width}{hint}")
    return LowResolution(pictures, drop, factor, sample_level)


IMAGE_KINDS = ("low_resolution", "masked")
