"""The mean and the deviation of each channel of latents, fitted on pictures: what makes them the x0 of a diffusion model.

A diffusion model is to see (z - mean) / std, of mean 0 and variance 1 in each channel. Of a normal posterior z = m + s eps, the
variance over pictures, places and draws is var(m) + mean(s^2): nothing has to be drawn to know it. The deviation is taken to be
1e-6 at least.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from diffusion_jax.data.examples import to_unit
from diffusion_jax.nets import Network, Posterior
from diffusion_jax.runs import read_json
from diffusion_jax.typing import Array, Params, Source, UserError

__all__ = ["FITTED", "NOTE", "Statistics", "fit", "noted"]

NOTE = "latents.json"
"""The statistics of a run's latents, beside a fingerprint of the weights whose they are."""
FITTED = 10_000
"""The most pictures that they are fitted on."""
LEAST = 1e-6


@dataclasses.dataclass(frozen=True)
class Statistics:
    """`mean` and `std`, a number a channel, of the latents of `examples` pictures."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    examples: int

    def note(self, weights: str) -> dict[str, Any]:
        """As a run keeps it; `weights` is their fingerprint."""
        return {"weights": weights, **dataclasses.asdict(self)}

    def of_channels(self) -> dict[str, Any]:
        """As the config of an AutoencoderKL says them: (z - mean) / std, with a scale of 1."""
        numbers = {"mean": [float(x) for x in self.mean], "std": [float(x) for x in self.std]}
        return {"scale": 1.0, "shift": None, **numbers}


def noted(folder: Path, weights: str) -> Statistics | None:
    """Those that a run notes of weights of this fingerprint; None where it notes none, or of others."""
    file = folder / NOTE
    if not file.is_file():
        return None
    found = read_json(file)
    if found.get("weights") != weights:
        return None
    try:
        return Statistics(tuple(map(float, found["mean"])), tuple(map(float, found["std"])), int(found["examples"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} does not hold the statistics of latents: delete it, and they are fitted anew"
        ) from error


@functools.partial(jax.jit, static_argnums=0)
def _sums(network: Network, params: Params, images: Any, counted: Array) -> tuple[Array, Array, Array]:
    """Of each picture: the means of its latents, of their squares, and of their variances, [batch, channels]."""
    found = network.method("encode")(params, to_unit(images))
    mean, spread = (
        (found.mean, jnp.exp(found.logvar)) if isinstance(found, Posterior) else (found, jnp.zeros_like(found))
    )
    parts = (part.mean(axis=(1, 2)) * counted[:, None] for part in (mean, mean**2, spread))
    a, b, c = parts
    return a, b, c


def fit(
    network: Network,
    params: Params,
    data: Source,
    *,
    most: int = FITTED,
    size: int = 64,
    skip: bool = False,
    name: str = "measuring latents",
) -> Statistics:
    """The statistics over `most` examples of a source at most, spread over all its places, with progress.

    `size` pictures at a time. With `skip` pictures that cannot be read are left out; without, and where there is none left,
    UserError.
    """
    places = np.unique(np.linspace(0, len(data) - 1, min(len(data), most)).astype(int))
    size = min(size, len(places))
    totals: list[np.ndarray] = []
    count = 0
    with tqdm(total=len(places), desc=name, unit="picture", delay=2, leave=False) as bar:
        for start in range(0, len(places), size):
            images = _read(data, places[start : start + size], skip)
            if images:
                counted = np.arange(size) < len(images)
                whole = np.stack(images + [images[0]] * (size - len(images)))
                sums = _sums(network, params, whole, jnp.asarray(counted, jnp.float32))
                totals.append(np.stack([np.asarray(part, np.float64).sum(axis=0) for part in sums]))
                count += len(images)
            bar.update(min(size, len(places) - start))
    if not count:
        raise UserError("none of the pictures can be read: there are no latents to be measured")
    mean, square, spread = np.sum(totals, axis=0) / count
    std = np.sqrt(np.maximum(square - mean**2 + spread, LEAST**2))
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()), count)


def _read(data: Source, places: np.ndarray, skip: bool) -> list[np.ndarray]:
    found = []
    for place in places:
        try:
            found.append(np.asarray(data[int(place)]["image"]))
        except UserError:
            if not skip:
                raise
    return found
