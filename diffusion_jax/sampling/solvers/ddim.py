"""Samplers that go from t to s < t through q(x_s | x_t, x0): DDPM and DDIM, for any schedule.

With r = (alpha_t / sigma_t) (sigma_s / alpha_s) = exp((logsnr_t - logsnr_s) / 2) in [0, 1), the Gaussian posterior is

    x_s = alpha_s x0 + r sigma_s eps + sigma_s sqrt(1 - r^2) z,

which is DDIM's family (arXiv 2010.02502, eq. 12 and 16)

    x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z,   std = eta sigma_s sqrt(1 - r^2),

at eta = 1; at eta = 0 it is the probability-flow ODE. DDPM's other choice of variance is that of the forward step,
beta: sigma_t sqrt(1 - r^2) (arXiv 2006.11239, section 3.2); a network of learned variance says where between the two
logarithms it lies (arXiv 2102.09672, eq. 15). A step to sigma_s = 0 draws no noise and gives x0.

Euler's ancestral sampler (k-diffusion) takes an ODE step in rho = sigma / alpha to less noise than asked for and adds the
rest: rho_up = eta rho_s sqrt(1 - r^2). In (alpha, sigma) that is DDIM's family again, for every eta.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.sde import coefficients, expand
from diffusion_jax.sampling.steps import Denoise, noise_like
from diffusion_jax.typing import Prediction, Schedule, UserError, one_of

__all__ = ["DDIM", "DDPM", "EulerAncestral"]


def _spread(schedule: Schedule, t: Array, t_next: Array, x: Array) -> tuple[Array, Array]:
    """(r, sqrt(1 - r^2)), without the difference of two near numbers."""
    change = schedule.logsnr(t) - schedule.logsnr(t_next)
    return expand(jnp.exp(0.5 * change), x), expand(jnp.sqrt(-jnp.expm1(jnp.minimum(change, 0.0))), x)


def _family(schedule: Schedule, pair: Prediction, t: Array, t_next: Array, key: Array, x: Array, eta: float) -> Array:
    """alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z with std = eta sigma_s sqrt(1 - r^2)."""
    alpha, sigma = coefficients(schedule, t_next, x)
    if eta == 0.0:
        return alpha * pair.x0 + sigma * pair.eps
    _, rest = _spread(schedule, t, t_next, x)
    share = eta * rest
    kept = jnp.sqrt((1.0 - share) * (1.0 + share))
    return alpha * pair.x0 + sigma * (kept * pair.eps + share * noise_like(key, x))


def _check_eta(eta: float) -> None:
    if not 0.0 <= eta <= 1.0:
        raise UserError(f"eta {eta} is not in [0, 1]; nearest: {min(max(eta, 0.0), 1.0)}")


@dataclasses.dataclass(frozen=True)
class DDIM:
    """One evaluation a step; eta in [0, 1]: 0 is deterministic, 1 is DDPM with the posterior variance."""

    eta: float = 0.0

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


@dataclasses.dataclass(frozen=True)
class DDPM:
    """Ancestral sampling, one evaluation a step.

    `variance` is "posterior" (the smaller), "beta" (the larger) or "learned_range": between the two as the network says
    by Prediction.variance in [-1, 1], -1 the posterior's. Without one, "learned_range" raises UserError.

    `temperature` in [0, 1] scales the noise that is drawn. At 0 each step goes to the posterior's mean, which is no sampler:
    the points fall short of the data, towards their mean.
    """

    variance: str = "posterior"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        one_of("variance", self.variance, ("posterior", "beta", "learned_range"))
        if not 0.0 <= self.temperature <= 1.0:
            near = min(max(self.temperature, 0.0), 1.0)
            raise UserError(f"temperature {self.temperature} is not in [0, 1]; nearest: {near}")

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
        elif self.variance == "learned_range":
            if pair.variance is None:
                raise UserError(
                    "DDPM(variance='learned_range') needs a network of learned variance: denoiser(..., learned_variance=True)"
                )
            # exp(share log(beta) + (1 - share) log(posterior)), of deviations that differ by sigma alone
            share = 0.5 * (pair.variance + 1.0)
            later, sooner = expand(schedule.sigma(t), x), jnp.where(sigma > 0, sigma, 1.0)
            std = jnp.where(sigma > 0, later**share * sooner ** (1.0 - share) * rest, 0.0)
        mean = alpha * pair.x0 + r * sigma * pair.eps
        return mean + self.temperature * std * noise_like(key, x), state
