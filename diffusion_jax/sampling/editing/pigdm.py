"""PiGDM (Song et al., ICLR 2023): any denoiser led to the posterior of y = A x0 + noise_std n, A linear. See `posterior`.

p(x0 | xt) is taken as N(x0_hat, r^2 I), with r^2 = s^2 sigma^2 / (alpha^2 s^2 + sigma^2), which is exact for data N(m, s^2 I).
Then, with J = d x0_hat / d xt,

    g = J^T u,   u = A^T (noise_std^2 I + r^2 A A^T)^-1 (y - A x0_hat),
    eps' = eps - sigma g,   x0' = x0 + sigma^2 / alpha g:

a DenoiseFn, for any solver. The inverse is by conjugate gradients in the space of y, each example for itself. Where alpha
is 0, x0_hat says nothing of xt and J is 0; there x0' = x0 + r^2 u, which is its limit for Gaussian data, as sigma^2 / alpha
J is the covariance of x0 given xt (the second-order Tweedie formula).
"""

from __future__ import annotations

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
from diffusion_jax.sampling.editing.posterior import seen
from diffusion_jax.sampling.guidance.steered import Steered, fitted, memory_of, remembering, setting, structured
from diffusion_jax.sampling.norms import inner
from diffusion_jax.typing import DenoiseFn, Prediction, PyTree, Schedule, UserError, pytree_dataclass, static

__all__ = ["PiGDM", "conjugate_gradients", "pigdm"]

NOISELESS = 1e-8
"""The least noise_std^2 beside r^2: below float32's resolution, and an inverse exists whatever A."""


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
        out = seen(self.operator, self.y, x)
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
