"""Euler's method for the probability-flow ODE, dx = x0_hat dalpha + eps_hat dsigma, from noise to data.

Written in its differentials, the ODE has no derivative that diverges: over a step the pair (x0_hat, eps_hat) is frozen,

    x' = x + (alpha' - alpha) x0_hat + (sigma' - sigma) eps_hat = alpha' x0_hat + sigma' eps_hat,

which is DDIM without noise (arXiv 2010.02502, eq. 12), for every schedule.

`variable="t"` integrates dx/dt instead, with the derivatives of alpha and sigma at the ends of the step, as
flow-matching code does; for RectifiedFlow both are the same. Where sigma' diverges (VPLinear at 0) it leaves part of
the noise at a last step to t = 0.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array

from diffusion_jax.process.sde import coefficients, velocity
from diffusion_jax.sampling.steps import Denoise, Stateless
from diffusion_jax.typing import Schedule, one_of

__all__ = ["VARIABLES", "Euler"]

VARIABLES = ("sigma", "t")


@dataclasses.dataclass(frozen=True)
class Euler(Stateless):
    """First order, one evaluation a step. `variable` is "sigma" or "t"; see the module."""

    variable: str = "sigma"
    convergence: ClassVar[int] = 1
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("variable", self.variable, VARIABLES)

    @property
    def from_pair(self) -> bool:
        """In sigma, where x itself has no part."""
        return self.variable == "sigma"

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; draws nothing."""
        pair = denoise(x, t)
        if self.variable == "t":
            return x + ((t_next - t) * velocity(schedule, pair, t)).astype(x.dtype), state
        # x = alpha x0 + sigma eps, so that this is x moved along the pair, with two roundings less.
        alpha_next, sigma_next = coefficients(schedule, t_next, x)
        return alpha_next * pair.x0 + sigma_next * pair.eps, state
