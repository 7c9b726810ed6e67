"""A dual encoder ready to be used, trained here or published: `ClipRun`."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.data.preprocess import Preprocess
from diffusion_jax.nets import Network
from diffusion_jax.parallel.mesh import batch_sharding, make_mesh, replicated
from diffusion_jax.systems.clip import in_batches, text_condition, unit
from diffusion_jax.typing import Params, Tokenizer, UserError

__all__ = ["ClipRun", "clip_parts"]


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

        With a `preprocess` also of a list of pictures of any size (paths, bytes, PIL images, uint8 arrays), and of uint8
        [n, height, width, 3]. Raises UserError for pictures that cannot be read and for another size, dtype or range.
        """
        pre = self.preprocess
        if isinstance(images, np.ndarray | jax.Array) and np.issubdtype(images.dtype, np.floating):
            return self._embed(np.asarray(self._prepared(np.asarray(images))), batch_size)
        if pre is None:
            raise UserError(f"images of {getattr(images, 'dtype', type(images).__name__)}: give floats in [-1, 1]")
        if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == (pre.edge, pre.edge, 3):
            whole = [pre.normalise(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
            return np.concatenate([self._embed(part, batch_size) for part in whole])
        rows = [images] if isinstance(images, str | os.PathLike | bytes) else images
        starts = range(0, max(len(rows), 1), batch_size)
        return np.concatenate([self._embed(pre.batch(rows[i : i + batch_size]), batch_size) for i in starts])

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
    def _prepared(self) -> Any:
        return (lambda images: images) if self.preprocess is None else self.preprocess.from_unit_range

    @property
    def image_encoder(self) -> Any:
        """images [n, height, width, channels] -> embeddings [n, embed] as a pytree of its weights, for `clip_guidance`."""
        return jax.tree_util.Partial(_image_embedding(self.network, self.preprocess), self.params)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-norm embeddings [n, embed]; unknown words are left out (`tokenizer.explain` says which)."""
        encode = _encoders(self.network)[2]
        return in_batches(lambda x: encode(self.params, x), self.tokenizer.encode(texts)["tokens"])

    def condition(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The condition of a diffusion model for each text: {"pooled", "tokens", "length"}, leading axis n."""
        encoded = self.tokenizer.encode(texts)
        encode = _encoders(self.network)[1]
        return in_batches(lambda *x: encode(self.params, *x), encoded["tokens"], encoded["length"])


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


def clip_parts(config: ConfigDict) -> tuple[Network, Tokenizer, Preprocess | None]:
    """The network, tokenizer and preprocessing of a CLIP config.

    The digits decide the size of their images and take no preprocessing; other data come in the size of the model's
    vision tower, prepared as the group `preprocess` says (OpenAI's way where it is silent).
    """
    context = build.clip_sizes(config.model)["text"]["context_length"]
    tokenizer = build.tokenizer(config.get("tokenizer"), context)
    if config.data.name in build.SOURCES:
        sizes = build.source_size(config.data) | {"vocabulary_size": tokenizer.vocabulary_size}
        return build.clip_network(config.model, **sizes), tokenizer, None
    network = build.clip_network(config.model, vocabulary_size=tokenizer.vocabulary_size)
    return network, tokenizer, build.preprocess(config.get("preprocess"), build.clip_sizes(config.model))
