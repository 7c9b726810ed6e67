"""Restart (arXiv 2306.14878, algorithm 1): the noise goes back up on the way, and the interval is solved again.

When the grid has first passed below rho_min, rho = sigma / alpha, the state is noised up to rho_max along the process
itself, which leaves the marginals as they are, and solved by Heun's steps again in `steps` steps of Karras's spacing,
`repeats` times.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.sampling.solvers.heun import Heun
from diffusion_jax.sampling.steps import Denoise, Stateless, noise_like, relative_sigma, renoise, time_at
from diffusion_jax.typing import Schedule, UserError

__all__ = ["Restart"]


@dataclasses.dataclass(frozen=True)
class Restart(Stateless):
    """Heun with restarts; `intervals` are (rho_min, rho_max, steps, repeats), rho = sigma / alpha.

    The default is the paper's for CIFAR-10. A grid that never passes below rho_min restarts nowhere.
    """

    intervals: tuple[tuple[float, float, int, int], ...] = ((0.06, 0.30, 3, 2),)
    rho: float = 7.0
    deterministic: ClassVar[bool] = False
    convergence: ClassVar[None] = None

    def __post_init__(self) -> None:
        for low, high, steps, repeats in self.intervals:
            if not (0 < low < high and steps >= 1 and repeats >= 1):
                raise UserError(
                    f"restart interval {(low, high, steps, repeats)} is not (rho_min, rho_max, steps, repeats) with "
                    "0 < rho_min < rho_max, and steps and repeats of at least 1"
                )

    def _begins(self, schedule: Schedule, t: Array, t_next: Array, low: float) -> Array:
        now, then = relative_sigma(schedule, t), relative_sigma(schedule, t_next)
        return (now > low) & (then <= low) & (schedule.sigma(t_next) > 0)

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]."""
        x, state = Heun().step(denoise, schedule, x, t, t_next, key, state)
        for index, (low, high, steps, repeats) in enumerate(self.intervals):
            keys = jax.vmap(jax.random.fold_in, (0, None))(key, index)

            def again(
                x: Array, high: float = high, steps: int = steps, repeats: int = repeats, keys: Array = keys
            ) -> Array:
                return self._solve_again(denoise, schedule, x, t_next, high, steps, repeats, keys)

            x = jax.lax.cond(self._begins(schedule, t, t_next, low), again, lambda x: x, x)
        return x, state

    def _solve_again(
        self,
        denoise: Denoise,
        schedule: Schedule,
        x: Array,
        t: Array,
        high: float,
        steps: int,
        repeats: int,
        key: Array,
    ) -> Array:
        """x at t taken up to rho = `high` and back down to t, `repeats` times."""
        low = jnp.maximum(relative_sigma(schedule, t), 1e-8)
        share = jnp.arange(steps + 1, dtype=x.dtype) / steps
        ends = [jnp.maximum(jnp.asarray(high, x.dtype), low) ** (1 / self.rho), low ** (1 / self.rho)]
        times = time_at(schedule, (ends[0] + share * (ends[1] - ends[0])) ** self.rho).astype(t.dtype)
        times = jnp.minimum(times, schedule.t_max).at[-1].set(t)

        def one(x: Array, repeat: Array) -> tuple[Array, None]:
            noise = noise_like(jax.vmap(jax.random.fold_in, (0, None))(key, repeat), x)
            x = renoise(schedule, x, t, times[0], noise)

            def down(x: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
                return Heun().step(denoise, schedule, x, pair[0], pair[1], key, ())[0].astype(x.dtype), None

            return jax.lax.scan(down, x, (times[:-1], times[1:]))[0], None

        return jax.lax.scan(one, x, jnp.arange(repeats))[0]

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """Heun's over the grid, and two for each step of each restart."""
        total = Heun().evaluations(schedule, ts)
        for low, _, steps, repeats in self.intervals:
            begins = jax.vmap(lambda t, s, low=low: self._begins(schedule, t, s, low))(ts[:-1], ts[1:])
            total = total + 2 * steps * repeats * jnp.sum(begins, dtype=jnp.int32)
        return total
