"""Noise that is handed in: what a solver draws in each step is given, in the place of what its key would make.

For comparisons under common random numbers, and with samplers that draw from another generator. The noise goes where a step's
keys go, and `steps.noise_like` returns it. A solver that draws more than once in a step has no use for it and is refused.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.sampling import optional
from diffusion_jax.sampling.solvers.dpm_solver_pp import DPMSolverPP
from diffusion_jax.sampling.solvers.predictor_corrector import PredictorCorrector
from diffusion_jax.sampling.solvers.restart import Restart
from diffusion_jax.sampling.steps import Denoise
from diffusion_jax.typing import Schedule, Solver, UserError, pytree_dataclass, static

__all__ = ["WithNoise", "with_noise"]


@pytree_dataclass
class WithNoise:
    """`solver`, whose step i takes `noise[i]` [batch, ...]; made by `with_noise`. The state is (i, the solver's)."""

    solver: Any = static()
    noise: Any

    @property
    def deterministic(self) -> bool:
        """Nothing is drawn."""
        return True

    def check(self, schedule: Schedule, first: float) -> None:
        """What the solver says of the grid."""
        optional.check(self.solver, schedule, first)

    def check_batch(self, x1: Array) -> None:
        """UserError where the noise does not fit x1 [batch, ...]."""
        if self.noise.shape[1:] != x1.shape:
            raise UserError(
                f"noise has shape {self.noise.shape} for a batch of {x1.shape}: a row a step, [steps, *batch]"
            )

    def over(self, num_steps: int) -> WithNoise:
        """UserError unless there is noise for each of `num_steps` steps."""
        if len(self.noise) != num_steps:
            raise UserError(f"noise for {len(self.noise)} steps does not go with a grid of {num_steps}")
        return WithNoise(optional.over(self.solver, num_steps), self.noise)

    def init(self, x: Array) -> Any:
        """The first step, and the solver's state."""
        return jnp.int32(0), self.solver.init(x)

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; the key is not used."""
        index, inner = state
        x, inner = self.solver.step(denoise, schedule, x, t, t_next, self.noise[index].astype(x.dtype), inner)
        return x, (index + 1, inner)

    def finish(self, x0: Array) -> Array:
        """As the solver."""
        return self.solver.finish(x0) if hasattr(self.solver, "finish") else x0

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """As the solver."""
        return optional.evaluations(self.solver, schedule, ts)


def with_noise(solver: Solver, noise: ArrayLike) -> WithNoise:
    """`solver` with `noise` [steps, batch, ...], standard normal, for what it draws: row i in step i.

    Raises UserError for noise without these axes, for a solver with arrays of its own, and for one that draws more than once
    in a step.
    """
    array = jnp.asarray(noise)
    if array.ndim < 2:
        raise UserError(f"noise has shape {array.shape}; it is [steps, batch, ...]")
    if not jax.tree_util.all_leaves([solver]):
        raise UserError(
            f"noise cannot be given to {type(solver).__name__}, which has arrays of its own; nearest: DDPM()"
        )
    inner: Any = solver
    while hasattr(inner, "solver"):
        inner = inner.solver
    if isinstance(inner, PredictorCorrector | Restart) or (
        isinstance(inner, DPMSolverPP) and inner.sde and not inner.multistep
    ):
        raise UserError(
            f"noise cannot be given to {type(inner).__name__}, which draws more than once in a step; nearest: DDPM()"
        )
    return WithNoise(solver, array)
