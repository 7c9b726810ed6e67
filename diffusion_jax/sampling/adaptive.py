"""The probability-flow ODE with error control, by diffrax (Kidger, 2021), each example with steps of its own.

In the angle phi = arctan(sigma / alpha) and y = x / sqrt(alpha^2 + sigma^2) the ODE is

    dy / dphi = cos(phi) eps_hat - sin(phi) x0_hat,

for every schedule: the pair is constant along a straight trajectory, y = cos(phi) x0 + sin(phi) eps. Nothing diverges at
either end, neither at alpha = 0 nor at sigma = 0, where the rates of alpha and sigma in t may. Tolerances are those of y,
whose entries have the size of the data or of the noise. The network is called once for the whole batch, each example at
its own time; those that are done wait for the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
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
    Where an example needs more than `max_steps` in an interval its sample is infinite.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    method: str = "tsit5"
    max_steps: int = 1000

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        if not (self.rtol > 0 and self.atol > 0):
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
        y, done, attempts = integrate(
            slopes, y, start, end, rtol=self.rtol, atol=self.atol, method=self.method, max_steps=self.max_steps
        )
        y = jnp.where(expand(done, y) != 0, y, jnp.inf)
        return y * jnp.sqrt(alpha_next**2 + sigma_next**2), state + evaluations(self.method, attempts)

    def counted(self, state: Array) -> Array:
        """The evaluations of each example so far, int32 [batch]."""
        return state


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
) -> tuple[PyTree, Array, Array]:
    """y at `end` from y0 at `start`, whether each example arrived [batch], and its attempted steps [batch].

    y0 is a pytree of [batch, ...]; field(phi [batch], y) is its derivative, of the same structure, for the whole batch at
    once, each example at its own phi.
    """
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
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
            adjoint=diffrax.ForwardMode(),
            max_steps=max_steps,
            throw=False,
        )
        done = solution.result == diffrax.RESULTS.successful
        return jax.tree.map(lambda leaf: leaf[0], solution.ys), done, solution.stats["num_steps"]

    return jax.vmap(solve)(y0)
