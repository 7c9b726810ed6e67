"""What a person sees while a pipeline samples: a bar, which the compiled loop moves after every step."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jaxtyping import Array
from tqdm import tqdm

from diffusion_jax.sampling import optional
from diffusion_jax.sampling.around import Around
from diffusion_jax.sampling.steps import Denoise
from diffusion_jax.typing import Schedule

__all__ = ["Shown", "bar"]

_LISTENERS: list[Callable[[], None]] = []


def _moved(_: Any) -> None:
    for listener in _LISTENERS:
        listener()


@dataclasses.dataclass(frozen=True)
class Shown(Around):
    """`solver`, each of whose steps moves the bar that is open, if one is."""

    solver: Any

    @property
    def deterministic(self) -> bool:
        """As the solver."""
        return optional.deterministic(self.solver)

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """The solver's step from x [batch, ...] at t to t_next."""
        x, state = self.solver.step(denoise, schedule, x, t, t_next, key, state)
        # One number of the state, so that the call waits for the step.
        jax.debug.callback(_moved, x.reshape(-1)[0])
        return x, state

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """As the solver."""
        return optional.evaluations(self.solver, schedule, ts)


@contextlib.contextmanager
def bar(what: str, steps: int, shown: bool = True) -> Iterator[None]:
    """A bar of `steps` steps on a terminal, else a line when it ends; nothing where not `shown`."""
    if not shown:
        yield
        return
    with tqdm(total=steps, desc=what, unit="step", delay=1, leave=False, file=sys.stderr) as moving:

        def listener() -> None:
            if moving.n == 0:
                moving.start_t = time.time()  # what came before was compiling
            moving.update(1)

        _LISTENERS.append(listener)
        try:
            yield
            jax.effects_barrier()
        finally:
            _LISTENERS.remove(listener)
