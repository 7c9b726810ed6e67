"""Samplers that go from t to s < t through q(x_s | x_t, x0): DDPM and DDIM, for any schedule.

With r = (alpha_t / sigma_t) (sigma_s / alpha_s) = exp((logsnr_t - logsnr_s) / 2) in [0, 1), the Gaussian posterior is

    x_s = alpha_s x0 + r sigma_s eps + sigma_s sqrt(1 - r^2) z,

which is DDIM's family (arXiv 2010.02502, eq. 12 and 16)

    x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z,   std = eta sigma_s sqrt(1 - r^2),

at eta = 1; at eta = 0 it is the probability-flow ODE. DDPM's other choice of variance is that of the forward step,
beta: sigma_t sqrt(1 - r^2) (arXiv 2006.11239, section 3.2). A step to sigma_s = 0 draws no noise and gives x0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.sde import coefficients, expand
from diffusion_jax.typing import Prediction, Schedule, UserError, one_of

__all__ = ["DDIM", "DDPM", "noise_like"]

Denoise = Callable[[Array, Array], Prediction]


def noise_like(key: Array, x: Array) -> Array:
    """Standard normal noise of the shape of x, each example from its own key: key [batch]."""
    return jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(key)


def _spread(schedule: Schedule, t: Array, t_next: Array, x: Array) -> tuple[Array, Array]:
    """(r, sqrt(1 - r^2)), without the difference of two near numbers."""
    change = schedule.logsnr(t) - schedule.logsnr(t_next)
    return expand(jnp.exp(0.5 * change), x), expand(jnp.sqrt(-jnp.expm1(jnp.minimum(change, 0.0))), x)


@dataclasses.dataclass(frozen=True)
class DDIM:
    """One evaluation a step; eta in [0, 1]: 0 is deterministic, 1 is DDPM with the posterior variance."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise UserError(f"eta {self.eta} is not in [0, 1]; nearest: {min(max(self.eta, 0.0), 1.0)}")

    def init(self, x: Array) -> Any:
        """No state."""
        return ()

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]."""
        pair = denoise(x, t)
        alpha, sigma = coefficients(schedule, t_next, x)
        if self.eta == 0.0:
            return alpha * pair.x0 + sigma * pair.eps, state
        _, rest = _spread(schedule, t, t_next, x)
        share = self.eta * rest
        kept = jnp.sqrt((1.0 - share) * (1.0 + share))
        return alpha * pair.x0 + sigma * (kept * pair.eps + share * noise_like(key, x)), state


@dataclasses.dataclass(frozen=True)
class DDPM:
    """Ancestral sampling, one evaluation a step; `variance` is "posterior" (the smaller) or "beta" (the larger)."""

    variance: str = "posterior"

    def __post_init__(self) -> None:
        one_of("variance", self.variance, ("posterior", "beta"))

    def init(self, x: Array) -> Any:
        """No state."""
        return ()

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]."""
        pair = denoise(x, t)
        alpha, sigma = coefficients(schedule, t_next, x)
        r, rest = _spread(schedule, t, t_next, x)
        std = sigma * rest
        if self.variance == "beta":
            # The step to clean data stays free of noise, as published.
            std = jnp.where(sigma > 0, expand(schedule.sigma(t), x) * rest, 0.0)
        return alpha * pair.x0 + r * sigma * pair.eps + std * noise_like(key, x), state
