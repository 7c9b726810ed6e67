"""Images as a network was trained on them: short side to a size, centre crop, RGB or grey, normalised.

A `Preprocess` says what (arXiv 2103.00020 and its reference code: bicubic, centre crop); applied to a file, a PIL
image or an array of uint8 it does it on the host, through PIL; `on_device` does the same to a batch under `jit`, by the
weights of `resizing`.

The width goes first; since Pillow 13 the height does when it loses more than twice as many pixels as the width loses.
`on_device` does as the Pillow that is installed. Sizes are torchvision's: the long side becomes int(size long / short),
the crop begins at round((side - crop) / 2), ties to even, or for Hugging Face's at the floor.

Three things differ from open_clip on purpose: 16-bit images keep their high byte (PIL saturates them to white),
`exif=True` turns an image the way its camera was held, and a file that cannot be read says which it is.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import PIL
from jaxtyping import Float, UInt8
from PIL import Image

from diffusion_jax.data.pictures.boxes import even_box, random_box
from diffusion_jax.data.pictures.decoding import Picture, colour, in_channels, open_picture
from diffusion_jax.data.pictures.resizing import BITS, FILTERS, weights
from diffusion_jax.typing import Array, UserError, one_of

__all__ = ["HALF", "OPENAI_MEAN", "OPENAI_STD", "SIGLIP", "Picture", "Preprocess", "check_unit_range"]

Images = TypeVar("Images", np.ndarray, Array)
Triple = tuple[float, float, float]

OPENAI_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
HALF: Triple = (0.5, 0.5, 0.5)
LUMA = (19595, 38470, 7471)  # of 65536: PIL's L, ITU-R 601-2
HEIGHT_MAY_GO_FIRST = int(PIL.__version__.split(".")[0]) >= 13
RESIZE = ("shortest", "squash", "none")
WHOLE = 1 << 25  # pixels beyond which the crop alone is computed: 1 x 100,000 would become 224 x 22,400,000


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How images become the input of an encoder; the defaults are those of OpenAI's models at 224 pixels.

    size: pixels of the short side after resizing ("shortest"), or of both ("squash", which ignores the aspect ratio; "none",
    which takes pictures of that size alone).
    crop: edge of the centre crop, `size` when None; at most `size`.
    mean, std: of red, green and blue in [0, 1], subtracted and divided by.
    interpolation: "bicubic", "bilinear", "lanczos", "hamming" or "box", all with antialiasing, or "nearest".
    rgb: "after" converts to RGB after resizing and cropping, as OpenAI and open_clip do (a palette or 1-bit image is
    then resized by nearest neighbour, all that PIL can do with it); "before" converts first, as Hugging Face does.
    centre: where a border of an odd width leaves the crop: "round" halves it with ties to even, as torchvision and open_clip
    do, "floor" downwards, as Hugging Face does.
    exif: obeys the file's EXIF orientation, which open_clip ignores.
    channels: 3, or 1 for grey, PIL's L = (19595 R + 38470 G + 7471 B) / 65536, of which `mean` and `std` are taken too.
    background: the colour that what is transparent is seen over, a name, "#rrggbb" or (red, green, blue), in place of alpha
    being dropped; a picture is then made RGB where it is opened.

    Raises UserError for a size below 1, a crop above the size, a std that is not positive, another number of channels and
    an unknown name or colour.
    """

    size: int = 224
    mean: Sequence[float] = OPENAI_MEAN
    std: Sequence[float] = OPENAI_STD
    resize: str = "shortest"
    crop: int | None = None
    interpolation: str = "bicubic"
    rgb: str = "after"
    centre: str = "round"
    exif: bool = False
    channels: int = 3
    background: str | Sequence[int] | None = None

    def __post_init__(self) -> None:
        one_of("resize", self.resize, RESIZE)
        one_of("interpolation", self.interpolation, FILTERS)
        one_of("rgb", self.rgb, ("after", "before"))
        one_of("centre", self.centre, ("round", "floor"))
        if self.size < 1:
            raise UserError(f"size {self.size} of a preprocessed image is below 1; usual: 224")
        if not 1 <= self.edge <= self.size:
            raise UserError(
                f"crop {self.crop} is not in 1 .. {self.size}, the size it is cut from; nearest: {self.size}"
            )
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3 or not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
                raise UserError(f"{name} {values} must be three finite numbers{', above 0' * (name == 'std')}")
            object.__setattr__(self, name, values)  # a list, as JSON gives it, cannot be hashed
        if self.channels not in (1, 3):
            raise UserError(f"channels {self.channels} of a preprocessed image are neither 3 nor 1; nearest: 3")
        if self.background is not None and not isinstance(self.background, str):
            object.__setattr__(self, "background", tuple(self.background))
        colour(self.background)

    @property
    def edge(self) -> int:
        """Height and width of what comes out."""
        return self.size if self.crop is None else self.crop

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of an image of that size after resizing, before the crop."""
        if self.resize != "shortest":
            return self.size, self.size
        short, long = min(height, width), max(height, width)
        longer = int(self.size * long / short)
        return (longer, self.size) if width <= height else (self.size, longer)

    def _start(self, side: int) -> int:
        """Where the crop begins on a side of the resized image."""
        return (side - self.edge) // 2 if self.centre == "floor" else round((side - self.edge) / 2)

    def __call__(self, image: Picture) -> Float[np.ndarray, "edge edge channels"]:
        """One image, on the host: a path, the bytes of a file, a PIL image, or uint8 [h, w], [h, w, 1, 3 or 4].

        float32, normalised. Without a background an image with alpha loses it, as PIL's convert("RGB") does. Of one that
        would have more than 2^25 pixels before the crop (224 x 149,797) only the crop is computed, from RGB. Raises
        UserError for a file that is missing, not an image or cut short, for an array of another shape or dtype, and for
        one of another size where nothing is resized.
        """
        return self.normalise(self.pixels(image))

    def pixels(self, image: Picture) -> UInt8[np.ndarray, "edge edge channels"]:
        """The same before normalisation, in 0 .. 255."""
        picture = self._opened(image)
        height, width = self.resized(picture.height, picture.width)
        if self.resize == "none" and (picture.height, picture.width) != (height, width):
            name = f"{image}: " if isinstance(image, str | os.PathLike) else ""
            raise UserError(
                f"{name}a picture of {picture.height} x {picture.width} where resize='none' takes {height} x {width} alone; "
                "nearest: resize='shortest'"
            )
        if height * width > WHOLE:
            read, passes = self._passes(picture.height, picture.width)
            x = _array(picture if self.rgb == "before" else in_channels(picture, 3))[None][read]
            x = x.astype(np.float64)  # holds the integers, and has a fast product
            for axes, matrix in passes:
                sums = np.einsum(axes, x, matrix.astype(np.float64), optimize=True)
                x = np.clip(np.floor((sums + (1 << (BITS - 1))) / (1 << BITS)), 0, 255)
            return self._in_channels(x[0].astype(np.int32)).astype(np.uint8)
        top, left = self._start(height), self._start(width)
        picture = picture.resize((width, height), FILTERS[self.interpolation])
        if (width, height) != (self.edge, self.edge):
            picture = picture.crop((left, top, left + self.edge, top + self.edge))
        return _array(in_channels(picture, self.channels))

    def _opened(self, image: Picture) -> Image.Image:
        picture = open_picture(image, self.exif, self.background)
        return in_channels(picture, self.channels) if self.rgb == "before" else picture

    def batch(self, images: Iterable[Picture]) -> Float[np.ndarray, "n edge edge channels"]:
        """Several images of any sizes, on the host. Raises UserError when there are none, and as for one."""
        rows = [self(image) for image in images]
        if not rows:
            raise UserError("a batch of no images cannot be preprocessed; give one at least")
        return np.stack(rows)

    def on_device(self, images: UInt8[Any, "n h w c"] | Any) -> Float[Array, "n edge edge channels"]:
        """A batch of uint8 [n, h, w, 1 or 3] of one size, by JAX: the very levels that PIL makes.

        Under `jit` it compiles once a size. Arithmetic is of int32; a matrix of weights a pass, made on the host.
        Raises UserError for another shape or dtype, and for another size where nothing is resized.
        """
        _check_batch(images)
        if self.resize == "none" and images.shape[1:3] != (self.size, self.size):
            raise UserError(f"images of shape {images.shape} where resize='none' takes {self.size} x {self.size} alone")
        read, passes = self._passes(*images.shape[1:3])
        x = jnp.asarray(images)[read].astype(jnp.int32)
        x = self._in_channels(x) if self.rgb == "before" else x
        for axes, matrix in passes:
            sums = jnp.einsum(axes, x, jnp.asarray(matrix), preferred_element_type=jnp.int32)
            x = jnp.clip((sums + (1 << (BITS - 1))) >> BITS, 0, 255)
        return jnp.asarray(self.normalise(self._in_channels(x)))

    def _in_channels(self, x: Any) -> Any:
        """Levels [..., 3 or 1] in int32 made grey where that is wanted, as PIL's L."""
        if self.channels == 3 or x.shape[-1] == 1:
            return x
        red, green, blue = (x[..., i : i + 1] * LUMA[i] for i in range(3))
        return (red + green + blue + (1 << 15)) >> 16

    def _passes(self, height: int, width: int) -> tuple[tuple[slice, ...], list[tuple[str, np.ndarray]]]:
        """(the part of [n, h, w, c] that the crop depends on, the two passes in their order: axes and weights)."""
        tall, wide = self.resized(height, width)
        rows, down = weights(height, tall, self._start(tall), self.edge, self.interpolation)
        columns, across = weights(width, wide, self._start(wide), self.edge, self.interpolation)
        passes = [("nhwc,vw->nhvc", across), ("nhwc,vh->nvwc", down)]
        height_first = HEIGHT_MAY_GO_FIRST and height > tall and height - tall > 2 * (width - wide)
        return (slice(None), rows, columns), passes[::-1] if height_first else passes

    def random_resized_crop(
        self,
        image: Picture,
        rng: np.random.Generator,
        scale: tuple[float, float] = (0.9, 1.0),
        ratio: tuple[float, float] | None = (3 / 4, 4 / 3),
    ) -> Float[np.ndarray, "edge edge channels"]:
        """`random_pixels`, normalised."""
        return self.normalise(self.random_pixels(image, rng, scale, ratio))

    def random_pixels(
        self,
        image: Picture,
        rng: np.random.Generator,
        scale: tuple[float, float] = (0.9, 1.0),
        ratio: tuple[float, float] | None = (3 / 4, 4 / 3),
    ) -> UInt8[np.ndarray, "edge edge channels"]:
        """For training, on the host: a random part of the image, resized to the crop's edge, in 0 .. 255.

        The part has a share `scale` of the area (uniform) and an aspect `ratio` width/height (log-uniform), anywhere;
        after ten that do not fit, the largest central one within `ratio` (torchvision's rule; scale as open_clip's).
        A `ratio` of None distorts nothing more than `resize` does: the part is a square ("squash": of the image's aspect)
        with a share `scale` of the largest one. Raises UserError for a range that is not 0 < low <= high, a scale above 1,
        where nothing is resized, and as `__call__`.
        """
        if not (0 < scale[0] <= scale[1] <= 1 and (ratio is None or 0 < ratio[0] <= ratio[1])):
            raise UserError(f"scale {scale} and ratio {ratio}: each needs 0 < low <= high, and scale at most 1")
        if self.resize == "none":
            raise UserError(
                "resize='none' leaves nothing for a random part to be resized by; nearest: resize='shortest'"
            )
        picture = self._opened(image)
        if ratio is None:
            left, top, width, height = even_box(picture.width, picture.height, rng, scale, self.resize == "shortest")
        else:
            left, top, width, height = random_box(picture.width, picture.height, rng, scale, ratio)
        picture = picture.crop((left, top, left + width, top + height))
        picture = picture.resize((self.edge, self.edge), FILTERS[self.interpolation])
        return _array(in_channels(picture, self.channels))

    def normalise(self, pixels: Any) -> Any:
        """(pixels / 255 - mean) / std in float32, of [..., channels] or grey [..., 1] in 0 .. 255; NumPy or JAX as given."""
        self._check_channels(pixels)
        unit = pixels.astype(np.float32) / np.float32(255)
        return (unit - self._channels(self.mean, unit)) / self._channels(self.std, unit)

    def from_unit_range(self, images: Images) -> Images:
        """Images as they are elsewhere here, [..., channels] or grey [..., 1] in [-1, 1], to what the encoder takes.

        float32; affine, so that gradients pass; no resizing. NumPy in, NumPy out; under `jit` values are not looked at.
        Raises UserError for another number of channels, and for values that are NaN or outside [-1, 1].
        """
        check_unit_range(images)
        self._check_channels(images)
        unit = images.astype(np.float32) * np.float32(0.5) + np.float32(0.5)
        return (unit - self._channels(self.mean, unit)) / self._channels(self.std, unit)

    def to_unit_range(self, normalised: Images) -> Images:
        """The inverse of `from_unit_range`, on [..., channels]."""
        if normalised.ndim == 0 or normalised.shape[-1] != self.channels:
            raise UserError(
                f"normalised images of shape {normalised.shape}: the last axis must be {self.channels}, the channels"
            )
        unit = normalised * self._channels(self.std, normalised) + self._channels(self.mean, normalised)
        return unit * np.float32(2) - np.float32(1)

    def _check_channels(self, images: Any) -> None:
        if images.shape[-1] not in (1, self.channels):
            raise UserError(f"images of shape {images.shape}: the last axis must be {self.channels}, the channels")

    def _channels(self, values: Sequence[float], like: Any) -> np.ndarray:
        """A number a channel in float32, of the rank of `like`; of grey the three weighed as PIL weighs colours."""
        found = np.asarray(values, np.float64)
        if self.channels == 1:
            found = (found @ np.asarray(LUMA, np.float64) / (1 << 16))[None]
        return found.astype(np.float32).reshape((1,) * (like.ndim - 1) + (self.channels,))


