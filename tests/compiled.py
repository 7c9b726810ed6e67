"""A network for tests that call it outside of any `jax.jit`: by one program, not by one for each of its operations."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from diffusion_jax.nets import Network


class Compiled(Network):
    """`Network` with each function of the parameters under `jax.jit`; whether it trains is static."""

    def __init__(self, constructor: Callable[..., Any]) -> None:
        super().__init__(constructor)
        self.apply = self.method("__call__")

    @functools.cache  # noqa: B019 - as long as the test
    def method(self, name: str) -> Callable[..., Any]:
        return jax.jit(functools.partial(self._call, name), static_argnames="train")
