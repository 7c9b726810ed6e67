"""DDPM: ancestral sampling through the Gaussian posterior q(x_s | x_t, x0), s < t (arXiv 2006.11239), for any schedule.

With r = (alpha_t / sigma_t) (sigma_s / alpha_s) = exp((logsnr_t - logsnr_s) / 2) in [0, 1),

    x_s = alpha_s x0 + r sigma_s eps + sigma_s sqrt(1 - r^2) z,

which is DDIM at eta = 1. The other choice of variance is that of the forward step, beta: sigma_t sqrt(1 - r^2) (section
3.2); a network of learned variance says where between the two logarithms it lies (arXiv 2102.09672, eq. 15). A step to
sigma_s = 0 draws no noise and gives x0.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.sde import coefficients, expand
from diffusion_jax.sampling.solvers.ddim import ratios
from diffusion_jax.sampling.steps import Denoise, Stateless, noise_like
from diffusion_jax.typing import Schedule, UserError, one_of

__all__ = ["DDPM"]


@dataclasses.dataclass(frozen=True)
class DDPM(Stateless):
    """Ancestral sampling, one evaluation a step.

    `variance` is "posterior" (the smaller), "beta" (the larger) or "learned_range": between the two as the network says
    by Prediction.variance in [-1, 1], -1 the posterior's. Without one, "learned_range" raises UserError.

    `temperature` in [0, 1] scales the noise that is drawn. At 0 each step goes to the posterior's mean, which is no sampler:
    the points fall short of the data, towards their mean.
    """

    variance: str = "posterior"
    temperature: float = 1.0
    from_pair: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("variance", self.variance, ("posterior", "beta", "learned_range"))
        if not 0.0 <= self.temperature <= 1.0:
            near = min(max(self.temperature, 0.0), 1.0)
            raise UserError(f"temperature {self.temperature} is not in [0, 1]; nearest: {near}")

    @property
    def deterministic(self) -> bool:
        """At temperature 0."""
        return self.temperature == 0

    @property
    def convergence(self) -> int | None:
        """1; none with another temperature, whose law is not the data's."""
        return 1 if self.temperature == 1 else None

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]."""
        pair = denoise(x, t)
        alpha, sigma = coefficients(schedule, t_next, x)
        r, rest = ratios(schedule, t, t_next, x)
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
