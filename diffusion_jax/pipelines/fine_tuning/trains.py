"""What of a pipeline's U-Net trains, the group `trains` of a config: adapters of some of its layers, or all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.build.constructors import construct
from diffusion_jax.train.lora import ATTENTION, init_lora
from diffusion_jax.typing import Array, Params

__all__ = ["TRAINS", "LoRA", "Whole", "trains"]


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Adapters of `rank` for the layers in whose path one of `paths` is found, those of every attention by default."""

    rank: int
    alpha: float | None = None
    paths: Sequence[str] | None = None

    def begin(self, params: Params, key: Array) -> Params:
        """Fresh adapters, which change nothing."""
        return init_lora(
            params, key, rank=self.rank, alpha=self.alpha, paths=ATTENTION if self.paths is None else self.paths
        )


@dataclasses.dataclass(frozen=True)
class Whole:
    """Every parameter of the U-Net."""

    def begin(self, params: Params, key: Array) -> Params:
        """The pipeline's own."""
        return params


TRAINS: dict[str, Callable[..., Any]] = {"lora": LoRA, "unet": Whole}


def trains(config: ConfigDict) -> LoRA | Whole:
    """What trains by a config."""
    made: LoRA | Whole = construct("trains", TRAINS, config.trains)
    return made
