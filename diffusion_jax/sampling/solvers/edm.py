"""Samplers that add noise on the way and remove it again by Heun's steps: EDM's churn, and Restart.

Adding noise to x_t along the process itself leaves the marginals as they are: from t up to s > t, x / alpha gains the
variance rho_s^2 - rho_t^2, rho = sigma / alpha. What follows solves the ODE.

- **EDMStochastic** (arXiv 2206.00364, algorithm 2): before each step rho rises by a factor 1 + gamma, gamma = min(s_churn
  / num_steps, sqrt(2) - 1) where s_tmin <= rho <= s_tmax. s_churn = 0 is Heun.
- **Restart** (arXiv 2306.14878, algorithm 1): when the grid has first passed below rho_min, the noise goes back up to
  rho_max and the interval is solved again in `steps` steps of Karras's spacing, `repeats` times.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.process.sde import coefficients
from diffusion_jax.sampling.solvers.euler import Heun
from diffusion_jax.sampling.steps import Denoise, noise_like, relative_sigma
from diffusion_jax.typing import Schedule, UserError

__all__ = ["EDMStochastic", "Restart"]


def _time_at(schedule: Schedule, rho: Array) -> Array:
    """The time whose sigma / alpha is rho > 0."""
    return schedule.t_from_logsnr(-2.0 * jnp.log(rho))


def _with_noise(schedule: Schedule, x: Array, t: Array, later: Array, noise: Array) -> Array:
    """x at t taken up to the time `later` >= t by standard normal `noise`; alpha(t) > 0."""
    alpha, sigma = coefficients(schedule, t, x)
    alpha_later, sigma_later = coefficients(schedule, later, x)
    shrink = alpha_later / jnp.where(alpha > 0, alpha, 1.0)
    added = jnp.sqrt(jnp.maximum(sigma_later**2 - (shrink * sigma) ** 2, 0.0))
    return shrink * x + added * noise


@dataclasses.dataclass(frozen=True)
class EDMStochastic:
    """Second order with churn, two evaluations a step (one at a last step to sigma = 0).

    s_churn >= 0 counts over the whole grid, s_tmin and s_tmax bound rho = sigma / alpha, s_noise scales the added noise
    (the paper's values for ImageNet-64 are 40, .05, 50 and 1.003). `num_steps` is filled in by `sample`.
    """

    s_churn: float = 40.0
    s_tmin: float = 0.05
    s_tmax: float = 50.0
    s_noise: float = 1.003
    num_steps: int | None = None

    def __post_init__(self) -> None:
        if not self.s_churn >= 0:
            raise UserError(f"s_churn {self.s_churn} is below 0; nearest: 0")
        if not 0 <= self.s_tmin <= self.s_tmax:
            raise UserError(f"s_tmin {self.s_tmin} and s_tmax {self.s_tmax} must satisfy 0 <= s_tmin <= s_tmax")

    def over(self, num_steps: int) -> EDMStochastic:
        """This solver for a grid of `num_steps` steps."""
        return self if self.num_steps else dataclasses.replace(self, num_steps=num_steps)

    def init(self, x: Array) -> Any:
        """No state."""
        return ()

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t; key [batch]. Raises UserError without num_steps."""
        if self.s_churn > 0:
            if self.num_steps is None:
                raise UserError("EDMStochastic spreads its churn over the grid: give num_steps, or use `sample`")
            gamma = min(self.s_churn / self.num_steps, math.sqrt(2.0) - 1.0)
            rho = relative_sigma(schedule, t)
            top = relative_sigma(schedule, jnp.asarray(schedule.t_max, x.dtype))
            churned = (rho >= self.s_tmin) & (rho <= self.s_tmax) & (schedule.alpha(t) > 0)
            higher = jnp.minimum(rho * (1.0 + gamma), top)
            later = jnp.where(churned, jnp.maximum(_time_at(schedule, higher).astype(t.dtype), t), t)
            x = _with_noise(schedule, x, t, later, self.s_noise * noise_like(key, x))
            t = later
        return Heun().step(denoise, schedule, x, t, t_next, key, state)

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """As Heun."""
        return Heun().evaluations(schedule, ts)


@dataclasses.dataclass(frozen=True)
class Restart:
    """Heun with restarts; `intervals` are (rho_min, rho_max, steps, repeats), rho = sigma / alpha.

    The default is the paper's for CIFAR-10. A grid that never passes below rho_min restarts nowhere.
    """

    intervals: tuple[tuple[float, float, int, int], ...] = ((0.06, 0.30, 3, 2),)
    rho: float = 7.0

    def __post_init__(self) -> None:
        for low, high, steps, repeats in self.intervals:
            if not (0 < low < high and steps >= 1 and repeats >= 1):
                raise UserError(
                    f"restart interval {(low, high, steps, repeats)} is not (rho_min, rho_max, steps, repeats) with "
                    "0 < rho_min < rho_max, and steps and repeats of at least 1"
                )

    def init(self, x: Array) -> Any:
        """No state."""
        return ()

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
        times = _time_at(schedule, (ends[0] + share * (ends[1] - ends[0])) ** self.rho).astype(t.dtype)
        times = jnp.minimum(times, schedule.t_max).at[-1].set(t)

        def one(x: Array, repeat: Array) -> tuple[Array, None]:
            noise = noise_like(jax.vmap(jax.random.fold_in, (0, None))(key, repeat), x)
            x = _with_noise(schedule, x, t, times[0], noise)

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
