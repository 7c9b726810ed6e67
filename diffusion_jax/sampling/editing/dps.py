"""DPS (arXiv 2209.14687, algorithm 1): any solver led to data that explain y = A(x0) + noise. See `posterior`.

p(x0 | xt) is taken as a point at x0_hat. After each step of a solver

    x_next - zeta grad_xt ||y - A x0_hat(xt)||.

The paper writes zeta_i grad ||.||^2 with zeta_i = zeta' / ||.||, which is this with zeta = 2 zeta'; its published code takes
the gradient of the norm, as here. `normalised=False` is zeta grad ||.||^2. The weight depends on no noise level, so even for
Gaussian data the samples are not the posterior's; A may be any differentiable function.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.arguments import data
from diffusion_jax.sampling import optional
from diffusion_jax.sampling.around import Around
from diffusion_jax.sampling.editing.posterior import seen
from diffusion_jax.sampling.guidance.steered import fitted, setting, structured
from diffusion_jax.sampling.norms import unit
from diffusion_jax.sampling.steps import Denoise
from diffusion_jax.typing import Prediction, Schedule, UserError, pytree_dataclass, static

__all__ = ["DPS"]


@pytree_dataclass
class DPS(Around):
    """`solver` with a step against ||y - operator(x0_hat)|| after each of its own; see the module.

    operator([batch, ...]) -> [batch, ...] may be any differentiable function, y [batch or 1, ...] has the shape of its
    output; `zeta` >= 0 is a number, or one an example (the paper's images take .5 to 2 in its code's terms, for 1000 steps).
    Operator, y and zeta are leaves: a plain function is structure. The denoiser is differentiated; where the solver begins
    with the pair at (x, t) it gets that of the gradient, and a step costs no evaluation more.

    Raises UserError for a solver with error control or with arrays of its own, and, when it meets the batch, for an
    operator or y that does not fit and for zeta below 0.
    """

    solver: Any = static()
    operator: Any
    y: Any
    zeta: Any
    normalised: bool = static(default=True)

    def __post_init__(self) -> None:
        self._check_inner()
        if callable(self.operator):
            object.__setattr__(self, "operator", structured(self.operator, "operator"))

    @property
    def deterministic(self) -> bool:
        """As the solver."""
        return optional.deterministic(self.solver)

    def check_batch(self, x1: Array) -> None:
        """UserError where operator, y or zeta does not fit x1 [batch, ...]."""
        if not callable(self.operator):
            raise UserError(f"operator of DPS is {type(self.operator).__name__}, not a function")
        data("y", self.y, clean=True)
        seen(self.operator, self.y, x1.astype(jnp.promote_types(x1.dtype, jnp.float32)))
        fitted("zeta", setting("zeta", self.zeta, 0.0), x1)

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]."""

        def misfit(x: Array) -> tuple[Array, Prediction]:
            pair = denoise(x, t)
            made = self.operator(pair.x0.astype(x.dtype))
            return jnp.asarray(self.y, made.dtype) - made, pair

        residual, pull, pair = jax.vjp(misfit, x, has_aux=True)
        gradient = pull(unit(residual) if self.normalised else 2.0 * residual)[0]

        def handed(y: Array, s: Array) -> Prediction:
            return pair if y is x and s is t else denoise(y, s)

        moved, state = self.solver.step(handed, schedule, x, t, t_next, key, state)
        zeta = fitted("zeta", jnp.asarray(self.zeta, x.dtype), x)
        return moved - zeta * gradient.astype(moved.dtype), state

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """The solver's, and one a step more where it does not begin with the pair at (x, t)."""
        return optional.evaluations(self.solver, schedule, ts) + (0 if self._shares(schedule, ts) else len(ts) - 1)

    def _shares(self, schedule: Schedule, ts: Array) -> bool:
        """Whether the solver asks for the pair at (x, t) itself, found by tracing a step of it."""
        asked = []

        def step(x: Array, t: Array, t_next: Array) -> Array:
            def denoise(y: Array, s: Array) -> Prediction:
                asked.append(y is x and s is t)
                return Prediction(y, y)

            keys = jax.random.split(jax.random.key(0), x.shape[0])
            return self.solver.step(denoise, schedule, x, t, t_next, keys, self.solver.init(x))[0]

        jax.eval_shape(step, jnp.zeros((1, 1), ts.dtype), ts[0], ts[1])
        return any(asked)
