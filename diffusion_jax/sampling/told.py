"""A published sampler's own steps on a grid: where a step goes to when that is not the grid's next time.

A grid falls strictly, and a step of the driver's goes from one of its times to the next. Published samplers differ: DDIM's
and PNDM's go a fixed number of steps of the table down, whatever the next time is; a last step may lead to the time where it
began; the network may be told a time within a step that rounding would miss. `Told` holds the solver and says so: a step that
begins at `times[i]` goes to `targets[i]`, and what the solver asks within rounding of one of `asked` is asked at it exactly.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.sampling import optional
from diffusion_jax.sampling.around import Around
from diffusion_jax.sampling.steps import Denoise
from diffusion_jax.typing import Prediction, Schedule, UserError

__all__ = ["Told"]

NEAR = 1e-5
"""How far a time that a solver computes in float32 may lie from the one that was told, of 1."""


@dataclasses.dataclass(frozen=True)
class Told(Around):
    """`solver` with the target of each step that begins at one of `times`, and the times `asked` between them.

    `scale` multiplies the sample: samplers that keep x / alpha and stop where noise is left give that, 1 / alpha of x. Numbers,
    not arrays: they are structure, as the grid's length is. Raises UserError unless there is one target a time, none above its
    time, and scale > 0.
    """

    solver: Any
    times: tuple[float, ...]
    targets: tuple[float, ...]
    asked: tuple[float, ...] = ()
    scale: float = 1.0

    def __post_init__(self) -> None:
        self._check_inner()
        if len(self.times) != len(self.targets) or not self.times:
            raise UserError(f"{len(self.targets)} targets do not go with {len(self.times)} times: one each")
        for time, target in zip(self.times, self.targets, strict=True):
            if not 0 <= target <= time:
                raise UserError(f"the target {target:g} of the step that begins at {time:g} is not in [0, {time:g}]")

        if not self.scale > 0:
            raise UserError(f"the scale {self.scale:g} of the sample is not above 0")

    @property
    def deterministic(self) -> bool:
        """As the solver."""
        return optional.deterministic(self.solver)

    @property
    def from_pair(self) -> bool:
        """As the solver."""
        return optional.from_pair(self.solver)

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at the target of the step that begins nearest to t; key [batch]."""
        index = jnp.argmin(jnp.abs(jnp.asarray(self.times, t.dtype) - t))
        target = jnp.asarray(self.targets, t.dtype)[index]

        def exactly(y: Array, s: Array) -> Prediction:
            if s is t or not self.asked:
                return denoise(y, s)
            asked = jnp.asarray(self.asked, s.dtype)
            near = asked[jnp.argmin(jnp.abs(asked - s))]
            return denoise(y, jnp.where(jnp.abs(near - s) <= NEAR, near, s))

        return self.solver.step(exactly, schedule, x, t, target, key, state)

    def finish(self, x0: Array) -> Array:
        """The sample as the sampler gives it."""
        x0 = self.solver.finish(x0) if hasattr(self.solver, "finish") else x0
        return self.scale * x0

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """As the solver over the grid."""
        return optional.evaluations(self.solver, schedule, ts)
