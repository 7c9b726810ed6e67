"""A solver around another one, which its steps ask for theirs: what inpainting, DPS and the like share."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jaxtyping import Array

from diffusion_jax.sampling import optional
from diffusion_jax.typing import Schedule, Solver, UserError

__all__ = ["Around"]


class Around:
    """Hands on what `self.solver` says of the grid, and its state. For frozen dataclasses with a field `solver`."""

    solver: Any

    def check(self, schedule: Schedule, first: float) -> None:
        """What the inner solver says of the grid."""
        optional.check(self.solver, schedule, first)

    def over(self, num_steps: int) -> Any:
        """This solver with the inner one for a grid of `num_steps` steps."""
        return dataclasses.replace(self, solver=optional.over(self.solver, num_steps))  # type: ignore[type-var]

    def init(self, x: Array) -> Any:
        """The inner solver's state."""
        return self.solver.init(x)

    def finish(self, x0: Array) -> Array:
        """What the inner solver makes of the sample at the end."""
        return self.solver.finish(x0) if hasattr(self.solver, "finish") else x0

    def _check_inner(self) -> None:
        """UserError for what another solver cannot hold: no solver, one with error control, and one with arrays."""
        solver = self.solver
        name, inner = type(self).__name__, type(solver).__name__
        if not isinstance(solver, Solver) or isinstance(solver, type):
            raise UserError(f"solver {solver!r} of {name} is not a solver; nearest: DDIM()")
        if hasattr(solver, "counted"):
            raise UserError(
                f"{name} cannot hold {inner}: it moves the state between the solver's steps, which no error control foresees; "
                "nearest: Heun()"
            )
        if not jax.tree_util.all_leaves([solver]):
            raise UserError(f"{name} cannot hold {inner}, which has arrays of its own; nearest: DDIM()")
