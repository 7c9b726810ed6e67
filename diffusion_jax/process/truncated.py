"""A schedule that begins later: the same process, asked about from a larger t_min on."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.arguments import number
from diffusion_jax.typing import Schedule, UserError, pytree_dataclass, static

__all__ = ["Truncated", "from_noise_level"]


@pytree_dataclass
class Truncated:
    """`base` with another t_min, in [base.t_min, base.t_max)."""

    base: Any
    t_min: float = static(default=0.0)

    def __post_init__(self) -> None:
        number(t_min=self.t_min)
        if isinstance(self.base, Schedule) and not self.base.t_min <= self.t_min < self.base.t_max:
            near = min(max(self.t_min, self.base.t_min), self.base.t_max)
            raise UserError(
                f"t_min {self.t_min} is not from {self.base.t_min} to below {self.base.t_max}; nearest: {near}"
            )

    @property
    def t_max(self) -> float:
        """The base's."""
        return self.base.t_max

    @property
    def clean(self) -> bool | None:
        """As the base; None where it does not say."""
        return getattr(self.base, "clean", None)

    @property
    def pure_noise(self) -> bool | None:
        """As the base; None where it does not say."""
        return getattr(self.base, "pure_noise", None)

    def alpha(self, t: ArrayLike) -> Array:
        """The base's."""
        return self.base.alpha(t)

    def sigma(self, t: ArrayLike) -> Array:
        """The base's."""
        return self.base.sigma(t)

    def logsnr(self, t: ArrayLike) -> Array:
        """The base's."""
        return self.base.logsnr(t)

    def t_from_logsnr(self, logsnr: ArrayLike) -> Array:
        """The base's."""
        return self.base.t_from_logsnr(logsnr)


def from_noise_level(schedule: Schedule, level: float) -> Schedule:
    """`schedule` from the time on at which sigma / alpha is `level`; itself where it begins later. UserError for level <= 0."""
    if not 0 < level < math.inf:
        raise UserError(f"noise level {level} is not above 0 and finite")
    with jax.ensure_compile_time_eval():
        t = float(schedule.t_from_logsnr(jnp.float32(-2.0 * math.log(level))))
    return schedule if t <= schedule.t_min else Truncated(schedule, t)
