"""Published autoencoders: `load_pretrained("stable-diffusion-v1-5/vae")` encodes pictures into latents of unit scale, and back.

    vae = load_pretrained("stable-diffusion-v1-5/vae")
    x0 = vae.encode(images, key)              # [b, 512, 512, 3] in [-1, 1] -> [b, 64, 64, 4]
    images = vae.decode(x0, tile=64)          # by tiles where the whole does not fit

With z the autoencoder's own latents, a diffusion model sees (z - shift) scale. Published configs say scale and shift in one of
two ways: one number each (`scaling_factor`, `shift_factor`), or a mean and deviation a channel beside the factor, and then
scale is factor / std and shift the mean.

Inside a compiled function that trains or samples, give the parameters as an argument: `vae.encode(x, key, params=params)`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion_jax.build.networks import compute_dtype
from diffusion_jax.convert.files import names_in, read_config
from diffusion_jax.convert.vae import load_vae
from diffusion_jax.convert.vae_config import CLASSES
from diffusion_jax.nets import VAE_MODELS, Network, Posterior, complete_vae, sliced, tiled, vae_keywords, vae_model
from diffusion_jax.nets.vae.coders import check_sizes, factor_of
from diffusion_jax.process.arguments import data, known, typed_key
from diffusion_jax.systems.system import Published
from diffusion_jax.typing import Params, UserError, path_of

__all__ = ["AUTOENCODERS", "Autoencoder", "autoencoder", "batch_of", "latent_scale", "load_vae_network", "publishes"]

BOTH_ENDS = frozenset({"encoder.conv_in.weight", "decoder.conv_in.weight"})
"""Names in a file of an autoencoder, of both layouts."""

Scale: TypeAlias = float | np.ndarray


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(network: Network, method: str, slices: bool, params: Params, x: Array) -> Array:
    call = functools.partial(network.method(method), params)
    return sliced(call, x) if slices else call(x)


@jax.jit
def _to_unit(z: Array, scale: Array, shift: Array) -> Array:
    return (z - shift) * scale


@jax.jit
def _from_unit(latents: Array, scale: Array, shift: Array) -> Array:
    return latents / scale + shift


@jax.jit
def _drawn(moments: Array, key: Array | None) -> Array:
    posterior = Posterior.of(moments)
    return posterior.mean if key is None else posterior.sample(key)


@dataclasses.dataclass(frozen=True, eq=False)
class Autoencoder:
    """A published autoencoder: `network` and `params`, of a class `kind`, "AutoencoderKL" or "VQModel".

    `config` is what `nets.vae` says one holds, `told` its own config.json. `scale` and `shift` of the latents are one number
    each or one a channel.
    """

    path: Path
    kind: str
    network: Network
    params: Params
    config: Mapping[str, Any]
    told: Mapping[str, Any]
    scale: Scale
    shift: Scale

    @property
    def factor(self) -> int:
        """How many pixels a latent is high and wide."""
        return factor_of(self.config["channels"])

    @property
    def channels(self) -> int:
        """Of the latents."""
        return int(self.config["latent_channels"] if self.kind == "AutoencoderKL" else self.config["dim"])

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(height, width, channels) of such a picture's latents. UserError, with the nearest size, where there are none."""
        check_sizes(height, width, self.factor)
        return height // self.factor, width // self.factor, self.channels

    def encode(
        self,
        images: Any,
        key: Array | None = None,
        *,
        tile: int | None = None,
        params: Params | None = None,
    ) -> Float[Array, "batch _ _ _"]:
        """Images [batch, height, width, channels] in [-1, 1] -> latents of unit scale, float32.

        They are of the posterior's mean, or of a sample with a `key`, which is one key or a key an example [batch]; an
        autoencoder with a codebook has nothing to draw, and its latents are those before they are quantised. `tile` is the side
        of tiles, in pixels (`nets.tiled`). Raises UserError for sizes that are not halved often enough, for other channels, for
        floats far outside [-1, 1], and for what is neither one key nor as many as images.
        """
        normal = self.kind == "AutoencoderKL"
        run = functools.partial(
            _run, self.network, "moments" if normal else "encode", False, self.params if params is None else params
        )
        x = batch_of("images", images, self.config["in_channels"], pictures=True)
        check_sizes(x.shape[1], x.shape[2], self.factor)
        key = None if key is None else _keys(key, x.shape[0])
        found = run(x) if tile is None else tiled(run, x, tile)
        return _to_unit(_drawn(found, key) if normal else found, *self._affine())

    def decode(
        self,
        latents: Any,
        *,
        tile: int | None = None,
        slices: bool = False,
        params: Params | None = None,
    ) -> Float[Array, "batch _ _ _"]:
        """Latents [batch, h, w, c] of unit scale -> images, float32, in [-1, 1] but for what the autoencoder goes beyond.

        `tile` is the side of tiles, in latents, `slices` decodes one example at a time: both are for what does not fit. Raises
        UserError for other channels, and for a tile that is not possible.
        """
        run = functools.partial(_run, self.network, "decode", slices, self.params if params is None else params)
        z = _from_unit(batch_of("latents", latents, self.channels), *self._affine())
        return run(z) if tile is None else tiled(run, z, tile)

    def _affine(self) -> tuple[Array, Array]:
        return _of_channels(self.scale), _of_channels(self.shift)


