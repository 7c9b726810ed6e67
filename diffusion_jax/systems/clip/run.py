"""A dual encoder ready to be used, trained here or published: `ClipRun`."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from diffusion_jax import build, runs
from diffusion_jax.data.pictures.preprocess import Preprocess, check_unit_range
from diffusion_jax.nets import Network
from diffusion_jax.parallel.mesh import batch_sharding, make_mesh, replicated
from diffusion_jax.systems.clip.loss import in_batches, text_condition, unit
from diffusion_jax.systems.clip.network import clip_network, clip_sizes
from diffusion_jax.train.checkpoint import restore_params
from diffusion_jax.typing import Params, Tokenizer, UserError, texts_of, whole_number

__all__ = [
    "VOCABULARY", "ClipRun", "check_end", "clip_model_of", "clip_parts", "example_of", "load_clip", "load_run_of",
    "preprocess_group",
]  # fmt: skip

VOCABULARY = "vocabulary"
"""The folder of a run that holds a copy of its vocabulary's files."""


SAMPLED = 4.0  # how far samples that nothing clips stand outside [-1, 1]; pictures in 0 .. 255 are beyond


@dataclasses.dataclass(frozen=True, eq=False)
class ClipRun:
    """A trained dual encoder: `encode_image`, `encode_text`, and `condition` for what diffusion models are given.

    `preprocess` says how pictures become its input; without one it takes images in [-1, 1] as they are.
    """

    path: Path
    config: ConfigDict
    network: Network
    params: Params
    tokenizer: Tokenizer
    preprocess: Preprocess | None = None

    def encode_image(self, images: Any, *, batch_size: int = 256) -> np.ndarray:
        """Unit-norm embeddings [n, embed] of images [n, height, width, channels] in [-1, 1], of the tower's size.

        With a `preprocess` also of pictures of any size (paths, bytes, PIL images, uint8 arrays). One picture alone, also
        an array [height, width, channels], counts as one and gives [1, embed]. Raises UserError for none, for pictures
        that cannot be read, and for another size, dtype or range.
        """
        pre, size, rows = self.preprocess, whole_number("batch_size", batch_size, 1), _pictures(images)
        if isinstance(rows, np.ndarray) and np.issubdtype(rows.dtype, np.floating):
            if pre is None:
                check_unit_range(rows, SAMPLED)
                return self._embed(rows.astype(np.float32), size)
            return self._embed(np.asarray(pre.from_unit_range(rows)), size)
        if pre is None:
            raise UserError(f"images of {getattr(rows, 'dtype', type(rows[0]).__name__)}: give floats in [-1, 1]")
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        if (
            isinstance(rows, np.ndarray)
            and rows.dtype == np.uint8
            and rows.shape[1:] == (pre.edge, pre.edge, pre.channels)
        ):
            return np.concatenate([self._embed(pre.normalise(part), size) for part in parts])
        return np.concatenate([self._embed(pre.batch(part), size) for part in parts])

    def _embed(self, images: np.ndarray, batch_size: int) -> np.ndarray:
        """Embeddings of prepared images, each batch spread over this process's devices where they divide it."""
        encode = _encoders(self.network)[0]
        devices = jax.local_devices()
        size = min(batch_size, len(images)) // len(devices) * len(devices)
        if len(devices) == 1 or size == 0:
            return in_batches(lambda x: encode(self.params, x), images, size=batch_size)
        params, rows = self._copies
        return in_batches(lambda x: encode(params, jax.device_put(x, rows)), images, size=size)

    @functools.cached_property
    def _copies(self) -> tuple[Params, Any]:
        """The weights on every device of this process, and how a batch is spread over them."""
        mesh = make_mesh(devices=jax.local_devices())
        return jax.device_put(self.params, replicated(mesh)), batch_sharding(mesh)

    @property
    def image_encoder(self) -> Any:
        """images [n, height, width, channels] -> embeddings [n, embed] as a pytree of its weights, for `clip_guidance`."""
        return jax.tree_util.Partial(_image_embedding(self.network, self.preprocess), self.params)

    def encode_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """Unit-norm embeddings [n, embed] of the texts, or [1, embed] of one; unknown words are left out.

        `tokenizer.explain` says which. UserError for none, and for what is no text.
        """
        encode = _encoders(self.network)[2]
        encoded = self.tokenizer.encode(texts_of("texts", texts))
        return in_batches(lambda x: encode(self.params, x), encoded["tokens"])

    def condition(self, texts: str | Sequence[str]) -> dict[str, np.ndarray]:
        """The condition of a diffusion model for each text: {"pooled", "tokens", "length"}, leading axis n; as above."""
        encoded = self.tokenizer.encode(texts_of("texts", texts))
        encode = _encoders(self.network)[1]
        return in_batches(lambda *x: encode(self.params, *x), encoded["tokens"], encoded["length"])


def _pictures(images: Any) -> Any:
    """A list of pictures, or an array whose first axis counts them; what is one picture becomes one of them.

    An array of channels last is one at [height, width, 1, 3 or 4], and at [height, width] where it is uint8.
    """
    if isinstance(images, jax.Array):
        images = np.asarray(images)
    if isinstance(images, str | os.PathLike | bytes | bytearray | Image.Image):
        return [images]
    if isinstance(images, np.ndarray):
        if (images.ndim == 3 and images.shape[-1] in (1, 3, 4)) or (images.ndim == 2 and images.dtype == np.uint8):
            return images[None]
        if not images.ndim or not len(images):
            raise UserError(f"images of shape {images.shape}: give one picture at least")
        return images
    if not isinstance(images, Iterable) or isinstance(images, Mapping | set | frozenset):
        raise UserError(f"images is a {type(images).__name__}: give a picture, a list of pictures or an array")
    rows = list(images)
    if not rows:
        raise UserError("images holds no picture: give at least one")
    arrays = [np.asarray(row) for row in rows if isinstance(row, np.ndarray | jax.Array)]
    if len(arrays) == len(rows) and all(np.issubdtype(row.dtype, np.floating) for row in arrays):
        shapes = sorted({row.shape for row in arrays})
        if len(shapes) > 1:
            raise UserError(f"images of shapes {shapes[0]} and {shapes[1]}: float images of a list have one shape")
        return np.stack(arrays)
    return rows


