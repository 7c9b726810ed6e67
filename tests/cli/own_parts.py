"""Parts of one's own, as a user would write them in a module of the working folder: the tests name them "own_parts:..."."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.sources.digits import VOCABULARY
from diffusion_jax.nets import Network
from diffusion_jax.runs import CHECKPOINTS, fingerprint
from diffusion_jax.sampling import DDIM
from diffusion_jax.systems.diffusion.conditions import Plain
from diffusion_jax.systems.diffusion.spaces import Pixels
from diffusion_jax.systems.system import System, Task
from diffusion_jax.train.checkpoint import restore_params


class Rings:
    """A source: 96 rings of 8 x 8 pixels, of two sizes; the last 32 are held out."""

    def __init__(self, split: str, width: float = 1.0, noise: float = 0.0) -> None:
        rows = {"train": range(64), "validation": range(64, 80), "test": range(80, 96)}[split]
        self.labels = np.array([row % 2 for row in rows])
        self.width, self.noise = width, noise

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        y, x = np.mgrid[:8, :8] - 3.5
        ring = np.exp(-((np.hypot(x, y) - 2 - self.labels[index]) ** 2) / self.width)
        return {"image": (2 * ring - 1).astype(np.float32)[..., None], "label": int(self.labels[index])}


class Told(Rings):
    """The rings with captions, of a vocabulary that it tells, and of a different number each.

    The words are those of the digits, so that the networks have the sizes of other tests' and are compiled once.
    """

    vocabulary = VOCABULARY
    class_names = ("zero", "eight")
    templates = ("a {}",)

    def __getitem__(self, index: int) -> dict:
        item = super().__getitem__(index)
        name = self.class_names[item["label"]]
        return item | {"captions": [f"a {name}", name][: 1 + index % 2]}


class Net(nnx.Module):
    """A network that reads `label`."""

    reads = ("label",)

    def __init__(self, rngs: nnx.Rngs, *, shape: tuple, entries: dict, width: int = 16) -> None:
        size = int(np.prod(shape))
        self.inner, self.outer = nnx.Linear(size + 1, width, rngs=rngs), nnx.Linear(width, size, rngs=rngs)
        self.label = nnx.Embed(3, width, rngs=rngs) if "label" in entries else None

    def __call__(self, xt, time, cond=None, *, key=None, train=False):
        """The prediction."""
        flat = jnp.concatenate([xt.reshape(len(xt), -1), time[:, None] / 1000], axis=1)
        hidden = self.inner(flat) + (0.0 if self.label is None else self.label(cond["label"]))
        return self.outer(jax.nn.silu(hidden)).reshape(xt.shape)


class Deaf(nnx.Module):
    """A network that reads no condition."""

    def __init__(self, rngs: nnx.Rngs, *, shape: tuple) -> None:
        self.inner = nnx.Linear(int(np.prod(shape)), int(np.prod(shape)), rngs=rngs)


class Needy(Deaf):
    """A network that cannot do without a label."""

    reads = needs = ("label",)


@dataclasses.dataclass(frozen=True)
class Label(Plain):
    """A condition: the label of an example, 2 is the null."""

    drop: float = 0.2
    asks: ClassVar[str] = "prompt"
    entries: ClassVar[dict] = {"label": ()}
    null: ClassVar[dict] = {"label": np.array([2], np.int32)}

    def training(self, data):
        """The rows' labels."""
        return lambda rows, rng: {"label": data.labels[rows].astype(np.int32)}

    def held_out(self, data):
        """All labels."""
        return {"label": np.array([data[i]["label"] for i in range(len(data))], np.int32)}

    def shown(self, data, held_out):
        """Both."""
        return ["0", "1"]

    def request(self, requests):
        """Texts of numbers."""
        return {"label": np.array([int(one) for one in requests], np.int32)}


@dataclasses.dataclass(frozen=True)
class Slanted:
    """A schedule: alpha = 1 - t^2, sigma = t."""

    t_min: float = 1e-3
    t_max: float = 0.999

    def alpha(self, t):
        """Of the data."""
        return 1 - t**2

    def sigma(self, t):
        """Of the noise."""
        return t

    def logsnr(self, t):
        """2 log(alpha / sigma)."""
        return jnp.clip(2 * (jnp.log1p(-(t**2)) - jnp.log(t)), -20.0, 20.0)

    def t_from_logsnr(self, logsnr):
        """The root of alpha / sigma = exp(logsnr / 2)."""
        r = jnp.exp(logsnr / 2)
        return 2 / (r + jnp.sqrt(r**2 + 4))


