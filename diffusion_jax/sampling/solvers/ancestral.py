"""Any solver of the ODE made ancestral (k-diffusion): a step to less noise than asked for, and the rest added anew.

With r as in `ddim` the step goes down to rho_down = rho' sqrt(1 - share^2), rho = sigma / alpha and share = eta sqrt(1 - r^2),
and what is missing of rho' is drawn:

    x' = alpha' (x_down / alpha_down + rho' share z).

With Euler's method this is `euler_ancestral`, with DPM-Solver of order 2 k-diffusion's "DPM2 a". The stages of the solver see
no noise; the draws of one step are seen by the next.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.prediction import FLOOR
from diffusion_jax.process.sde import coefficients, expand
from diffusion_jax.sampling import optional
from diffusion_jax.sampling.around import Around
from diffusion_jax.sampling.solvers.ddim import ratios
from diffusion_jax.sampling.solvers.dpm_solver import DPMSolver
from diffusion_jax.sampling.steps import LEAST, Denoise, noise_like, relative_sigma, time_at
from diffusion_jax.typing import Schedule, UserError

__all__ = ["Ancestral"]

_DPM2 = DPMSolver(2)


@dataclasses.dataclass(frozen=True)
class Ancestral(Around):
    """`solver`, which draws nothing, with the share `eta` in [0, 1] of the noise that an ancestral step has.

    Raises UserError for another eta, and for a solver that draws or has error control.
    """

    solver: Any = _DPM2
    eta: float = 1.0
    convergence: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self._check_inner()
        if not optional.deterministic(self.solver):
            raise UserError(
                f"Ancestral cannot hold {type(self.solver).__name__}, which draws noise; nearest: DPMSolver(2)"
            )
        if not 0.0 <= self.eta <= 1.0:
            raise UserError(f"eta {self.eta} is not in [0, 1]; nearest: {min(max(self.eta, 0.0), 1.0)}")

    @property
    def deterministic(self) -> bool:
        """At eta = 0: the solver itself."""
        return self.eta == 0

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]. A last step to sigma = 0 is the solver's."""
        if self.eta == 0:
            return self.solver.step(denoise, schedule, x, t, t_next, key, state)
        share = self.eta * ratios(schedule, t, t_next, x)[1]
        kept = jnp.sqrt((1.0 - share) * (1.0 + share)).reshape(())
        down = time_at(schedule, jnp.maximum(relative_sigma(schedule, t_next) * kept, LEAST)).astype(t.dtype)
        noisy = schedule.sigma(t_next) > 0
        lower, state = self.solver.step(
            denoise, schedule, x, t, jnp.where(noisy, jnp.clip(down, 0.0, t_next), t_next), key, state
        )
        _, sigma = coefficients(schedule, t_next, x)
        shrink = expand(schedule.alpha(t_next) / jnp.maximum(schedule.alpha(down), FLOOR), x)
        return jnp.where(noisy, shrink * lower + sigma * share * noise_like(key, x), lower), state

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """As the solver."""
        return optional.evaluations(self.solver, schedule, ts)
