"""An autoencoder that was trained, ready to be used: `VaeRun`."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from diffusion_jax import build, runs
from diffusion_jax.convert.vae_config import CLASSES
from diffusion_jax.data.examples import to_unit
from diffusion_jax.nets import Network
from diffusion_jax.systems.diffusion.data import examples, examples_of_run
from diffusion_jax.systems.vae.loss import DISCRIMINATOR
from diffusion_jax.systems.vae.network import vae_config, vae_network
from diffusion_jax.systems.vae.pretrained import Autoencoder, batch_of
from diffusion_jax.systems.vae.statistics import NOTE, Statistics, fit, noted
from diffusion_jax.train.checkpoint import restore_params
from diffusion_jax.typing import Params, Source, UserError, whole_number

__all__ = ["VaeRun", "load_run_of", "load_vae_run"]


@dataclasses.dataclass(frozen=True, eq=False)
class VaeRun:
    """A trained autoencoder of pictures of the shape `image`, without its discriminator; images are in [-1, 1].

    Its latents have mean 0 and variance 1 in each channel, by `statistics` of the training data.
    """

    path: Path
    config: ConfigDict
    network: Network
    params: Params
    image: tuple[int, ...]

    @property
    def factor(self) -> int:
        """How many pixels a latent is high and wide."""
        return self.bare.factor

    @property
    def ink(self) -> bool:
        """Whether grey is ink on paper, as of data that are arrays; pictures of files are shown as they are."""
        return not build.gives_pictures(self.config.data)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the weights."""
        return runs.fingerprint(self.params)

    @functools.cached_property
    def statistics(self) -> Statistics:
        """Those that the run notes of these weights, or else fitted on its training data now. UserError where they are gone."""
        return noted(self.path, self.fingerprint) or self.fitted()

    def fitted(self, params: Params | None = None) -> Statistics:
        """Fitted on the training data, of other weights where they are given."""
        data, skip = self.examples("train"), self.config.data.get("on_error") == "skip"
        return fit(self.network, self.params if params is None else params, data, skip=skip)

    def keep_statistics(self) -> None:
        """Notes those of these weights in the run, so that it can be used without its data."""
        runs.write_json(self.path / NOTE, self.statistics.note(self.fingerprint))

    @functools.cached_property
    def bare(self) -> Autoencoder:
        """The autoencoder with its latents as they are."""
        made = vae_config(self.config.model, self.image)
        kind = next(name for name, kind in CLASSES.items() if kind == made["kind"])
        return Autoencoder(self.path, kind, self.network, self.params, made, {}, 1.0, 0.0)

    @functools.cached_property
    def autoencoder(self) -> Autoencoder:
        """The same with latents of mean 0 and variance 1 in each channel: what a diffusion model is given."""
        found, config = self.statistics, self.bare.config
        scale, shift = (np.asarray(numbers, np.float32) for numbers in (1.0 / np.asarray(found.std), found.mean))
        if config["kind"] == "kl":  # what a folder of it says; a codebook's has no place for them
            config = {**config, **found.of_channels()}
        return dataclasses.replace(self.bare, config=config, scale=scale, shift=shift)

    def examples(self, split: str) -> Source:
        """The data that it was trained on, prepared as for training: "train", "validation" or "test". UserError for none."""
        return examples_of_run(self.path, self.config, split, self.image)

    def encode(self, images: Any, key: Array | None = None) -> Float[Array, "batch _ _ _"]:
        """Images [n, h, w, c], uint8 or in [-1, 1] -> latents; as `Autoencoder.encode`, with its errors."""
        return self.autoencoder.encode(_unit(images), key)

    def decode(self, latents: Any, *, tile: int | None = None, slices: bool = False) -> Float[Array, "batch _ _ _"]:
        """Latents -> images, in [-1, 1] but for what the autoencoder goes beyond; as `Autoencoder.decode`."""
        return self.autoencoder.decode(latents, tile=tile, slices=slices)

    def reconstruct(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        """Images [n, h, w, c], uint8 or in [-1, 1], there and back by the mean of their latents, clipped to [-1, 1]."""
        try:
            count = len(images)
        except TypeError:  # of what is no batch
            count = 0
        if not count:
            batch_of("images", _unit(images), self.image[-1], pictures=True)
        size = min(whole_number("batch_size", batch_size, 1), count)
        found = []
        for start in range(0, count, size):
            part = np.asarray(batch_of("images", _unit(images[start : start + size]), self.image[-1], pictures=True))
            whole = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])  # one shape, compiled once
            found.append(np.asarray(_there_and_back(self.network, self.params, whole))[: len(part)])
        return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=0)
def _there_and_back(network: Network, params: Params, images: Any) -> Array:
    return jax.numpy.clip(network.apply(params, images)[0], -1.0, 1.0)


def _unit(images: Any) -> Any:
    """Levels 0 .. 255 (uint8, or a list of such pictures of one shape) in [-1, 1]; all else as it is."""
    levels = isinstance(images, list | tuple) and {(getattr(one, "dtype", None), np.shape(one)) for one in images}
    if levels and len(levels) == 1 and next(iter(levels))[0] == np.uint8:
        images = np.stack(images)
    return to_unit(images) if getattr(images, "dtype", None) == np.uint8 else images


def load_vae_run(path: str | Path, *, which: str = "ema", step: int | None = None) -> VaeRun:
    """The autoencoder run in `path`, its folder or one that holds it as `vae`. UserError where there is none."""
    folder = runs.run_folder(path)
    if not runs.is_run(folder) and runs.is_run(folder / "vae"):
        folder = folder / "vae"
    config = runs.read_config(folder)
    if config.get("system") != "vae":
        raise UserError(f"the run in {str(folder)!r} is of system {config.get('system')!r}, not 'vae'")
    runs.remember_parts(folder)
    return load_run_of(folder, config, which, step)


def load_run_of(path: Path, config: ConfigDict, which: str, step: int | None) -> VaeRun:
    """The autoencoder run in `path`, of this config."""
    file = path / runs.EXAMPLE
    image = tuple(runs.read_json(file)["image"] if file.is_file() else np.shape(examples(config, "train")[0]["image"]))
    params = restore_params(path / runs.CHECKPOINTS, which, step)
    return VaeRun(
        path,
        config,
        vae_network(config.model, image),
        {name: value for name, value in params.items() if name != DISCRIMINATOR},
        image,
    )