def _keys(key: Any, count: int) -> Array:
    """One key, or one each. UserError for others."""
    key = typed_key(key)
    if key.shape not in ((), (count,)):
        raise UserError(f"key is an array of {key.shape} keys for {count} images: give one, or one an image")
    return key


def _of_channels(numbers: Scale) -> Array:
    """One number, or one a channel, as [1, 1, 1, n]."""
    return jnp.asarray(numbers, jnp.float32).reshape(1, 1, 1, -1)


def batch_of(what: str, given: Any, channels: int, *, pictures: bool = False) -> Array:
    """float32 [batch, height, width, channels]. UserError for another shape, for what is no array of floats, and for
    `pictures` far outside [-1, 1]; values are looked at where they are numbers of this process."""
    there = isinstance(given, jax.Array)  # on devices: only of pictures are the values fetched
    look = not there or (pictures and known(given) and given.is_fully_addressable)
    x = data(what, given, clean=pictures) if look else given
    if x.ndim != 4 or x.shape[-1] != channels:
        raise UserError(f"{what} of shape {tuple(x.shape)} are not [batch, height, width, {channels}]")
    return jnp.asarray(x, jnp.float32)


def latent_scale(config: Mapping[str, Any]) -> tuple[Scale, Scale]:
    """(scale, shift) of a config's latents, each one number or float32 [channels]: see the module's docstring."""
    if config["std"] is None:
        return float(config["scale"]), float(config["shift"] or 0.0)
    return np.asarray(config["scale"] / np.asarray(config["std"]), np.float32), np.asarray(config["mean"], np.float32)


def publishes(path: Path, model: str | None = None) -> bool:
    """Whether weights at a path are said to be an autoencoder's, by the name of a model or by what lies beside them."""
    if model is not None:
        return model in VAE_MODELS
    config = read_config(path)
    name = str(config.get("_class_name"))
    return name in CLASSES or "Autoencoder" in name or (not config and set(names_in(path)) >= BOTH_ENDS)


def load_vae_network(
    path: str | Path, *, model: str | None = None, dtype: str = "auto", remat: str | None = None
) -> Autoencoder:
    """The autoencoder in a folder or file, float32 parameters on the device.

    `model` is a name of `nets.VAE_MODELS` for weights that do not say what they are, whole checkpoints of latent diffusion
    among them. `dtype` ("auto": bfloat16 on an accelerator) and `remat` say how it computes. Raises UserError for an
    autoencoder that is not here, by the class or the field that is not, and for weights that do not fit.
    """
    path = path_of("path", path)
    told = read_config(path) if model is None else {}
    name = told.get("_class_name")
    if name is not None and name not in CLASSES:
        raise UserError(f"{str(path)!r} holds a {name}, which is not read here; read are {', '.join(CLASSES)}")
    config, params = load_vae(path, complete_vae, config=None if model is None else vae_model(model))
    return autoencoder(path, config, params, told, dtype=dtype, remat=remat)


def autoencoder(
    path: Path,
    config: Mapping[str, Any],
    params: Params,
    told: Mapping[str, Any] | None = None,
    *,
    dtype: str = "auto",
    remat: str | None = None,
) -> Autoencoder:
    """The autoencoder of what `convert.vae.load_vae` gives, its parameters on the device."""
    make, keywords = vae_keywords(config)
    how = {"dtype": compute_dtype(dtype), "remat": remat}
    network = Network(lambda rngs: make(rngs, **keywords, **how))
    kind = next(name for name, kind in CLASSES.items() if kind == config["kind"])
    scale, shift = latent_scale(config)
    return Autoencoder(path, kind, network, jax.tree.map(jnp.asarray, params), config, told or {}, scale, shift)


AUTOENCODERS = Published(load_vae_network, publishes)
