"""DDIM: from t to s < t through q(x_s | x_t, x0) with any share of its noise (arXiv 2010.02502), for any schedule.

With r = (alpha_t / sigma_t) (sigma_s / alpha_s) = exp((logsnr_t - logsnr_s) / 2) in [0, 1), DDIM's family (eq. 12 and 16) is

    x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z,   std = eta sigma_s sqrt(1 - r^2).

At eta = 1 it is the Gaussian posterior, DDPM; at eta = 0 it is the probability-flow ODE. A step to sigma_s = 0 draws no
noise and gives x0.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.prediction import FLOOR
from diffusion_jax.process.sde import coefficients, expand
from diffusion_jax.sampling.steps import Denoise, Stateless, noise_like
from diffusion_jax.typing import Schedule, UserError

__all__ = ["DDIM", "Family", "ratios"]


def ratios(schedule: Schedule, t: Array, t_next: Array, x: Array) -> tuple[Array, Array]:
    """(r, sqrt(1 - r^2)), without the difference of two near numbers; (0, 1) from pure noise, where logsnr is clipped."""
    change = schedule.logsnr(t) - schedule.logsnr(t_next)
    r, rest = jnp.exp(0.5 * change), jnp.sqrt(-jnp.expm1(jnp.minimum(change, 0.0)))
    pure = schedule.alpha(t) <= FLOOR
    return expand(jnp.where(pure, 0.0, r), x), expand(jnp.where(pure, 1.0, rest), x)


class Family(Stateless):
    """A step of DDIM's family. For frozen dataclasses with a field `eta` in [0, 1]."""

    eta: float
    convergence: ClassVar[int] = 1
    from_pair: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise UserError(f"eta {self.eta} is not in [0, 1]; nearest: {min(max(self.eta, 0.0), 1.0)}")

    @property
    def deterministic(self) -> bool:
        """At eta = 0: the ODE."""
        return self.eta == 0

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]."""
        pair = denoise(x, t)
        alpha, sigma = coefficients(schedule, t_next, x)
        if self.eta == 0.0:
            return alpha * pair.x0 + sigma * pair.eps, state
        share = self.eta * ratios(schedule, t, t_next, x)[1]
        kept = jnp.sqrt((1.0 - share) * (1.0 + share))
        return alpha * pair.x0 + sigma * (kept * pair.eps + share * noise_like(key, x)), state


@dataclasses.dataclass(frozen=True)
class DDIM(Family):
    """One evaluation a step; eta in [0, 1]: 0 is deterministic, 1 is DDPM with the posterior variance."""

    eta: float = 0.0
