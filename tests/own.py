"""A solver and a schedule as a user writes them: the tests of the tables hold for them too."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from diffusion_jax.typing import pytree_dataclass


@dataclasses.dataclass(frozen=True)
class Midpoint:
    """A user's solver: DDIM to the middle of the step, and from there the whole step along the pair of the middle."""

    convergence: ClassVar[int] = 2
    deterministic: ClassVar[bool] = True

    def init(self, x):
        return ()

    def step(self, denoise, schedule, x, t, t_next, key, state):
        middle = 0.5 * (t + t_next)
        pair = denoise(x, t)
        pair = denoise(schedule.alpha(middle) * pair.x0 + schedule.sigma(middle) * pair.eps, middle)
        moved = [schedule.alpha(t_next) - schedule.alpha(t), schedule.sigma(t_next) - schedule.sigma(t)]
        return x + moved[0] * pair.x0 + moved[1] * pair.eps, state

    def evaluations(self, schedule, ts):
        return 2 * (len(ts) - 1)


@pytree_dataclass
class Parabola:
    """A user's schedule: alpha = 1 - t^2, sigma = t (2 - t), from data to noise alone."""

    t_min: float = 1e-3
    t_max: float = 1.0
    clean: ClassVar[bool] = True
    pure_noise: ClassVar[bool] = True

    def alpha(self, t):
        t = jnp.asarray(t, jnp.promote_types(jnp.result_type(t), jnp.float32))
        return 1.0 - t * t

    def sigma(self, t):
        t = jnp.asarray(t, jnp.promote_types(jnp.result_type(t), jnp.float32))
        return t * (2.0 - t)

    def logsnr(self, t):
        # alpha / sigma = (1 - t) (1 + t) / (t (2 - t)), whose first factors are kept off 0, where the clip takes over
        t = jnp.asarray(t, jnp.promote_types(jnp.result_type(t), jnp.float32))
        first, last = jnp.maximum(t, 1e-30), jnp.maximum(1.0 - t, 1e-30)
        return jnp.clip(2.0 * (jnp.log(last) + jnp.log1p(t) - jnp.log(first) - jnp.log(2.0 - t)), -20.0, 20.0)

    def t_from_logsnr(self, logsnr):
        # with r = alpha / sigma: (1 - r) t^2 + 2 r t = 1
        r = jnp.exp(0.5 * logsnr)
        return 1.0 / (r + jnp.sqrt(r * r - r + 1.0))
