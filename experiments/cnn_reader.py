"""An independent reader of small pictures: a convolutional network trained on real ones, to judge generated ones.

It shares nothing with the models that it judges. What it says of real held-out pictures is the ceiling of what it can say of
others, and stands beside every number. Its last hidden layer gives the features of a Frechet distance between pictures of its
own kind, as the Inception network does between photographs (arXiv 1706.08500).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8
from safetensors.numpy import load_file, save

from diffusion_jax.data.examples import to_unit
from diffusion_jax.files import write_atomic
from diffusion_jax.nets import Network
from diffusion_jax.nets.layers import Linear, scaled_uniform
from diffusion_jax.parallel.mesh import make_mesh
from diffusion_jax.train.ema import Ema
from diffusion_jax.train.loop import fit
from diffusion_jax.train.optim import adamw
from diffusion_jax.train.state import init_state
from diffusion_jax.typing import Batch, Context, Params

__all__ = ["ReaderNet", "TrainedReader", "load_reader", "train_reader"]

Pictures = UInt8[np.ndarray, "n height width channels"] | Float[np.ndarray, "n height width channels"]
FEATURES = 128
BATCH = 256


class ReaderNet(nnx.Module):
    """Three convolutions of 3 x 3, each halved by its largest, one hidden layer, one number a class."""

    def __init__(self, rngs: nnx.Rngs, *, size: int, channels: int, classes: int, width: int = 32) -> None:
        sizes = (channels, width, 2 * width, 4 * width)
        self.kernels = nnx.List(
            nnx.Param(scaled_uniform(9 * a)(rngs.params(), (3, 3, a, b))) for a, b in itertools.pairwise(sizes)
        )
        self.biases = nnx.List(nnx.Param(jnp.zeros(b)) for b in sizes[1:])
        self.hidden = Linear((size // 8) ** 2 * sizes[-1], FEATURES, rngs)
        self.classes = Linear(FEATURES, classes, rngs)

    def features(self, x: Array, *, key: Array | None = None, train: bool = False) -> Array:
        """[batch, size, size, channels] in [-1, 1] -> [batch, 128]."""
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            x = jax.lax.conv_general_dilated(x, kernel[...], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = jax.nn.relu(x + bias[...][None, None, None])
            rows, columns = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
            x = x[:, :rows, :columns].reshape(len(x), rows // 2, 2, columns // 2, 2, -1).max((2, 4))
        return jax.nn.relu(self.hidden(x.reshape(len(x), -1)))

    def __call__(self, x: Array, *, key: Array | None = None, train: bool = False) -> Array:
        """[batch, size, size, channels] -> [batch, classes], before the softmax."""
        h = self.features(x)
        if train and key is not None:
            h = jnp.where(jax.random.bernoulli(key, 0.7, h.shape), h / 0.7, 0.0)
        return self.classes(h)


@functools.cache
def _network(size: int, channels: int, classes: int) -> tuple[Network, tuple[Any, Any]]:
    """The network and its compiled functions of (params, pictures): the classes' numbers, the features."""
    network = Network(lambda rngs: ReaderNet(rngs, size=size, channels=channels, classes=classes))
    features = network.method("features")
    return network, (jax.jit(network.apply), jax.jit(features))


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedReader:
    """A trained classifier of pictures [n, size, size, channels], uint8 or in [-1, 1]."""

    params: Params
    size: int
    channels: int
    classes: int

    def _over(self, which: int, pictures: Pictures) -> np.ndarray:
        call = _network(self.size, self.channels, self.classes)[1][which]
        rows = []
        for start in range(0, len(pictures), BATCH):
            part = pictures[start : start + BATCH]
            whole = np.concatenate([part, np.repeat(part[-1:], BATCH - len(part), axis=0)])
            rows.append(np.asarray(call(self.params, jnp.clip(to_unit(whole), -1.0, 1.0)))[: len(part)])
        return np.concatenate(rows)

    def read(self, pictures: Pictures) -> Int[np.ndarray, " n"]:
        """The class of each picture."""
        return self._over(0, pictures).argmax(axis=1)

    def features(self, pictures: Pictures) -> Float[np.ndarray, "n features"]:
        """The last hidden layer of each picture."""
        return self._over(1, pictures)

    def accuracy(self, pictures: Pictures, labels: Int[np.ndarray, " n"]) -> float:
        """The share of pictures read as their label, in [0, 1]."""
        return float((self.read(pictures) == labels).mean())


def train_reader(
    pictures: UInt8[np.ndarray, "n size size channels"],
    labels: Int[np.ndarray, " n"],
    *,
    file: Path,
    steps: int,
    flip: bool = False,
    shift: int = 1,
    seed: int = 0,
) -> TrainedReader:
    """The reader of these pictures, moved by up to `shift` pixels and, with `flip`, mirrored; kept in `file`."""
    size, channels, classes = pictures.shape[1], pictures.shape[3], int(labels.max()) + 1
    network = _network(size, channels, classes)[0]

    def altered(images: Array, key: Array) -> Array:
        padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")

        def one(image: Array, key: Array) -> Array:
            key_move, key_flip = jax.random.split(key)
            row, column = jax.random.randint(key_move, (2,), 0, 2 * shift + 1)
            moved = jax.lax.dynamic_slice(image, (row, column, jnp.zeros_like(row)), images.shape[1:])
            return jnp.where(jax.random.bernoulli(key_flip) & flip, moved[:, ::-1], moved)

        return jax.vmap(one)(padded, jax.random.split(key, len(images)))

    def loss_fn(params: Params, ctx: Context, batch: Batch, key: Array) -> tuple[Array, dict[str, Array], Any]:
        key_alter, key_net = jax.random.split(key)
        found = network.apply(params, altered(to_unit(batch["image"]), key_alter), key=key_net, train=True)
        loss = optax.softmax_cross_entropy_with_integer_labels(found, batch["label"])
        return loss, {"accuracy": (found.argmax(1) == batch["label"]).astype(jnp.float32)}, ctx.aux

    def batch(step: int) -> Batch:
        rows = np.random.default_rng([seed, step]).integers(len(labels), size=BATCH)
        return {"image": pictures[rows], "label": labels[rows].astype(np.int32)}

    tx = adamw(2e-3, min(100, steps // 10), steps, "cosine", weight_decay=1e-2)
    ema, mesh = Ema(0.99), make_mesh(devices=jax.devices()[:1])
    key = jax.random.key(seed)
    state = init_state(network.init(key), tx, ema, mesh=mesh)
    state = fit(
        state=state, loss_fn=loss_fn, tx=tx, ema=ema, batches=batch, steps=steps, mesh=mesh, batch_size=BATCH, key=key,
        log_every=100, name="reader",
    )  # fmt: skip
    params = jax.tree.map(np.asarray, state.ema)
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    write_atomic(file, save(flat, {"size": str(size), "channels": str(channels), "classes": str(classes)}))
    return TrainedReader(params, size, channels, classes)


def load_reader(file: Path, size: int, channels: int, classes: int) -> TrainedReader | None:
    """The reader in `file`; None where there is none, or one of other sizes."""
    if not file.is_file():
        return None
    network = _network(size, channels, classes)[0]
    flat = load_file(file)
    like = jax.eval_shape(network.init, jax.random.key(0))
    paths = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(like)]
    if any(name not in flat or flat[name].shape != leaf.shape for name, leaf in paths) or len(flat) != len(paths):
        return None
    params = jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name, _ in paths])
    return TrainedReader(params, size, channels, classes)