@functools.cache
def _image_embedding(network: Network, preprocess: Preprocess | None) -> Any:
    """images -> embeddings as a function of (params, images), one object a network, so that it compiles once."""
    encode = network.method("encode_image")
    prepare = (lambda images: images) if preprocess is None else preprocess.from_unit_range
    return lambda params, images: encode(params, jax.numpy.asarray(prepare(images))).embedding


@functools.cache
def _encoders(network: Network) -> tuple[Any, Any, Any]:
    """The compiled encoders of a network: images, conditions, texts; weights are arguments, so that others do not recompile."""
    encode_image, encode_text = (network.method(name) for name in ("encode_image", "encode_text"))
    image = jax.jit(lambda params, images: unit(encode_image(params, images).embedding))
    text = jax.jit(lambda params, tokens: unit(encode_text(params, tokens).embedding))
    return image, jax.jit(functools.partial(text_condition, encode_text)), text


def check_end(tokenizer: Tokenizer, text: Mapping[str, Any]) -> None:
    """UserError unless the text tower (keyword arguments) takes its feature where the tokenizer ends a text."""
    end = getattr(tokenizer, "end", None)
    if text["pool"] != "end" or end is None:
        return
    wanted = tokenizer.vocabulary_size - 1 if text["end_token"] is None else text["end_token"]
    if end != wanted:
        what = "the largest id of a row" if text["end_token"] is None else f"id {wanted}"
        raise UserError(f"the text tower takes its feature at {what}, and the tokenizer ends a text with id {end}")


def preprocess_group(prepare: Preprocess) -> dict[str, Any]:
    """The `preprocess` group of a config that makes `prepare`: the crop is the model's image_size, and so is a size of None."""
    found = {field.name: getattr(prepare, field.name) for field in dataclasses.fields(prepare)}
    crop = found.pop("crop")
    return {**found, "size": None if crop in (None, found["size"]) else found["size"]}


def example_of(config: ConfigDict) -> dict[str, Any]:
    """What a CLIP on arrays has to know of its data: {"image": the shape of one, "vocabulary": its words or None}."""
    if build.gives_pictures(config.data):
        return {}
    data = build.source(config.data, "train")
    words = getattr(data, "vocabulary", None)
    return {"image": list(data[0]["image"].shape), "vocabulary": None if words is None else list(words)}


def clip_model_of(config: ConfigDict, tokenizer: Tokenizer, example: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The model of a CLIP config, every size told, those too that its data and its tokenizer decide."""
    sizes = build.image_sizes((example or example_of(config)).get("image"))
    return clip_sizes(config.model, **sizes, vocabulary_size=tokenizer.vocabulary_size)


def clip_parts(
    config: ConfigDict, example: Mapping[str, Any] | None = None
) -> tuple[Network, Tokenizer, Preprocess | None]:
    """The network, tokenizer and preprocessing of a CLIP config; `example` as `example_of` gives it, which reads the data.

    Arrays decide the size of their images and take no preprocessing; pictures come in the size of the model's vision tower,
    prepared as the group `preprocess` says (OpenAI's way where it is silent).
    """
    example = example or example_of(config)
    text = clip_sizes(config.model)["text"]
    tokenizer = build.tokenizer(config.get("tokenizer"), text["context_length"], example.get("vocabulary"))
    check_end(tokenizer, text)
    sizes = build.image_sizes(example.get("image"))
    network = clip_network(config.model, **sizes, vocabulary_size=tokenizer.vocabulary_size)
    prepare = build.preprocess(config.get("preprocess"), clip_sizes(config.model)) if not sizes else None
    return network, tokenizer, prepare


def load_clip(path: str | Path, *, which: str = "ema", step: int | None = None) -> ClipRun:
    """The CLIP run in `path`, which is the run's folder or one that holds it as `clip`. UserError where there is none."""
    folder = runs.run_folder(path)
    if not runs.is_run(folder) and runs.is_run(folder / "clip"):
        folder = folder / "clip"
    config = runs.read_config(folder)
    if config.get("system") != "clip":
        raise UserError(f"the run in {str(folder)!r} is of system {config.get('system')!r}, not 'clip'")
    runs.remember_parts(folder)
    return load_run_of(folder, config, which, step)


def load_run_of(path: Path, config: ConfigDict, which: str, step: int | None) -> ClipRun:
    """The CLIP run in `path`, of this config."""
    if (path / VOCABULARY).is_dir():  # the run's own copy: it may have been moved, or be read from another folder
        copy = path / VOCABULARY / Path(config.tokenizer.path).name
        config.tokenizer.path = str(copy if copy.is_file() else copy.parent)
    file = path / runs.EXAMPLE
    network, tokenizer, prepare = clip_parts(config, runs.read_json(file) if file.is_file() else None)
    return ClipRun(path, config, network, restore_params(path / runs.CHECKPOINTS, which, step), tokenizer, prepare)
