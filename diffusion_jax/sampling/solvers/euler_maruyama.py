"""Euler-Maruyama for the reverse SDE itself (score SDE, arXiv 2011.13456, appendix E).

dx = (velocity - eta^2 g^2 s / 2) dt + eta g dw with dt = t_next - t < 0 of the grid itself, so that any spacing is stepped by
its own length. g diverges where alpha is 0: under Cosine and RectifiedFlow begin at t_max < 1. A last step to sigma = 0 gives
x0 and leaves no noise.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion_jax.process.prediction import FLOOR
from diffusion_jax.process.sde import expand, reverse_drift, squared_diffusion
from diffusion_jax.sampling.steps import Denoise, Stateless, noise_like
from diffusion_jax.typing import Schedule, UserError

__all__ = ["EulerMaruyama"]


@dataclasses.dataclass(frozen=True)
class EulerMaruyama(Stateless):
    """First order in the drift, one evaluation a step; eta >= 0: 1 is the reverse SDE, 0 Euler in t."""

    eta: float = 1.0
    convergence: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.eta >= 0:
            raise UserError(f"eta {self.eta} is below 0; nearest: 0")

    @property
    def deterministic(self) -> bool:
        """At eta = 0: the ODE."""
        return self.eta == 0

    def check(self, schedule: Schedule, first: float) -> None:
        """UserError for a grid that begins where alpha is 0."""
        if self.eta > 0 and float(np.asarray(schedule.alpha(jnp.float32(first)))) <= FLOOR:
            raise UserError(
                f"EulerMaruyama cannot begin at t = {first:g} under {type(schedule).__name__}, where alpha is 0 and g "
                "diverges: take ExponentialEuler(eta=1.0), or t_max=0.99"
            )

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]."""
        pair = denoise(x, t)
        dt = expand(t_next - t, x)
        moved = x + dt * reverse_drift(schedule, pair, t, self.eta)
        if self.eta:
            spread = jnp.maximum(expand(squared_diffusion(schedule, t), x), 0.0) * -dt
            moved = moved + self.eta * jnp.sqrt(spread) * noise_like(key, x)
        return jnp.where(expand(schedule.sigma(t_next), x) > 0, moved, pair.x0), state
