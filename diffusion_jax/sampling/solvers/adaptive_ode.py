"""The probability-flow ODE with error control, by diffrax (Kidger, 2021), each example with steps of its own.

In the angle phi = arctan(sigma / alpha) and y = x / sqrt(alpha^2 + sigma^2) the ODE is

    dy / dphi = cos(phi) eps_hat - sin(phi) x0_hat,

for every schedule: the pair is constant along a straight trajectory, y = cos(phi) x0 + sin(phi) eps. Nothing diverges at
either end, neither at alpha = 0 nor at sigma = 0, where the rates of alpha and sigma in t may. Tolerances are those of y,
whose entries have the size of the data or of the noise. The network is called once for the whole batch, each example at
its own time; those that are done wait for the rest.

A tolerance below the rounding of the network is met by chance alone: the difference of two embedded methods is then of
noise, h times its size, and the steps shrink until that is small. In bfloat16 (roundings of 2^-8 = .004), under guidance of
3, an example of 16 dimensions takes 1,000 evaluations at 1e-5 and less than 80 at .004; a network of more layers, whose
roundings add up, runs out of steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.sde import coefficients, expand
from diffusion_jax.sampling.steps import Denoise
from diffusion_jax.typing import PyTree, Schedule, UserError, one_of

__all__ = ["METHODS", "AdaptiveODE", "angle", "angular_velocity", "evaluations", "integrate"]

METHODS = {
    "heun": (diffrax.Heun, 2),
    "bosh3": (diffrax.Bosh3, 3),
    "tsit5": (diffrax.Tsit5, 6),
    "dopri5": (diffrax.Dopri5, 6),
    "dopri8": (diffrax.Dopri8, 13),
}
"""diffrax's embedded Runge-Kutta methods, and the evaluations of an attempted step."""

FIRST_STAGE_IS_LAST = {"bosh3", "tsit5", "dopri5", "dopri8"}


@dataclasses.dataclass(frozen=True)
class AdaptiveODE:
    """Each interval of the grid is solved to the tolerances; a grid of two times is one solve, and the usual choice.

    `method` is "heun", "bosh3", "tsit5", "dopri5" or "dopri8". The state counts the evaluations of each example [batch].
    Tolerances that are None fit the denoiser: 1e-5, or the rounding of the coarsest type that it computes in where that is
    larger, 2^-8 in bfloat16. Where an example needs more than `max_steps` in an interval its sample is infinite.
    """

    rtol: float | None = None
    atol: float | None = None
    method: str = "tsit5"
    max_steps: int = 1000
    deterministic: ClassVar[bool] = True
    convergence: ClassVar[None] = None

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        if not all(tolerance is None or tolerance > 0 for tolerance in (self.rtol, self.atol)):
            raise UserError(f"rtol {self.rtol} and atol {self.atol} must be above 0")
        if not self.max_steps >= 1:
            raise UserError(f"max_steps {self.max_steps} is below 1")

    def init(self, x: Array) -> Array:
        """No evaluation yet, int32 [batch]."""
        return jnp.zeros(x.shape[:1], jnp.int32)

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Array
    ) -> tuple[Array, Array]:
        """x [batch, ...] at t -> x at t_next < t; draws nothing."""
        (alpha, sigma), (alpha_next, sigma_next) = (coefficients(schedule, s, x) for s in (t, t_next))
        start, end = (angle(schedule, s) for s in (t, t_next))

        def slopes(phi: Array, y: Array) -> Array:
            return angular_velocity(denoise, schedule, phi, y)

        y = x / jnp.sqrt(alpha**2 + sigma**2)
        rtol, atol = self.rtol, self.atol
        if rtol is None or atol is None:
            fitting = max(FINEST, rounding(denoise, x, t))
            rtol, atol = (fitting if tolerance is None else tolerance for tolerance in (rtol, atol))
        y, done, attempts = integrate(
            slopes, y, start, end, rtol=rtol, atol=atol, method=self.method, max_steps=self.max_steps
        )
        y = jnp.where(expand(done, y) != 0, y, jnp.inf)
        return y * jnp.sqrt(alpha_next**2 + sigma_next**2), state + evaluations(self.method, attempts)

    def counted(self, state: Array) -> Array:
        """The evaluations of each example so far, int32 [batch]."""
        return state

    def explain(self, x0: ArrayLike) -> str | None:
        """A line where some of the samples x0 [batch, ...] are infinite, as those that did not arrive are."""
        lost = np.isinf(np.asarray(x0)).reshape(len(np.asarray(x0)), -1).any(axis=1)
        if not lost.any():
            return None
        said = [f"{name} {value:g}" for name, value in (("rtol", self.rtol), ("atol", self.atol)) if value is not None]
        return (
            f"{lost.sum()} of {lost.size} samples did not arrive within max_steps {self.max_steps} of AdaptiveODE at "
            f"{' and '.join(said) or 'the tolerances that fit the network'}: a tolerance below the network's own rounding "
            "(0.004 in bfloat16) is never met, so take larger ones, or more max_steps"
        )


