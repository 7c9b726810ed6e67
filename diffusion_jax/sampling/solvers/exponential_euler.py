"""Exponential Euler: x0_hat frozen over a step, and the rest exact (`steps.exponential_step`).

It is so for the whole family of reverse SDEs: eta = 0 is DDIM, eta = 1 DDPM with the posterior variance; between them it is
the SDE of that eta, not DDIM's eta.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array

from diffusion_jax.sampling.steps import (
    Denoise,
    Stateless,
    exponential_step,
    noise_like,
)
from diffusion_jax.typing import Schedule, UserError

__all__ = ["ExponentialEuler"]


@dataclasses.dataclass(frozen=True)
class ExponentialEuler(Stateless):
    """First order, one evaluation a step; eta >= 0: 0 is the ODE, 1 the reverse SDE."""

    eta: float = 0.0
    convergence: ClassVar[int] = 1
    from_pair: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.eta >= 0:
            raise UserError(f"eta {self.eta} is below 0; nearest: 0")

    @property
    def deterministic(self) -> bool:
        """At eta = 0: the ODE."""
        return self.eta == 0

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch], used where eta > 0."""
        noise = noise_like(key, x) if self.eta else None
        return exponential_step(schedule, denoise(x, t), t, t_next, self.eta, noise), state
