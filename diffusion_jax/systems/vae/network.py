"""The groups `model` and `adversary` of an autoencoder's config: the two networks, of pictures of a shape."""

from __future__ import annotations

import dataclasses
from typing import Any

from diffusion_jax.build.constructors import Spec, accepts, construct, parameters
from diffusion_jax.build.networks import compute_dtype
from diffusion_jax.nets import Network, complete_vae, vae_keywords
from diffusion_jax.nets.patch_discriminator import PatchDiscriminator, most_layers
from diffusion_jax.nets.vae.autoencoder_kl import AutoencoderKL
from diffusion_jax.nets.vae.coders import check_sizes, factor_of
from diffusion_jax.nets.vae.vq import VQ
from diffusion_jax.systems.vae.loss import Latent
from diffusion_jax.typing import UserError, one_of

__all__ = [
    "ADVERSARIES", "AUTOENCODERS", "GIVEN", "Patch", "adversary", "discriminator", "latent_of", "latent_options",
    "loss_options", "vae_config", "vae_network",
]  # fmt: skip

AUTOENCODERS: dict[str, Any] = {"kl": AutoencoderKL, "vq": VQ}
GIVEN = ("in_channels", "out_channels")
"""Keywords of networks that the data decide."""
COMPUTED = ("norm", "dtype", "remat")


@dataclasses.dataclass(frozen=True)
class Patch:
    """The group `adversary` named `patch`: when and how much it counts (`loss.Adversary`), and the discriminator's sizes.

    `rate` is how many times the learning rate the discriminator's is.
    """

    start: int = 50_001
    weight: float = 0.5
    width: int = 64
    layers: int = 3
    rate: float = 1.0


def no_adversary() -> None:
    """The group `adversary` named `none`, as where there is no such group."""


ADVERSARIES: dict[str, Any] = {"none": no_adversary, "patch": Patch}


def adversary(spec: Spec | None) -> Patch | None:
    """What the group `adversary` says."""
    return construct("adversary", ADVERSARIES, {"name": "none", **(spec or {})})


def vae_config(spec: Spec, image: tuple[int, ...]) -> dict[str, Any]:
    """What `nets.vae` says that a config holds, of the group `model`, for pictures of this shape.

    UserError for a shape that is no picture's, or that the levels do not halve.
    """
    name = one_of("model", spec["name"], AUTOENCODERS)
    if len(image) != 3:
        raise UserError(f"the data hold arrays {tuple(image)}; an autoencoder takes pictures [height, width, channels]")
    options = {key: value for key, value in spec.items() if key not in ("name", *COMPUTED)}
    accepts(f"model {name!r}", AUTOENCODERS[name], options, (*GIVEN, *COMPUTED))
    made = complete_vae({"kind": name, "in_channels": image[2], "out_channels": image[2], **options})
    check_sizes(image[0], image[1], factor_of(made["channels"]))
    return made


def vae_network(spec: Spec, image: tuple[int, ...]) -> Network:
    """The autoencoder of the group `model`. UserError as `vae_config`, and for widths that the groups do not divide."""
    make, keywords = vae_keywords(vae_config(spec, image))
    how = {key: spec[key] for key in COMPUTED if key in spec}
    how["dtype"] = compute_dtype(how.get("dtype", "auto"))
    return Network(lambda rngs: make(rngs, **keywords, **how))


def loss_options(perceptual: str = "none", perceptual_weight: float = 1.0) -> None:
    """The keys of the group `loss` of every autoencoder; see `perceptual`."""


def latent_options(name: str | None) -> dict[str, Any]:
    """The keys of the group `loss` that are of one kind of latents, with their defaults; of None those of all."""
    kinds = {"kl": ("kl",), "vq": ("codebook", "beta", "legacy")}
    wanted = [key for kind, keys in kinds.items() if name in (None, kind) for key in keys]
    return {key: default for key, default in parameters(Latent).items() if key in wanted}


def latent_of(spec: Spec | None) -> Latent:
    """The weights of the latents' terms, of the group `loss`."""
    return Latent(**{key: value for key, value in (spec or {}).items() if key in parameters(Latent)})


def discriminator(patch: Patch, image: tuple[int, ...], dtype: str = "auto") -> Network:
    """The discriminator of pictures of this shape. UserError for more layers than they are halved."""
    if patch.layers > (most := most_layers(min(image[:2]))):
        raise UserError(
            f"config key 'adversary.layers' is {patch.layers}: pictures of {image[0]} x {image[1]} are too small for so many; "
            f"nearest: {most}"
        )
    keywords = {"channels": image[2], "width": patch.width, "layers": patch.layers, "dtype": compute_dtype(dtype)}
    return Network(lambda rngs: PatchDiscriminator(rngs, **keywords))
