"""Images as an encoder was trained on them: short side to a size, centre crop, RGB, normalised.

A `Preprocess` says what (arXiv 2103.00020 and its reference code: bicubic, centre crop); applied to a file, a PIL
image or an array of uint8 it does it on the host, through PIL; `on_device` does the same to a batch under `jit`.

PIL's resize is two passes over one axis each, and 8 bits between them. Per axis, from n pixels to m, with s = n / m
and f = max(s, 1), output i is centred on c = (i + 1/2) s and takes pixels j from trunc(c - rf + 1/2) up to, but
without, trunc(c + rf + 1/2), inside the image, with weights k((j - c + 1/2) / f), which are scaled to sum to 1: a
filter of radius r that is stretched when it reduces ("antialias"). k is the triangle (r = 1), Keys' cubic with
a = -1/2 (r = 2), Lanczos' (r = 3), Hamming's (r = 1) or the box (r = 1/2). Weights are rounded to multiples of 2^-22 and
sums to the nearest level, clipped to 0 .. 255. A resize in one shot or in floating point is 2 to 20 levels off on noise; in
integers, as here, none is. "nearest" has no filter: output i is the pixel below s/2 + s + ... + s (i times), summed so.

The width goes first; since Pillow 13 the height does when it loses more than twice as many pixels as the width loses.
`on_device` does as the Pillow that is installed. Sizes are torchvision's: the long side becomes int(size long / short),
the crop begins at round((side - crop) / 2), ties to even, or for Hugging Face's at the floor.

Three things differ from open_clip on purpose: 16-bit images keep their high byte (PIL saturates them to white),
`exif=True` turns an image the way its camera was held, and a file that cannot be read says which it is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import PIL
from jaxtyping import Float, UInt8
from PIL import Image

from diffusion_jax.data.pictures.decoding import Picture, open_picture
from diffusion_jax.typing import Array, UserError, one_of

__all__ = ["HALF", "OPENAI_MEAN", "OPENAI_STD", "SIGLIP", "Picture", "Preprocess", "check_unit_range"]

Images = TypeVar("Images", np.ndarray, Array)
Triple = tuple[float, float, float]

OPENAI_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
HALF: Triple = (0.5, 0.5, 0.5)
BITS = 22  # PIL's precision: 32, less 8 for a pixel, less 2 for weights that add up to more than 1 or to less than 0
RADIUS = {"bicubic": 2.0, "bilinear": 1.0, "lanczos": 3.0, "hamming": 1.0, "box": 0.5}
FILTERS = {name: Image.Resampling[name.upper()] for name in (*RADIUS, "nearest")}
HEIGHT_MAY_GO_FIRST = int(PIL.__version__.split(".")[0]) >= 13
WHOLE = 1 << 25  # pixels beyond which the crop alone is computed: 1 x 100,000 would become 224 x 22,400,000


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How images become the input of an encoder; the defaults are those of OpenAI's models at 224 pixels.

    size: pixels of the short side after resizing ("shortest"), or of both ("squash", which ignores the aspect ratio).
    crop: edge of the centre crop, `size` when None; at most `size`.
    mean, std: of red, green and blue in [0, 1], subtracted and divided by.
    interpolation: "bicubic", "bilinear", "lanczos", "hamming" or "box", all with antialiasing, or "nearest".
    rgb: "after" converts to RGB after resizing and cropping, as OpenAI and open_clip do (a palette or 1-bit image is
    then resized by nearest neighbour, all that PIL can do with it); "before" converts first, as Hugging Face does.
    centre: where a border of an odd width leaves the crop: "round" halves it with ties to even, as torchvision and open_clip
    do, "floor" downwards, as Hugging Face does.
    exif: obeys the file's EXIF orientation, which open_clip ignores.

    Raises UserError for a size below 1, a crop above the size, a std that is not positive, and an unknown name.
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

    def __post_init__(self) -> None:
        one_of("resize", self.resize, ("shortest", "squash"))
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

    @property
    def edge(self) -> int:
        """Height and width of what comes out."""
        return self.size if self.crop is None else self.crop

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of an image of that size after resizing, before the crop."""
        if self.resize == "squash":
            return self.size, self.size
        short, long = min(height, width), max(height, width)
        longer = int(self.size * long / short)
        return (longer, self.size) if width <= height else (self.size, longer)

    def _start(self, side: int) -> int:
        """Where the crop begins on a side of the resized image."""
        return (side - self.edge) // 2 if self.centre == "floor" else round((side - self.edge) / 2)

    def __call__(self, image: Picture) -> Float[np.ndarray, "edge edge 3"]:
        """One image, on the host: a path, the bytes of a file, a PIL image, or uint8 [h, w], [h, w, 1, 3 or 4].

        float32, normalised. An image with alpha loses it, as PIL's convert("RGB") does. Of one that would have more
        than 2^25 pixels before the crop (224 x 149,797) only the crop is computed, from RGB. Raises
        UserError for a file that is missing, not an image or cut short, and for an array of another shape or dtype.
        """
        return self.normalise(self.pixels(image))

    def pixels(self, image: Picture) -> UInt8[np.ndarray, "edge edge 3"]:
        """The same before normalisation, in 0 .. 255."""
        picture = open_picture(image, self.exif)
        if self.rgb == "before":
            picture = _rgb(picture)
        height, width = self.resized(picture.height, picture.width)
        if height * width > WHOLE:
            read, passes = self._passes(picture.height, picture.width)
            x = np.asarray(_rgb(picture))[None][read].astype(np.float64)  # holds the integers, and has a fast product
            for axes, weights in passes:
                sums = np.einsum(axes, x, weights.astype(np.float64), optimize=True)
                x = np.clip(np.floor((sums + (1 << (BITS - 1))) / (1 << BITS)), 0, 255)
            return x[0].astype(np.uint8)
        top, left = self._start(height), self._start(width)
        picture = picture.resize((width, height), FILTERS[self.interpolation])
        picture = picture.crop((left, top, left + self.edge, top + self.edge))
        return np.asarray(_rgb(picture))

    def batch(self, images: Iterable[Picture]) -> Float[np.ndarray, "n edge edge 3"]:
        """Several images of any sizes, on the host. Raises UserError when there are none, and as for one."""
        rows = [self(image) for image in images]
        if not rows:
            raise UserError("a batch of no images cannot be preprocessed; give one at least")
        return np.stack(rows)

    def on_device(self, images: UInt8[Any, "n h w c"] | Any) -> Float[Array, "n edge edge 3"]:
        """A batch of uint8 [n, h, w, 1 or 3] of one size, by JAX: the very levels that PIL makes.

        Under `jit` it compiles once a size. Arithmetic is of int32; a matrix of weights a pass, made on the host.
        Raises UserError for another shape or dtype.
        """
        _check_batch(images)
        read, passes = self._passes(*images.shape[1:3])
        x = jnp.asarray(images)[read].astype(jnp.int32)
        for axes, weights in passes:
            sums = jnp.einsum(axes, x, jnp.asarray(weights), preferred_element_type=jnp.int32)
            x = jnp.clip((sums + (1 << (BITS - 1))) >> BITS, 0, 255)
        return jnp.asarray(self.normalise(x))

    def _passes(self, height: int, width: int) -> tuple[tuple[slice, ...], list[tuple[str, np.ndarray]]]:
        """(the part of [n, h, w, c] that the crop depends on, the two passes in their order: axes and weights)."""
        tall, wide = self.resized(height, width)
        rows, down = _weights(height, tall, self._start(tall), self.edge, self.interpolation)
        columns, across = _weights(width, wide, self._start(wide), self.edge, self.interpolation)
        passes = [("nhwc,vw->nhvc", across), ("nhwc,vh->nvwc", down)]
        height_first = HEIGHT_MAY_GO_FIRST and height > tall and height - tall > 2 * (width - wide)
        return (slice(None), rows, columns), passes[::-1] if height_first else passes

    def random_resized_crop(
        self,
        image: Picture,
        rng: np.random.Generator,
        scale: tuple[float, float] = (0.9, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> Float[np.ndarray, "edge edge 3"]:
        """`random_pixels`, normalised."""
        return self.normalise(self.random_pixels(image, rng, scale, ratio))

    def random_pixels(
        self,
        image: Picture,
        rng: np.random.Generator,
        scale: tuple[float, float] = (0.9, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> UInt8[np.ndarray, "edge edge 3"]:
        """For training, on the host: a random part of the image, squashed to the crop's edge, in 0 .. 255.

        The part has a share `scale` of the area (uniform) and an aspect `ratio` width/height (log-uniform), anywhere;
        after ten that do not fit, the largest central one within `ratio` (torchvision's rule; scale as open_clip's).
        Raises UserError for a range that is not 0 < low <= high, a scale above 1, and as `__call__`.
        """
        if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]):
            raise UserError(f"scale {scale} and ratio {ratio}: each needs 0 < low <= high, and scale at most 1")
        picture = open_picture(image, self.exif)
        if self.rgb == "before":
            picture = _rgb(picture)
        left, top, width, height = random_box(picture.width, picture.height, rng, scale, ratio)
        picture = picture.crop((left, top, left + width, top + height))
        picture = picture.resize((self.edge, self.edge), FILTERS[self.interpolation])
        return np.asarray(_rgb(picture))

    def normalise(self, pixels: Any) -> Any:
        """(pixels / 255 - mean) / std in float32, of [..., 3] or grey [..., 1] in 0 .. 255; NumPy or JAX as given."""
        unit = pixels.astype(np.float32) / np.float32(255)
        return (unit - _channels(self.mean, unit)) / _channels(self.std, unit)

    def from_unit_range(self, images: Images) -> Images:
        """Images as they are elsewhere here, [..., 3] or grey [..., 1] in [-1, 1], to what the encoder takes: [..., 3].

        float32; affine, so that gradients pass; no resizing. NumPy in, NumPy out; under `jit` values are not looked at.
        Raises UserError for another number of channels, and for values that are NaN or outside [-1, 1].
        """
        check_unit_range(images)
        unit = images.astype(np.float32) * np.float32(0.5) + np.float32(0.5)
        return (unit - _channels(self.mean, unit)) / _channels(self.std, unit)

    def to_unit_range(self, normalised: Images) -> Images:
        """The inverse of `from_unit_range`, on [..., 3]."""
        if normalised.ndim == 0 or normalised.shape[-1] != 3:
            raise UserError(f"normalised images of shape {normalised.shape}: the last axis must be 3, the channels")
        unit = normalised * _channels(self.std, normalised) + _channels(self.mean, normalised)
        return unit * np.float32(2) - np.float32(1)


SIGLIP = Preprocess(224, HALF, HALF, resize="squash")
"""SigLIP's: squashed, in [-1, 1]. Another size by `dataclasses.replace(SIGLIP, size=256)`."""


def random_box(
    width: int, height: int, rng: np.random.Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a random part of an image; see `Preprocess.random_resized_crop`."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(*np.log(ratio)))
        wide, high = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            return int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1)), wide, high
    wide, high = min(width, max(1, round(height * ratio[1]))), min(height, max(1, round(width / ratio[0])))
    return (width - wide) // 2, (height - high) // 2, wide, high


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.copy()
        del picture.info["transparency"]  # colours are the palette's either way; with it, PIL warns at every image
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise UserError(f"an image of mode {picture.mode!r} cannot be made RGB: {error}") from None


def _channels(values: Sequence[float], like: Any) -> np.ndarray:
    """Three numbers in float32, of the rank of `like`."""
    return np.asarray(values, np.float32).reshape((1,) * (like.ndim - 1) + (3,))


@functools.lru_cache(maxsize=64)
def _weights(size: int, resized: int, start: int, count: int, interpolation: str) -> tuple[slice, np.ndarray]:
    """PIL's weights, in 2^-22, of outputs start .. start + count of a resize to `resized`.

    (the pixels that have any, their weights as int32 [count, pixels]).
    """
    stretch = size / resized
    if interpolation == "nearest":
        steps = np.concatenate([[stretch * 0.5], np.full(start + count - 1, stretch)])
        chosen = np.minimum(np.cumsum(steps)[start:].astype(int), size - 1)
        read = slice(int(chosen.min()), int(chosen.max()) + 1)
        return read, (chosen[:, None] == np.arange(read.start, read.stop)[None]).astype(np.int32) << BITS
    wide = max(stretch, 1.0)
    centre = (np.arange(start, start + count)[:, None] + 0.5) * stretch
    reach = RADIUS[interpolation] * wide
    first = np.maximum((centre - reach + 0.5).astype(int), 0)
    last = np.minimum((centre + reach + 0.5).astype(int), size)
    read = slice(int(first.min()), int(last.max()))
    pixel = np.arange(read.start, read.stop)[None, :]
    filtered = _kernel(interpolation, (pixel - centre + 0.5) * (1.0 / wide))
    filtered = np.where((pixel >= first) & (pixel < last), filtered, 0.0)
    fixed = filtered / filtered.sum(axis=1, keepdims=True) * (1 << BITS)
    return read, np.trunc(fixed + np.copysign(0.5, fixed)).astype(np.int32)


def _kernel(interpolation: str, x: np.ndarray) -> np.ndarray:
    """PIL's filters, at distances in units of their stretched pixel."""
    if interpolation == "box":
        return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)
    if interpolation == "lanczos":
        return np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0.0)
    x = np.abs(x)
    if interpolation == "hamming":
        return np.where(x < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0.0)
    if interpolation == "bilinear":
        return np.where(x < 1, 1 - x, 0.0)
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


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