class Backwards(Slanted):
    """A schedule with a wrong inverse."""

    def t_from_logsnr(self, logsnr):
        """Of the other sign."""
        return super().t_from_logsnr(-logsnr)


class Wide(Label):
    """A condition that gives another shape than it says."""

    def training(self, data):
        """A column."""
        return lambda rows, rng: {"label": data.labels[rows].astype(np.int32)[:, None]}


@dataclasses.dataclass(frozen=True)
class Half(DDIM):
    """A solver: DDIM by another name."""


def descending(num_steps: int, schedule) -> np.ndarray:
    """A grid."""
    return np.linspace(schedule.t_max, schedule.t_min, num_steps + 1)


def plain(denoise, null, guidance_scale, negative=None, *, more: float = 0.0):
    """A guidance: classifier-free with some more."""
    from diffusion_jax.sampling import classifier_free

    return classifier_free(denoise, null, guidance_scale + more, negative)


def flat(strength: float = 1.0):
    """A weighting: a constant."""
    return lambda logsnr: strength * jnp.ones_like(logsnr)


def middle(key, n, schedule, spread: float = 0.5):
    """Times about the middle."""
    return 0.5 + spread * (jax.random.uniform(key, (n,)) - 0.5)


def sgd(learning_rate: float, total_steps: int, momentum: float = 0.0):
    """An optimizer."""
    return optax.sgd(learning_rate, momentum)


@dataclasses.dataclass(frozen=True)
class Doubled(Pixels):
    """A space: the images times two."""

    factor: float = 2.0

    def encode(self, frozen, batch):
        """Times the factor."""
        return self.factor * batch["image"]

    def decode(self, frozen, x0):
        """Back."""
        return x0 / self.factor


def brightness(run, *, split, samples, say):
    """A metric: how bright a run's samples are."""
    asked = {"prompts": ["0"] * samples} if run.asks else {"count": samples}
    return {"mean": run.generate(**asked, seed=0, guidance_scale=1.0).mean(), "split": split}


class NoModule:
    """No network."""

    reads = ("label",)

    def __init__(self, rngs, width: int = 8) -> None: ...


class Empty:
    """Neither a schedule nor a solver."""

    def __init__(self, t_max: float = 1.0) -> None: ...


class Unnamed(Rings):
    """A source of examples without an image."""

    def __getitem__(self, index: int) -> dict:
        return {"picture": super().__getitem__(index)["image"]}


class Rowless(Label):
    """A condition whose null has no leading axis."""

    null: ClassVar[dict] = {"label": np.int32(2)}


NOT_A_SYSTEM = 3


@dataclasses.dataclass(frozen=True, eq=False)
class MeanRun:
    """What the system below loads: it draws its one array."""

    path: object
    config: ConfigDict
    params: dict
    asks: str = ""
    shape: tuple = (8, 8, 1)

    @property
    def fingerprint(self) -> str:
        """Of the array."""
        return fingerprint(self.params)

    def settings(self, **options):
        """None."""
        return {}

    def notices(self, requests):
        """Nothing."""
        return []

    def generate(self, requests=None, *, count=1, seed=0, start=0, batch_size=256):
        """The array, `count` times."""
        return np.stack([np.asarray(self.params["mean"])] * count)


def _init_and_apply():
    class Mean(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.mean = nnx.Param(jnp.zeros((8, 8, 1)))

    return Network(Mean)


def mean_task(config, folder, key) -> Task:
    """A system: one array is fitted to the mean of the data."""

    def loss_fn(params, ctx, batch, key):
        return ((batch["image"] - params["mean"][None]) ** 2).mean(axis=(1, 2, 3)), {}, ctx.aux

    data = Rings("train")
    return Task(_init_and_apply(), loss_fn, batches(data, config.batch_size, config.seed), counts=f"{len(data)} rings")


def mean_load(path, config, which, step) -> MeanRun:
    """The run."""
    return MeanRun(path, config, restore_params(path / CHECKPOINTS, which, step))


SYSTEM = System(task=mean_task, load=mean_load)


def level(run, *, split):
    """A metric of a system: its array's mean."""
    return {"mean": jnp.mean(run.params["mean"]), "split": split}


MEASURED = System(
    task=mean_task, load=mean_load, keys={"bins": 8, "slope": 0.5, "told": None}, metrics={"level": level}
)