SIGLIP = Preprocess(224, HALF, HALF, resize="squash")
"""SigLIP's: squashed, in [-1, 1]. Another size by `dataclasses.replace(SIGLIP, size=256)`."""


def _array(picture: Image.Image) -> np.ndarray:
    """uint8 [height, width, channels] of an image of mode RGB or L."""
    found = np.asarray(picture)
    return found if found.ndim == 3 else found[..., None]


def _check_batch(images: Any) -> None:
    shape, dtype = np.shape(images), getattr(images, "dtype", type(images).__name__)
    if len(shape) == 4 and shape[-1] not in (1, 3) and shape[1] in (1, 3):
        raise UserError(f"images of shape {shape} have the channels second; give images.transpose(0, 2, 3, 1)")
    if len(shape) != 4 or shape[-1] not in (1, 3) or 0 in shape:
        raise UserError(f"images of shape {shape}: a batch is [n, height, width, 3 or 1], n at least 1")
    if dtype != np.uint8:
        raise UserError(f"images of {dtype}: give uint8 in 0 .. 255; from [-1, 1] by report.pictures.to_uint8")


def check_unit_range(images: Any, most: float = 1.001) -> None:
    """UserError unless `images` are floats [..., height, width, 3 or 1] in [-1, 1]; under `jit` values are not looked at.

    `most` is the largest value that is let pass: what rounding alone puts outside, or what a sampler does.
    """
    shape = np.shape(images)
    if len(shape) < 3 or shape[-1] not in (1, 3):
        raise UserError(f"images of shape {shape}: give [..., height, width, 3 or 1]")
    if 0 in shape:
        raise UserError(f"images of shape {shape}: there are none; give one at least")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"images of {images.dtype}: give floats in [-1, 1]; uint8 is for Preprocess.on_device")
    if isinstance(images, jax.core.Tracer):
        return
    low, high = float(images.min()), float(images.max())
    if not (low >= -most and high <= most):  # also refuses NaN
        raise UserError(
            f"images from {low:g} to {high:g} are not in [-1, 1]; clip them, or rescale 0 .. 255 by x/127.5 - 1"
        )
