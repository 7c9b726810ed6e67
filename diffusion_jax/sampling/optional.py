"""What a solver may have beside `init` and `step` (see `typing.Solver`), asked for at one place.

The driver asks for it, and so do the solvers that hold another one.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.typing import Schedule

__all__ = ["check", "convergence", "deterministic", "evaluations", "from_pair", "over"]


def over(solver: Any, num_steps: int) -> Any:
    """The solver for a grid of `num_steps` steps; itself where it does not ask."""
    return solver.over(num_steps) if hasattr(solver, "over") else solver


def check(solver: Any, schedule: Schedule, first: float) -> None:
    """UserError where the solver refuses a grid that begins at `first`."""
    if hasattr(solver, "check"):
        solver.check(schedule, first)


def evaluations(solver: Any, schedule: Schedule, ts: Array) -> Array:
    """How often the solver calls the denoiser over the grid `ts` [n + 1], an int32 scalar: as it says, or once a step."""
    count = solver.evaluations(schedule, ts) if hasattr(solver, "evaluations") else len(ts) - 1
    return jnp.asarray(count, jnp.int32)


def deterministic(solver: Any) -> bool:
    """Whether the solver declares that it draws nothing."""
    return bool(getattr(solver, "deterministic", False))


def convergence(solver: Any) -> int | None:
    """The order that the solver declares, or None."""
    return getattr(solver, "convergence", None)


def from_pair(solver: Any) -> bool:
    """Whether the solver declares that its steps are made of the pair at their beginning alone."""
    return bool(getattr(solver, "from_pair", False))
