"""`diffusion-jax encode`: the latents of a config's training pictures, on disk for `space.cache`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.data.reading import first_readable
from diffusion_jax.files import check_folder
from diffusion_jax.parallel.memory import enough_memory
from diffusion_jax.runs import read_json
from diffusion_jax.systems.check import check
from diffusion_jax.systems.diffusion.data import examples
from diffusion_jax.systems.diffusion.latent_cache import DTYPES, NOTE, write_latents
from diffusion_jax.systems.diffusion.latents import autoencoder_at, latents_of, moments
from diffusion_jax.systems.system import Say
from diffusion_jax.typing import one_of, whole_number

__all__ = ["encode"]


def encode(arguments: argparse.Namespace, config: ConfigDict, say: Say) -> int:
    """Writes them. UserError for what a run of the config could not be trained on."""
    one_of("--dtype", arguments.dtype, DTYPES)
    size = whole_number("--batch-size", arguments.batch_size, 1)
    shard_size = whole_number("--shard-size", arguments.shard_size, 1)
    out = Path(arguments.out)
    check_folder(out.parent)
    found = autoencoder_at(arguments.autoencoder)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.space = ConfigDict({"name": "latents", "autoencoder": arguments.autoencoder, "cache": str(out)})
    check(config)  # what alters pictures by chance is refused here
    data = examples(config, "train")
    image = tuple(np.shape(first_readable(data, config.data.get("on_error"))["image"]))
    space = latents_of(found, image, config)
    flip = build.gives_pictures(config.data) and build.reading(config.data)["flip"]
    note: dict[str, Any] = {
        "autoencoder": str(found.path), "class": found.kind, "fingerprint": space.noted.fingerprint,
        "scale": np.asarray(found.scale).tolist(), "shift": np.asarray(found.shift).tolist(), "shape": list(space.shape),
    }  # fmt: skip
    run = jax.jit(lambda params, images: moments(found, params, images))
    ways = ", as they are and turned" if flip else ""
    say(f"{len(data)} pictures of {image}{ways}, to latents of {space.shape} by {found.path}")
    with enough_memory(f"lower --batch-size {size}, or the size of the pictures (--config.preprocess.size)"):
        write_latents(
            out,
            note,
            config,
            data,
            lambda images: np.asarray(run(found.params, images)),
            flip=flip,
            batch_size=size,
            shard_size=shard_size,
            dtype=arguments.dtype,
            overwrite=arguments.overwrite,
            progress=not arguments.no_progress,
        )
    told = read_json(out / NOTE)
    if told["missing"]:
        say(f"{len(told['missing'])} pictures cannot be read and are left out")
    keys = {"name": "latents", "autoencoder": found.path, "cache": out}
    say(f"written to {out}: train with {' '.join(f'--config.space.{key}={value}' for key, value in keys.items())}")
    return 0
