"""Inverse problems: samples x0 that explain y = A x0 + noise_std n, for a given operator A and any denoiser.

The score of the posterior at xt is the denoiser's plus grad_xt log p(y | xt), and p(y | xt) = E[p(y | x0)] over p(x0 | xt).

- **pigdm** (PiGDM, Song et al., ICLR 2023): p(x0 | xt) is taken as N(x0_hat, r^2 I), with r^2 = s^2 sigma^2 / (alpha^2 s^2 +
  sigma^2), which is exact for data N(m, s^2 I). Then, with J = d x0_hat / d xt,

      g = J^T u,   u = A^T (noise_std^2 I + r^2 A A^T)^-1 (y - A x0_hat),
      eps' = eps - sigma g,   x0' = x0 + sigma^2 / alpha g:

  a DenoiseFn, for any solver. The inverse is by conjugate gradients in the space of y, each example for itself. Where alpha
  is 0, x0_hat says nothing of xt and J is 0; there x0' = x0 + r^2 u, which is its limit for Gaussian data, as sigma^2 / alpha
  J is the covariance of x0 given xt (the second-order Tweedie formula).
- **DPS** (arXiv 2209.14687, algorithm 1): p(x0 | xt) is taken as a point at x0_hat. After each step of a solver

      x_next - zeta grad_xt ||y - A x0_hat(xt)||.

  The paper writes zeta_i grad ||.||^2 with zeta_i = zeta' / ||.||, which is this with zeta = 2 zeta'; its published code
  takes the gradient of the norm, as here. `normalised=False` is zeta grad ||.||^2. The weight depends on no noise level, so
  even for Gaussian data the samples are not the posterior's; A may be any differentiable function.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.arguments import check_schedule, data, whole
from diffusion_jax.process.asking import AnyTime
from diffusion_jax.process.prediction import FLOOR
from diffusion_jax.process.sde import coefficients
from diffusion_jax.sampling.editing.inpainting import check_inner
from diffusion_jax.sampling.guidance.steered import Steered, fitted, memory_of, remembering, setting, structured
from diffusion_jax.sampling.steps import Denoise
from diffusion_jax.typing import DenoiseFn, Prediction, PyTree, Schedule, UserError, pytree_dataclass, static

__all__ = ["DPS", "PiGDM", "conjugate_gradients", "pigdm"]

NOISELESS = 1e-8
"""The least noise_std^2 beside r^2: below float32's resolution, and an inverse exists whatever A."""


def _seen(operator: Callable[[Array], Array], y: Any, x: Array) -> jax.ShapeDtypeStruct:
    """What the operator makes of x [batch, ...], by its shape alone. UserError where it fails or y does not fit."""
    name = f"the operator of an inverse problem, on a batch of shape {x.shape},"
    try:
        out = jax.eval_shape(operator, jax.ShapeDtypeStruct(x.shape, x.dtype))
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"{name} fails: {str(error).strip().splitlines()[0]}") from error
    shape = getattr(out, "shape", None)
    if shape is None or not jnp.issubdtype(out.dtype, jnp.floating):
        raise UserError(f"{name} gives {out!r}, not an array of floats")
    if shape[:1] != x.shape[:1] or jnp.shape(y) not in (shape, (1, *shape[1:])):
        raise UserError(
            f"{name} gives the shape {shape}, but y has shape {jnp.shape(y)}: they must be equal (or y's batch 1)"
        )
    return out


