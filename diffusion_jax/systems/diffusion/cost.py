"""What drawing costs: one example by the config's own sampler, as a function that may be traced and need not be run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusion_jax.sampling import AdaptiveODE
from diffusion_jax.systems.diffusion.loss import example_keys, generate
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.typing import Array, Params

__all__ = ["drawing"]


def drawing(run: DiffusionRun) -> tuple[int, Callable[[Params], Any]]:
    """(the steps, params -> the example drawn in them), guided, decoded, and told the null, whose shapes are any request's.

    An adaptive solver, whose steps nobody knows beforehand, is traced as one.
    """
    solver, ts, _ = run.sampler()

    def drawn(params: Params) -> Array:
        keys = example_keys(0, 0, 1)
        cond = None if run.null is None else run.condition.drawn(run.null, keys)
        guided = run.guided(denoise=run.denoiser(params))
        x0 = generate(guided, run.schedule, solver, ts, keys, run.shape, cond)
        return run.space.decode(run.space.frozen, x0)

    return 1 if isinstance(solver, AdaptiveODE) else len(ts) - 1, drawn
