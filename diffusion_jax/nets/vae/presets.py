"""The published autoencoders by name, and what a config of one holds.

A config has a `kind`, "kl" or "vq", the keywords of `AutoencoderKL` or `VQ`, and what a diffusion model takes its latents to
be: `scale`, `shift`, `mean`, `std`, with `upcast` (that the published weights overflow in float16) and `sample_size` (the side
of the pictures of training), which change nothing here.

Sources: latent diffusion, arXiv 2112.10752, table 8 and its public configs, for pictures of 256 pixels. kl-f8 is Stable
Diffusion 1's and 2's too, with their scale; "sdxl-vae" is of the same sizes (arXiv 2307.01952, section 2.4), Stable Diffusion
3's and FLUX's have 16 channels and no maps between encoder and latents (arXiv 2403.03206, section 5.2.1; public configs).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from diffusion_jax.nets.vae.autoencoder_kl import AutoencoderKL
from diffusion_jax.nets.vae.vq import VQ
from diffusion_jax.typing import UserError, one_of

__all__ = ["VAE_MODELS", "complete_vae", "vae_keywords", "vae_model"]

KINDS: dict[str, type[AutoencoderKL] | type[VQ]] = {"kl": AutoencoderKL, "vq": VQ}
COMPUTED = ("norm", "dtype", "remat", "rngs", "self")
"""Keywords that say how it is computed, not what."""
LATENTS: dict[str, Any] = {
    "scale": 1.0, "shift": None, "mean": None, "std": None, "upcast": False, "sample_size": None,
}  # fmt: skip


def _kl(multiples: tuple[int, ...], latent_channels: int, attends: tuple[int, ...] = (), **more: Any) -> dict[str, Any]:
    return _sizes("kl", multiples, latent_channels, attends) | {"sample_size": 256} | more


def _vq(multiples: tuple[int, ...], latent_channels: int, codes: int, attends: tuple[int, ...] = ()) -> dict[str, Any]:
    return _sizes("vq", multiples, latent_channels, attends) | {"codes": codes, "sample_size": 256}


def _sizes(kind: str, multiples: tuple[int, ...], latent_channels: int, attends: tuple[int, ...]) -> dict[str, Any]:
    """128 channels times the multiples; `attends` are the levels with attention."""
    return {
        "kind": kind,
        "channels": tuple(128 * multiple for multiple in multiples),
        "layers": 2,
        "latent_channels": latent_channels,
        "attends": tuple(level in attends for level in range(len(multiples))),
    }


_WIDE: dict[str, Any] = {"quant": False, "post_quant": False, "sample_size": 1024, "upcast": True}

VAE_MODELS: dict[str, dict[str, Any]] = {
    "kl-f4": _kl((1, 2, 4), 3),
    "kl-f8": _kl((1, 2, 4, 4), 4, scale=0.18215, sample_size=512),
    "kl-f16": _kl((1, 1, 2, 2, 4), 16, (4,)),
    "kl-f32": _kl((1, 1, 2, 2, 4, 4), 64, (4, 5)),
    "vq-f4": _vq((1, 2, 4), 3, 8192),
    "vq-f8": _vq((1, 2, 2, 4), 4, 16384, (3,)),
    "vq-f16": _vq((1, 1, 2, 2, 4), 8, 16384, (4,)),
    "sdxl-vae": _kl((1, 2, 4, 4), 4, scale=0.13025, sample_size=1024, upcast=True),
    "sd3-vae": _kl((1, 2, 4, 4), 16, scale=1.5305, shift=0.0609, **_WIDE),
    "flux-vae": _kl((1, 2, 4, 4), 16, scale=0.3611, shift=0.1159, **_WIDE),
}


def vae_model(name: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The config of a published autoencoder, with `changes` in their place. UserError for no such name."""
    return copy.deepcopy(VAE_MODELS[one_of("model", name, VAE_MODELS)]) | dict(changes or {})


def _defaults(kind: str) -> dict[str, Any]:
    parameters = inspect.signature(KINDS[kind].__init__).parameters
    return {name: one.default for name, one in parameters.items() if name not in COMPUTED}


def complete_vae(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every key of a config, one value a level where there may be several: two that compute the same come out equal.

    UserError for a key that its kind has not.
    """
    kind = one_of("kind", config.get("kind"), KINDS)
    known = _defaults(kind) | LATENTS
    for name in config:
        if name != "kind" and name not in known:
            one_of(f"a key of an autoencoder {kind!r},", name, known)
    made = {"kind": kind} | known | dict(config)
    made["channels"] = tuple(made["channels"])
    up = made["attends"] if made["up_attends"] is None else made["up_attends"]
    for name, said in (("attends", made["attends"]), ("up_attends", up)):
        made[name] = (said,) * len(made["channels"]) if isinstance(said, bool) else tuple(said)
    if kind == "vq":
        made["dim"] = made["dim"] or made["latent_channels"]
    for name in ("mean", "std"):
        made[name] = None if made[name] is None else tuple(made[name])
        size = made["latent_channels"] if kind == "kl" else made["dim"]
        if made[name] is not None and len(made[name]) != size:
            raise UserError(f"{name} of latents has {len(made[name])} numbers for {size} channels")
    if (made["mean"] is None) != (made["std"] is None):
        raise UserError("mean and std of latents are told together: one of them alone is not read")
    if made["mean"] is not None and made["shift"] is not None:
        raise UserError(f"the latents have a mean a channel and shift {made['shift']}: one of them is not read")
    return made


def vae_keywords(config: Mapping[str, Any]) -> tuple[type[AutoencoderKL] | type[VQ], dict[str, Any]]:
    """(class, its keywords) of a config's network. UserError as `complete_vae`."""
    made = complete_vae(config)
    return KINDS[made["kind"]], {name: made[name] for name in _defaults(made["kind"])}