def _transpose(operator: Callable[[Array], Array], x: Array, out: jax.ShapeDtypeStruct) -> Callable[[Array], Array]:
    """A^T, for an operator that is linear but for a constant. UserError for any other."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)

    def transposed(v: Array) -> Array:
        return jax.linear_transpose(operator, shape)(v)[0]

    try:
        jax.eval_shape(transposed, out)
    except (NotImplementedError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            "the operator of an inverse problem must be linear (a constant may be added), and JAX cannot transpose this one: "
            "DPS takes any differentiable operator"
        ) from error
    return transposed


def conjugate_gradients(matvec: Callable[[Array], Array], b: Array, iterations: int) -> Array:
    """x [batch, ...] with matvec(x) = b, for a symmetric positive definite matvec that leaves the examples apart.

    An example rests when its residual is at rounding beside b: its answer does not depend on its batch.
    """
    axes = tuple(range(1, b.ndim))

    def inner(u: Array, v: Array) -> Array:
        return jnp.sum(u * v, axis=axes, keepdims=True)

    def solve(matvec: Callable[[Array], Array], b: Array) -> Array:
        enough = (10 * jnp.finfo(b.dtype).eps) ** 2 * inner(b, b)

        def going(carry: Any) -> Array:
            return (carry[4] < iterations) & jnp.any(carry[3] > enough)

        def step(carry: Any) -> Any:
            x, residual, direction, square, count = carry
            moved = matvec(direction)
            curvature, active = inner(direction, moved), square > enough
            length = jnp.where(active, square / jnp.where(active & (curvature > 0), curvature, 1.0), 0.0)
            residual = residual - length * moved
            now = jnp.where(active, inner(residual, residual), square)
            turn = jnp.where(active, now / jnp.where(active, square, 1.0), 0.0)
            return x + length * direction, residual, residual + turn * direction, now, count + 1

        return jax.lax.while_loop(going, step, (jnp.zeros_like(b), b, b, inner(b, b), jnp.int32(0)))[0]

    # So that what is made of it has derivatives: those of the solution, not of the iterations.
    return jax.lax.custom_linear_solve(matvec, b, solve, symmetric=True)


@pytree_dataclass
class PiGDM(Steered, AnyTime):
    """A denoiser led to the posterior of y; made by `pigdm`."""

    denoise: Any
    operator: Any
    y: Any
    noise_std: Any
    data_std: Any
    scale: Any
    schedule: Any
    iterations: int = static()

    def start(self, xt: Array) -> PyTree:
        """The memory of the denoiser."""
        return memory_of(self.denoise, xt)

    def step(self, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Prediction, PyTree]:
        """The guided pair at xt [batch, ...]; UserError for an operator that is not linear or does not fit y."""
        dtype = jnp.promote_types(xt.dtype, jnp.float32)
        x = xt.astype(dtype)
        out = _seen(self.operator, self.y, x)
        transposed = _transpose(self.operator, x, out)

        def clean(x: Array) -> tuple[Array, tuple[Prediction, PyTree]]:
            pair, after = remembering(self.denoise, x.astype(xt.dtype), t, cond, memory)
            return pair.x0.astype(dtype), (pair, after)

        x0, pull, (pair, memory) = jax.vjp(clean, x, has_aux=True)
        residual = jnp.asarray(self.y, out.dtype) - self.operator(x0)
        spread = self._spread(t, residual)
        noise = fitted("noise_std", jnp.asarray(self.noise_std, dtype), residual) ** 2
        noise = jnp.maximum(noise, NOISELESS * spread)
        share, total = spread / (noise + spread), noise + spread

        def matvec(v: Array) -> Array:
            return (1.0 - share) * v + share * jax.jvp(self.operator, (x0,), (transposed(v),))[1]

        u = transposed(conjugate_gradients(matvec, residual, self.iterations) / total).astype(dtype)
        g = pull(u)[0]
        alpha, sigma = coefficients(self.schedule, t, x0)
        scale = fitted("scale", self.scale, x0)
        towards = jnp.where(alpha > FLOOR, sigma**2 / jnp.maximum(alpha, FLOOR) * g, self._spread(t, x0) * u)
        return Prediction(pair.x0 + scale * towards, pair.eps - scale * sigma * g, pair.variance), memory

    def _spread(self, t: ArrayLike, like: Array) -> Array:
        """r^2, the variance of x0 given xt, in the shape that multiplies `like`; above 0 where sigma is 0."""
        alpha, sigma = coefficients(self.schedule, t, like)
        sigma, std = jnp.maximum(sigma, FLOOR), fitted("data_std", jnp.asarray(self.data_std, like.dtype), like)
        return std**2 * sigma**2 / (alpha**2 * std**2 + sigma**2)


def pigdm(
    denoise: DenoiseFn,
    operator: Callable[[Array], Array],
    y: ArrayLike,
    noise_std: ArrayLike,
    data_std: ArrayLike = 1.0,
    scale: ArrayLike = 1.0,
    *,
    schedule: Schedule,
    iterations: int = 50,
) -> PiGDM:
    """`denoise` led to data with operator(x0) = y + noise_std n; the samples of a solver are then the posterior's.

    operator([batch, ...]) -> [batch, ...] is linear (a constant may be added) and leaves the examples apart; a plain function
    is structure, as a pytree (`jax.tree_util.Partial(fn, weights)`) its arrays do not recompile. y has the shape of its
    output, with batch or 1; noise_std >= 0, data_std > 0 (of a pixel: sets how far x0_hat is trusted) and scale >= 0 are
    numbers, or one an example. At most `iterations` of conjugate gradients: as many as A A^T has distinct eigenvalues are
    exact. An evaluation costs one of the denoiser and its derivative.

    Raises UserError for settings out of range, and when it is called for an operator that does not fit.
    """
    if not callable(operator):
        raise UserError(f"operator is {type(operator).__name__}, not a function; a matrix: lambda x: x @ matrix.T")
    whole("iterations", iterations)
    check_schedule(schedule)
    return PiGDM(
        structured(denoise),
        structured(operator, "operator"),
        data("y", y, clean=True),
        setting("noise_std", noise_std, 0.0),
        setting("data_std", data_std, FLOOR),
        setting("scale", scale, 0.0),
        schedule,
        iterations,
    )


@pytree_dataclass
class DPS:
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
        check_inner(self, self.solver)
        if callable(self.operator):
            object.__setattr__(self, "operator", structured(self.operator, "operator"))

    def check(self, schedule: Schedule, first: float) -> None:
        """What the solver says of the grid."""
        if hasattr(self.solver, "check"):
            self.solver.check(schedule, first)

    def check_batch(self, x1: Array) -> None:
        """UserError where operator, y or zeta does not fit x1 [batch, ...]."""
        if not callable(self.operator):
            raise UserError(f"operator of DPS is {type(self.operator).__name__}, not a function")
        data("y", self.y, clean=True)
        _seen(self.operator, self.y, x1.astype(jnp.promote_types(x1.dtype, jnp.float32)))
        fitted("zeta", setting("zeta", self.zeta, 0.0), x1)

    def over(self, num_steps: int) -> DPS:
        """This solver with the inner one for a grid of `num_steps` steps."""
        if not hasattr(self.solver, "over"):
            return self
        return dataclasses.replace(self, solver=self.solver.over(num_steps))

    def init(self, x: Array) -> Any:
        """The solver's state."""
        return self.solver.init(x)

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]."""

        def misfit(x: Array) -> tuple[Array, Prediction]:
            pair = denoise(x, t)
            made = self.operator(pair.x0.astype(x.dtype))
            return jnp.asarray(self.y, made.dtype) - made, pair

        residual, pull, pair = jax.vjp(misfit, x, has_aux=True)
        if self.normalised:
            norm = jnp.sqrt(jnp.sum(residual**2, axis=tuple(range(1, residual.ndim)), keepdims=True))
            along = residual / jnp.where(norm > 0, norm, 1.0)
        else:
            along = 2.0 * residual
        gradient = pull(along)[0]

        def handed(y: Array, s: Array) -> Prediction:
            return pair if y is x and s is t else denoise(y, s)

        moved, state = self.solver.step(handed, schedule, x, t, t_next, key, state)
        zeta = fitted("zeta", jnp.asarray(self.zeta, x.dtype), x)
        return moved - zeta * gradient.astype(moved.dtype), state

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """The solver's, and one a step more where it does not begin with the pair at (x, t)."""
        steps = len(ts) - 1
        count = self.solver.evaluations(schedule, ts) if hasattr(self.solver, "evaluations") else steps
        return jnp.asarray(count, jnp.int32) + (0 if self._shares(schedule, ts) else steps)

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
