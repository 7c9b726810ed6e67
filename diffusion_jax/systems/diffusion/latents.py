"""The space of an autoencoder's latents: latent diffusion (arXiv 2112.10752), by a run of the system `vae` or a published one.

x0 are latents in the scale of the diffusion model: of a run trained here of mean 0 and variance 1 in each channel, of published
ones as their config says. In training, and in held-out losses, they are drawn from the posterior of each picture, anew at every
step; elsewhere they are its mean. The encoder runs within the compiled step, its parameters handed to it; or once, with its
outputs on disk (`cache`, see `latent_cache`), and then training decodes no picture.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import build, runs
from diffusion_jax.convert.files import names_in
from diffusion_jax.nets import Posterior
from diffusion_jax.systems.diffusion.latent_cache import LatentTable, read_latents
from diffusion_jax.systems.diffusion.noted import Noted, place_noted
from diffusion_jax.systems.vae.pretrained import Autoencoder, load_vae_network, publishes
from diffusion_jax.systems.vae.run import load_vae_run
from diffusion_jax.systems.vae.statistics import NOTE
from diffusion_jax.typing import Array, Batch, PyTree, Source, UserError

__all__ = ["AUTOENCODER", "Latents", "autoencoder_at", "latents", "latents_of", "moments", "noted_of"]

AUTOENCODER = "autoencoder.json"
"""Where the autoencoder of a run's space lies, relative to it, and a fingerprint of the weights that it was trained on."""
WHAT = "autoencoder"
WHOLE = "first_stage_model."
"""How the names of the autoencoder begin in a whole checkpoint of latent diffusion."""


def autoencoder_at(path: str | Path) -> Autoencoder:
    """The autoencoder at a path: a run, a published one, or the folder `vae` of either. UserError where there is none."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no {WHAT} in {runs.place(path)}{runs.nearest(path)}")
    place = next((one for one in (path, path / "vae") if one.exists() and publishes(one)), None)
    if place is None and path.is_file():
        place = path
    if place is not None:
        if place.is_file() and any(name.startswith(WHOLE) for name in names_in(place)):
            raise UserError(
                f"{runs.place(place)} is a whole checkpoint, which does not say its autoencoder's sizes: diffusion-jax convert "
                f"{place} --model kl-f8 --out vae (sdxl-vae of XL) writes that of Stable Diffusion, to be named in its place"
            )
        return load_vae_network(place)
    if not any(runs.is_run(one) for one in (path, path / "vae")):
        raise UserError(
            f"{runs.place(path)} is neither a run nor a published autoencoder (no config.json in it or its folder vae)"
            f"{runs.nearest(path)}"
        )
    run = load_vae_run(path)
    if not (run.path / NOTE).is_file():  # a training that was stopped: measured once, as where it ends
        run.keep_statistics()
    return run.autoencoder


def noted_of(autoencoder: Autoencoder) -> Noted:
    """What a run notes of it: its weights, and the scale and shift of its latents."""
    weights = {
        "params": autoencoder.params,
        "scale": np.asarray(autoencoder.scale),
        "shift": np.asarray(autoencoder.shift),
    }
    return Noted(autoencoder.path, weights, AUTOENCODER, WHAT)


def moments(autoencoder: Autoencoder, params: PyTree, images: Array) -> Array:
    """Images [b, h, w, c] in [-1, 1] -> the mean and then the logarithm of the variance of their x0, [b, h', w', 2 d].

    Of an autoencoder that draws nothing x0 itself, [b, h', w', d].
    """
    found = autoencoder.network.method("encode")(params, images)
    scale, shift = (
        jnp.asarray(numbers, jnp.float32).reshape(1, 1, 1, -1) for numbers in (autoencoder.scale, autoencoder.shift)
    )
    if not isinstance(found, Posterior):
        return (found - shift) * scale
    spread = jnp.broadcast_to(2.0 * jnp.log(jnp.abs(scale)), found.logvar.shape)
    return jnp.concatenate([(found.mean - shift) * scale, found.logvar + spread], axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Latents:
    """x0 [h', w', d] of images of shape `image`."""

    image: tuple[int, ...]
    autoencoder: Autoencoder
    config: ConfigDict
    cache: str | None = None

    @functools.cached_property
    def noted(self) -> Noted:
        """What a run notes of it."""
        return noted_of(self.autoencoder)

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """(h', w', d)."""
        return self.autoencoder.latent_shape(*self.image[:2])

    @property
    def frozen(self) -> PyTree:
        """The autoencoder's weights."""
        return self.autoencoder.params

    def encode(self, frozen: PyTree, batch: Batch) -> Array:
        """Of the batch's "image"; drawn by its "key" where there is one."""
        found = moments(self.autoencoder, frozen, jnp.asarray(batch["image"]))
        return self.drawn(jax.lax.stop_gradient(found), batch.get("key"))

    def drawn(self, rows: Array, key: Array | None = None) -> Array:
        """x0 of what `moments` gives, without a key its mean."""
        if rows.shape[-1] == self.shape[-1]:
            return rows
        posterior = Posterior(*jnp.split(rows.astype(jnp.float32), 2, axis=-1))
        return posterior.mean if key is None else posterior.sample(key)

    def decode(self, frozen: PyTree, x0: Array) -> Array:
        """Pictures, in [-1, 1] but for what the autoencoder goes beyond."""
        return self.autoencoder.decode(x0, params=frozen)

    @property
    def table(self) -> Callable[[Source], LatentTable] | None:
        """The moments of every example of a source, where they are cached; else None. UserError for those of others."""
        return self._table if self.cache else None

    def _table(self, data: Source) -> LatentTable:
        flip = build.gives_pictures(self.config.data) and build.reading(self.config.data)["flip"]
        return read_latents(Path(str(self.cache)), self.noted.fingerprint, self.config, data, flip=flip)

    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """Where the autoencoder lies from the run's folder, and its fingerprint."""
        return self.noted.notes(folder)

    def agrees(self, folder: Path, anew: bool) -> None:
        """UserError for a folder that holds the autoencoder, and for a run there of another one."""
        self.noted.agrees(folder, anew)


def latents(
    autoencoder: str, image: tuple[int, ...], config: ConfigDict, cache: str | None = None, run: Path | None = None
) -> Latents:
    """The space of a config, or of the run in `run`. UserError for pictures that the autoencoder cannot take, and where it is
    gone or another."""
    if run is None:
        try:
            found = autoencoder_at(autoencoder)
        except UserError as error:
            raise UserError(f"space.autoencoder: {error}") from error
    else:
        place, fingerprint, gone = place_noted(run, AUTOENCODER, WHAT)
        if not place.exists():
            raise gone
        found = autoencoder_at(place)
        if noted_of(found).fingerprint != fingerprint:
            raise UserError(
                f"the {WHAT} in {place} has other weights, or another scale of its latents, than those that {run} was trained "
                "on: put it back, or train the diffusion run anew"
            )
    return latents_of(found, image, config, cache)


def latents_of(
    autoencoder: Autoencoder, image: tuple[int, ...], config: ConfigDict, cache: str | None = None
) -> Latents:
    """The space of an autoencoder. UserError for pictures that it cannot take."""
    channels = autoencoder.config["in_channels"]
    if len(image) != 3 or image[2] != channels:
        raise UserError(
            f"the data hold arrays {tuple(image)}; the {WHAT} in {autoencoder.path} takes pictures of {channels} channels"
        )
    autoencoder.latent_shape(*image[:2])
    return Latents(tuple(image), autoencoder, config, cache)
