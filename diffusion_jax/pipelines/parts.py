"""What a text-to-image pipeline is made of, for what reads it and does not draw: `text_to_image.TextToImage` is one."""
# ruff: noqa: D102 - fields, which the class that has them explains

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from diffusion_jax.pipelines.scheduler import Scheduler
from diffusion_jax.pipelines.text_encoder import TextEncoder
from diffusion_jax.systems.vae.pretrained import Autoencoder
from diffusion_jax.typing import Params

__all__ = ["Parts"]


@runtime_checkable
class Parts(Protocol):
    """The fields of a `TextToImage`, as it explains them."""

    @property
    def kind(self) -> str: ...
    @property
    def unet_config(self) -> Mapping[str, Any]: ...
    @property
    def params(self) -> Params: ...
    @property
    def vae(self) -> Autoencoder: ...
    @property
    def encoders(self) -> tuple[TextEncoder, ...]: ...
    @property
    def scheduler(self) -> Scheduler: ...
    @property
    def size(self) -> int: ...
    @property
    def zeros(self) -> bool: ...
    @property
    def aesthetics(self) -> bool: ...
    @property
    def linear(self) -> bool: ...
    @property
    def joins(self) -> int: ...
