"""A course for each of diffusers' classes: its grid, and the solver of this library that it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from diffusion_jax.pipelines.schedulers.courses import Asked, Course, from_levels, time_of_level, time_of_step
from diffusion_jax.pipelines.schedulers.levels import timesteps
from diffusion_jax.sampling.solvers.ddim import DDIM
from diffusion_jax.sampling.solvers.euler import Euler
from diffusion_jax.sampling.solvers.pndm import PNDM
from diffusion_jax.typing import UserError

__all__ = ["COURSES"]


def _end(asked: Asked) -> float:
    """Where steps below the table lead to: clean data, or the noise of step 0."""
    return 0.0 if asked.fields["set_alpha_to_one"] else 1.0 / asked.total


def _ddim(asked: Asked) -> Course:
    steps = timesteps(asked.fields, asked.num_steps, asked.where)
    later = steps - asked.total // asked.num_steps
    targets = np.where(later >= 0, time_of_step(later, asked.total), _end(asked))
    return Course(time_of_step(steps, asked.total), targets, steps, steps, DDIM(asked.eta))


def _pndm(asked: Asked) -> Course:
    """Runge-Kutta's or one doubled step at the start, then Adams-Bashforth; each step goes T // N down the table."""
    fields, total, jump = asked.fields, asked.total, asked.total // asked.num_steps
    steps = timesteps(fields, asked.num_steps, asked.where)
    if not fields["skip_prk_steps"]:
        return _pndm_prk(asked, steps, jump)
    if len(steps) == 1:
        return _ddim(asked)
    calls = np.concatenate([steps[:2], steps[1:]])
    k = asked.skipped
    if k == 1:
        raise UserError(
            f"{asked.where}: num_steps {asked.num_steps} less 1 step by strength begins PNDMScheduler at the timestep that it "
            "asks twice, where it takes a step that leads nowhere; nearest: a strength of 1, or less by a step"
        )
    # Cut short, the list of timesteps begins with a doubled step of two that follow each other, and goes on one later.
    begun = steps if k == 0 else np.concatenate([calls[k : k + 1], calls[k + 2 :]])
    if begun[0] - jump != calls[k + 1]:
        raise UserError(
            f"{asked.where}: timestep_spacing {fields['timestep_spacing']!r} with num_steps {asked.num_steps}: PNDMScheduler "
            f"steps from {begun[0]:g} to {begun[0] - jump:g} and asks at {calls[k + 1]:g}; nearest: 'leading'"
        )
    later = begun - jump
    targets = np.where(later >= 0, time_of_step(later, total), _end(asked))
    between = np.array([[time_of_step(calls[k + 1], total), calls[k + 1]]])
    solver = PNDM("plms", raw="v" if fields["prediction_type"] == "v_prediction" else "eps")
    return Course(time_of_step(begun, total), targets, begun, calls[k:], solver, between)


def _pndm_prk(asked: Asked, steps: np.ndarray, jump: int) -> Course:
    fields, total = asked.fields, asked.total
    if asked.num_steps < 4 or jump % 2 or asked.skipped or (np.diff(steps[:4]) != -jump).any():
        raise UserError(
            f"{asked.where}: skip_prk_steps False with num_steps {asked.num_steps}: PNDMScheduler begins by Runge-Kutta over "
            "4 whole steps of an even length, at the noisiest one; nearest: skip_prk_steps true"
        )
    half = jump // 2
    calls = np.concatenate([[a, b + half, b + half, b] for a, b in itertools.pairwise(steps[:4])] + [steps[3:]])
    later = steps - jump
    targets = np.where(later >= 0, time_of_step(later, total), _end(asked))
    between = np.unique(np.concatenate([steps[:4], steps[1:4] + half]))
    solver = PNDM("prk", raw="v" if fields["prediction_type"] == "v_prediction" else "eps")
    return Course(
        time_of_step(steps, total),
        targets,
        steps,
        calls,
        solver,
        np.stack([time_of_step(between, total), between], axis=1),
    )


def _euler(asked: Asked) -> Course:
    levels, steps = from_levels(asked, below=False, final=asked.fields.get("final_sigmas_type", "zero"))
    if asked.fields["timestep_type"] == "continuous" and asked.fields["prediction_type"] == "v_prediction":
        steps = 0.25 * np.log(levels[:-1])
    return _by_levels(asked, levels, steps, Euler())


def _by_levels(asked: Asked, levels: np.ndarray, steps: np.ndarray, solver: object) -> Course:
    times = time_of_level(asked, levels)
    count, k = asked.num_steps, asked.skipped
    return Course(times[k:count], times[k + 1 : count + 1], steps[k:], steps[k:], solver, largest=float(levels.max()))


COURSES: dict[str, Callable[[Asked], Course]] = {
    "DDIMScheduler": _ddim,
    "PNDMScheduler": _pndm,
    "EulerDiscreteScheduler": _euler,
}
