"""Euler's ancestral sampler (k-diffusion): an ODE step in rho = sigma / alpha to less noise than asked for, and the rest added.

With rho_up = eta rho_s sqrt(1 - r^2), r as in `ddim`, this is in (alpha, sigma) DDIM's family, for every eta.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtyping import Array

from diffusion_jax.sampling.solvers.ddim import _check_eta, _family
from diffusion_jax.sampling.steps import Denoise
from diffusion_jax.typing import Schedule

__all__ = ["EulerAncestral"]


@dataclasses.dataclass(frozen=True)
class EulerAncestral:
    """k-diffusion's ancestral Euler for every schedule, one evaluation a step; eta in [0, 1], DDIM's with the same eta."""

    eta: float = 1.0

    def __post_init__(self) -> None:
        _check_eta(self.eta)

    def init(self, x: Array) -> Any:
        """No state."""
        return ()

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]."""
        return _family(schedule, denoise(x, t), t, t_next, key, x, self.eta), state