FINEST = 1e-5
"""The default tolerance where the denoiser's precision allows it."""


def rounding(fn: Callable[..., Any], *args: Any) -> float:
    """The unit roundoff of the coarsest float type in which fn(*args) computes anything: 2^-24 in float32, 2^-8 in bfloat16."""

    def dtypes(jaxpr: Any) -> Iterator[Any]:
        for equation in jaxpr.eqns:
            yield from (out.aval.dtype for out in equation.outvars if hasattr(out.aval, "dtype"))
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from dtypes(inner)

    found = [dtype for dtype in dtypes(jax.make_jaxpr(fn)(*args).jaxpr) if jnp.issubdtype(dtype, jnp.floating)]
    return max((0.5 * float(jnp.finfo(dtype).eps) for dtype in found), default=0.0)


def evaluations(method: str, attempts: Array) -> Array:
    """Those of so many attempted steps. A method whose last stage is the next step's first makes one more, at the start."""
    return (method in FIRST_STAGE_IS_LAST) + METHODS[method][1] * attempts.astype(jnp.int32)


def angle(schedule: Schedule, t: Array) -> Array:
    """phi = arctan(sigma / alpha) at t."""
    return jnp.arctan2(schedule.sigma(t), schedule.alpha(t))


def time_of_angle(schedule: Schedule, phi: Array) -> Array:
    """The t in [t_min, t_max] at which arctan(sigma / alpha) is phi."""
    ratio = jnp.log(jnp.maximum(jnp.cos(phi), 1e-30)) - jnp.log(jnp.maximum(jnp.sin(phi), 1e-30))
    times = schedule.t_from_logsnr(jnp.clip(2.0 * ratio, -20.0, 20.0))
    return jnp.clip(times, schedule.t_min, schedule.t_max).astype(phi.dtype)


def angular_velocity(denoise: Denoise, schedule: Schedule, phi: Array, y: Array) -> Array:
    """dy / dphi of the probability-flow ODE at y [batch, ...] and phi [batch]."""
    times = time_of_angle(schedule, phi)
    norm = jnp.sqrt(schedule.alpha(times) ** 2 + schedule.sigma(times) ** 2)
    pair = denoise(expand(norm, y) * y, times)
    return expand(jnp.cos(phi), y) * pair.eps - expand(jnp.sin(phi), y) * pair.x0


def integrate(
    field: Callable[[Array, Any], Any],
    y0: PyTree,
    start: Array,
    end: Array,
    *,
    rtol: float,
    atol: float,
    method: str,
    max_steps: int,
    norm: Callable[[PyTree], Array] | None = None,
) -> tuple[PyTree, Array, Array]:
    """y at `end` from y0 at `start`, whether each example arrived [batch], and its attempted steps [batch].

    y0 is a pytree of [batch, ...]; field(phi [batch], y) is its derivative, of the same structure, for the whole batch at
    once, each example at its own phi. `norm` is that of an example's scaled error, of which a step is accepted below 1; None is
    the root of the mean square over all entries.
    """
    options: dict[str, Any] = {} if norm is None else {"norm": norm}
    size = jax.tree.leaves(y0)[0].shape[0]
    # Weights and conditions that are traced outside become arguments, which diffrax's loops can carry.
    converted = eqx.filter_closure_convert(field, jnp.broadcast_to(start, (size,)), y0)
    arrays, rest = eqx.partition(converted, eqx.is_array)

    @jax.custom_batching.custom_vmap
    def single(arrays: Any, phi: Array, y: Any) -> Any:
        # Traced for its shape alone: under vmap, where it always is, JAX takes the rule below.
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.inf), y)

    @single.def_vmap
    def together(size: int, batched: Any, arrays: Any, phi: Array, y: Any) -> tuple[Any, Any]:
        phi = phi if batched[1] else jnp.broadcast_to(phi, (size,))
        y = jax.tree.map(lambda leaf, is_: leaf if is_ else jnp.broadcast_to(leaf, (size, *leaf.shape)), y, batched[2])
        return eqx.combine(arrays, rest)(phi, y), jax.tree.map(lambda _: True, y)

    def solve(y: Any) -> tuple[Any, Array, Array]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda phi, y, arrays: single(arrays, phi, y)),
            METHODS[method][0](),
            t0=start,
            t1=end,
            dt0=None,
            y0=y,
            args=arrays,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, **options),
            adjoint=diffrax.ForwardMode(),
            max_steps=max_steps,
            throw=False,
        )
        done = solution.result == diffrax.RESULTS.successful
        return jax.tree.map(lambda leaf: leaf[0], solution.ys), done, solution.stats["num_steps"]

    return jax.vmap(solve)(y0)
