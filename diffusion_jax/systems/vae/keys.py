"""Which groups an autoencoder's config may have, and what is wrong with their values together."""

from __future__ import annotations

from ml_collections import ConfigDict

from diffusion_jax.build.constructors import parameters
from diffusion_jax.build.keys import Group, chosen, named_group, spec_at
from diffusion_jax.build.sources import AUGMENTATION, GENERATIVE, READING, SOURCES, check_pictures, gives_pictures
from diffusion_jax.nets.vae.coders import check_sizes, factor_of
from diffusion_jax.systems.vae.network import (
    ADVERSARIES,
    AUTOENCODERS,
    GIVEN,
    adversary,
    latent_options,
    loss_options,
    vae_config,
)
from diffusion_jax.typing import UserError

__all__ = ["OPTIONAL", "check", "groups"]

OPTIONAL = ("preprocess", "loss", "adversary")
"""Groups that an autoencoder's config may be without."""


def groups(config: ConfigDict) -> dict[str, Group]:
    """Every group that this config may have, by its dotted name."""
    name = chosen(spec_at(config, "model").get("name"), AUTOENCODERS)
    model = named_group("model", AUTOENCODERS, config, GIVEN)
    model = Group(model.label, model.name, {**model.defaults, "dtype": "auto"}, model.ranges)
    return {
        "data": _data(config),
        "preprocess": Group("preprocess", None, GENERATIVE),
        "model": model,
        "loss": Group(f"loss of {name!r}" if name else "loss", name, parameters(loss_options) | latent_options(name)),
        "adversary": named_group("adversary", ADVERSARIES, config, first="none", silent=True),
    }


def _data(config: ConfigDict) -> Group:
    """Of arrays a shift, of pictures how they are read."""
    name = chosen(spec_at(config, "data").get("name"), SOURCES)
    reading = {key: default for key, default in READING.items() if key != "eval_pairs"}
    shift = {"shift": AUGMENTATION["shift"]}
    beside = shift | reading if name is None else reading if gives_pictures({"name": name}) else shift
    return named_group("data", SOURCES, config, ("split",)).beside(**beside)


def check(config: ConfigDict) -> None:
    """UserError for values that are right alone and wrong together, as the constructors find them."""
    check_pictures(config)
    factor = factor_of(tuple(config.model.get("channels", AUTOENCODER_LEVELS[config.model.name])))
    size = (config.get("preprocess") or {}).get("size")
    if size is not None:
        check_sizes(size, size, factor)
    vae_config(config.model, (factor, factor, 1))
    patch = adversary(config.get("adversary"))
    if patch is not None and patch.start >= config.steps:
        raise UserError(
            f"config key 'adversary.start' is {patch.start}, which is not below key 'steps', {config.steps}: it would never "
            f"count; nearest: {config.steps - 1}, or without one --config.adversary={{}} --config.adversary.name=none"
        )


AUTOENCODER_LEVELS = {name: parameters(make)["channels"] for name, make in AUTOENCODERS.items()}
"""The widths of the levels where a config says none."""
