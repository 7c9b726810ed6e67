"""Predictor-corrector sampling (score SDE, arXiv 2011.13456, algorithms 2 to 5): a solver's step, then Langevin's dynamics.

After each step of any solver come `steps` steps at the new time, x + eps s + sqrt(2 eps) z, whose stationary law is p_t up to
O(eps). The step size is that of a signal-to-noise ratio r: eps = 2 (r |z| / |s|)^2 ("norm", as published but of each example
alone, so that a sample does not depend on its batch; for data of many dimensions, as the ratio of two norms of few entries
has no bound), or 2 (r sigma)^2 ("sigma", the default), what the ratio of norms is for pure noise of many dimensions.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.sde import coefficients
from diffusion_jax.sampling import optional
from diffusion_jax.sampling.norms import inner
from diffusion_jax.sampling.solvers.euler_maruyama import EulerMaruyama
from diffusion_jax.sampling.steps import Denoise, noise_like
from diffusion_jax.typing import Schedule, Solver, UserError, one_of

__all__ = ["PredictorCorrector"]

_PREDICTOR = EulerMaruyama()


@dataclasses.dataclass(frozen=True)
class PredictorCorrector:
    """`predictor`'s step, then `steps` of Langevin's at the new time with ratio `snr`; `size` is "sigma" or "norm"."""

    predictor: Any = _PREDICTOR
    steps: int = 1
    snr: float = 0.16
    size: str = "sigma"
    deterministic: ClassVar[bool] = False
    convergence: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not isinstance(self.predictor, Solver):
            raise UserError(f"predictor {self.predictor!r} is not a solver; nearest: EulerMaruyama()")
        if not (isinstance(self.steps, int) and self.steps >= 1):
            raise UserError(f"steps {self.steps!r} of the corrector is not a whole number of at least 1")
        if not self.snr > 0:
            raise UserError(f"snr {self.snr} is not above 0; the published value is 0.16")
        one_of("size", self.size, ("norm", "sigma"))

    def check(self, schedule: Schedule, first: float) -> None:
        """What the predictor says of the grid."""
        optional.check(self.predictor, schedule, first)

    def over(self, num_steps: int) -> PredictorCorrector:
        """This solver with its predictor for a grid of `num_steps` steps."""
        return dataclasses.replace(self, predictor=optional.over(self.predictor, num_steps))

    def init(self, x: Array) -> Any:
        """The predictor's state."""
        return self.predictor.init(x)

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]. At sigma = 0 there is nothing to correct."""
        fold = jax.vmap(jax.random.fold_in, (0, None))
        x, state = self.predictor.step(denoise, schedule, x, t, t_next, fold(key, 0), state)
        _, sigma = coefficients(schedule, t_next, x)

        def corrected(x: Array) -> Array:
            def one(x: Array, index: Array) -> tuple[Array, None]:
                noise = noise_like(fold(key, 1 + index), x)
                # sigma s = -eps, and eps_step = sigma^2 * size: nothing is divided by sigma.
                push = -denoise(x, t_next).eps
                size = 2.0 * self.snr**2 * (1.0 if self.size == "sigma" else _ratio(noise, push))
                return x + sigma * (size * push + jnp.sqrt(2.0 * size) * noise), None

            return jax.lax.scan(one, x, jnp.arange(self.steps))[0]

        return jax.lax.cond(schedule.sigma(t_next) > 0, corrected, lambda x: x, x), state

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """The predictor's, and `steps` after each step that ends in noise."""
        corrected = jnp.sum(schedule.sigma(ts[1:]) > 0, dtype=jnp.int32)
        return optional.evaluations(self.predictor, schedule, ts) + self.steps * corrected


def _ratio(noise: Array, push: Array) -> Array:
    """(|noise| / |push|)^2 of each example, in the shape that multiplies it."""
    return inner(noise, noise) / jnp.maximum(inner(push, push), 1e-12)
