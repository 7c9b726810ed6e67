"""Which groups the config of a fine-tuning may have, what its keys may be, and what is wrong with their values together."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.build.key_ranges import RANGES as COMMON
from diffusion_jax.build.keys import REQUIRED, Group, named_group
from diffusion_jax.build.noising import loss
from diffusion_jax.build.ranges import Range, choice, number, optional, patterns, text, whole
from diffusion_jax.build.sources import ALTERED, check_pictures
from diffusion_jax.pipelines.fine_tuning.trains import TRAINS
from diffusion_jax.process import Discrete
from diffusion_jax.systems.diffusion import keys as diffusion
from diffusion_jax.systems.diffusion.ranges import RANGES as OF_DIFFUSION
from diffusion_jax.systems.system import FIXED, FREE
from diffusion_jax.typing import UserError

__all__ = ["CHANGES", "OPTIONAL", "RANGES", "check", "groups"]

OPTIONAL = ("condition", "space", "loss", "preprocess")
"""Groups that a config may be without."""
SHARED = ("data", "preprocess", "loss", "loss.weight_options", "loss.times_options", "sampler", "sampler.guidance")
"""Groups that are a diffusion config's."""
WHERE = (FREE, "compared by its weights, wherever it lies")
CHANGES: dict[str, tuple[str, str]] = {
    "pretrained": (FIXED, "another network to begin with"),
    "pretrained.path": WHERE,
    "pretrained.tokenizer": WHERE,
    "pretrained.dtype": (FIXED, "computed otherwise"),
    "pretrained.remat": (FREE, "what is kept for the gradient and what is computed again"),
    "trains": (FIXED, "other parameters train"),
    "condition": (FIXED, "told something else"),
    "condition.cache": (FREE, "where the same outputs are kept"),
    "space": (FIXED, "another x0"),
    "space.autoencoder": WHERE,
    "preprocess": (FIXED, "other pixels of the same pictures"),
    "sampler": (FREE, "how samples are drawn, not what is learned"),
}
RANGES: dict[str, Range] = OF_DIFFUSION | {
    "pretrained.path": text(
        "the path of a folder of diffusers, or of one file of Stable Diffusion, as text", path=True
    ),
    "pretrained.tokenizer": optional(
        text("the path of a folder or file with CLIP's vocabulary, as text", path=True), "the folder's own"
    ),
    "pretrained.prediction": optional(choice("pretrained.prediction", ("eps", "v")), "what the folder says"),
    "pretrained.dtype": choice("pretrained.dtype", ("auto", "float32", "bfloat16")),
    "pretrained.remat": COMMON["model.remat"],
    "trains.name": choice("trains", TRAINS),
    "trains.rank": whole(1, 4096),
    "trains.alpha": optional(number(0.0, 1e6, above=True, usual=8.0), "the rank, a scale of 1"),
    "trains.paths": optional(
        patterns("a list of patterns of layers' paths, such as ('attn2/(q|kv/[kv]|out)$',)"), "every attention's"
    ),
    "space.autoencoder": optional(
        text("the path of an autoencoder, a run or published weights, as text", path=True), "the pipeline's own"
    ),
}


def groups(config: ConfigDict) -> dict[str, Group]:
    """Every group that this config may have, by its dotted name."""
    shared = diffusion.groups(config)
    own: dict[str, dict[str, Any]] = {
        "pretrained": {"path": REQUIRED, "tokenizer": None, "prediction": None, "dtype": "auto", "remat": None},
        "condition": {"drop": 0.1, "cache": None},
        "space": {"name": "latents", "autoencoder": None, "cache": None},
    }
    data = shared["data"]  # without what a network is told of how its pictures were altered
    shared["data"] = dataclasses.replace(
        data, defaults={key: data.defaults[key] for key in data.defaults if key not in ALTERED}
    )
    return (
        {name: shared[name] for name in SHARED}
        | {name: Group(name, None, keys) for name, keys in own.items()}
        | {"trains": named_group("trains", TRAINS, config)}
    )


def check(config: ConfigDict) -> None:
    """UserError for values that are right alone and wrong together."""
    within = config.get("space") or {}
    if within.get("name", "latents") != "latents":
        raise UserError(
            f"config key 'space.name' is {within['name']!r}: a pipeline works in its latents; nearest: 'latents'"
        )
    check_pictures(config)
    diffusion.check_cached(config)
    told = config.get("loss")
    if told is not None:
        loss(told)
        if told.times == "importance":
            raise UserError(
                "config key 'loss.times' is 'importance', which draws times between the steps that the network was trained on; "
                "nearest: 'uniform'"
            )
        if told.get("uncertainty", False):
            raise UserError(
                "config key 'loss.uncertainty' is True: what it learns would stand beside the U-Net's own parameters; "
                "nearest: False"
            )
    diffusion.check_sampler(config.sampler, Discrete("scaled_linear"), "v")
