"""A course for each of diffusers' classes: its grid, and the solver of this library that it is."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import numpy as np

from diffusion_jax.pipelines.schedulers.courses import Asked, Course, from_levels, time_of_level, time_of_step
from diffusion_jax.pipelines.schedulers.levels import SPACINGS, step_at, timesteps
from diffusion_jax.pipelines.schedulers.published import PublishedDPM, PublishedDPMPP
from diffusion_jax.process.discrete import beta_table
from diffusion_jax.sampling.grids import exactly
from diffusion_jax.sampling.solvers.ancestral import Ancestral
from diffusion_jax.sampling.solvers.consistency import ConsistencyMultistep
from diffusion_jax.sampling.solvers.ddim import DDIM
from diffusion_jax.sampling.solvers.ddpm import DDPM
from diffusion_jax.sampling.solvers.deis import DEIS
from diffusion_jax.sampling.solvers.dpm_solver import DPMSolver
from diffusion_jax.sampling.solvers.euler import Euler
from diffusion_jax.sampling.solvers.euler_ancestral import EulerAncestral
from diffusion_jax.sampling.solvers.heun import Heun
from diffusion_jax.sampling.solvers.lms import LMS
from diffusion_jax.sampling.solvers.pndm import PNDM
from diffusion_jax.sampling.solvers.unipc import UniPC
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


def _by_levels(asked: Asked, levels: np.ndarray, steps: np.ndarray, solver: object) -> Course:
    """One call a step, from level to level."""
    times = time_of_level(asked, levels)
    count, k = asked.num_steps, asked.skipped
    return Course(times[k:count], times[k + 1 : count + 1], steps[k:], steps[k:], solver)


def _in_levels(asked: Asked, levels: np.ndarray, steps: np.ndarray, solver: object) -> Course:
    """As `_by_levels`, of those that keep x / alpha: they begin at the largest level, and give that."""
    course = _by_levels(asked, levels, steps, solver)
    return dataclasses.replace(
        course, largest=float(levels.max()), scale=float(np.sqrt(1 + levels[asked.num_steps] ** 2))
    )


def _euler(asked: Asked) -> Course:
    levels, steps = from_levels(asked, below=False, final=asked.fields["final_sigmas_type"])
    if asked.fields["timestep_type"] == "continuous" and asked.fields["prediction_type"] == "v_prediction":
        steps = 0.25 * np.log(levels[:-1])
    return _in_levels(asked, levels, steps, Euler())


def _euler_ancestral(asked: Asked) -> Course:
    return _in_levels(asked, *from_levels(asked, below=False, final="zero"), EulerAncestral())


def _lms(asked: Asked) -> Course:
    if asked.skipped:
        raise UserError(
            f"{asked.where}: LMSDiscreteScheduler from a picture weighs its first predictions as if there were four; nearest: "
            "a strength of 1, or EulerDiscreteScheduler"
        )
    return _in_levels(asked, *from_levels(asked, below=False, final="zero"), LMS(4))


def _heun(asked: Asked) -> Course:
    levels, steps = from_levels(asked, below=False, final="zero")
    course = _in_levels(asked, levels, steps, Heun("rho"))
    return dataclasses.replace(course, timesteps=np.repeat(course.seen, 2)[1:])


def _dpm2(asked: Asked, eta: float) -> Course:
    """A stage at the geometric mean of the step's two levels, or of the first and the one to which an ancestral step goes."""
    rounds = np.round if asked.fields["use_karras_sigmas"] else None
    levels, steps = from_levels(asked, below=False, final="zero", rounds=rounds)
    upper, lower = levels[:-2], levels[1:-1]
    stages = np.sqrt(upper * lower * (lower / upper) ** eta)
    told = step_at(stages, asked.table)
    course = _in_levels(asked, levels, steps, Ancestral(DPMSolver(2)) if eta else DPMSolver(2))
    kept = slice(asked.skipped, None)
    between = np.stack([_stage_times(asked, stages), told], axis=1)[kept]
    calls = np.append(np.stack([steps[:-1], told], axis=1)[kept].reshape(-1), steps[-1])
    return dataclasses.replace(course, between=between, timesteps=calls)


def _stage_times(asked: Asked, levels: np.ndarray) -> np.ndarray:
    """The times of stages, the float32 below them: an ancestral one has the level of the step's end, but is told otherwise."""
    times = exactly(asked.schedule.t_from_logsnr, -2 * np.log(levels)).astype(np.float32)
    return np.nextafter(times, np.float32(0)).astype(np.float64)


def _final_orders(asked: Asked, always: bool = False) -> tuple[int, ...]:
    """Lower orders at the end: with less than 15 steps, or `always`."""
    lowered = asked.fields["lower_order_final"] and (always or asked.num_steps < 15)
    return (1, 2) if lowered else ()


def _dpm(asked: Asked) -> Course:
    fields, kind = asked.fields, asked.fields["algorithm_type"]
    if kind == "dpmsolver" and fields["final_sigmas_type"] == "zero":
        raise UserError(
            f"{asked.where}: final_sigmas_type 'zero' is not possible with algorithm_type 'dpmsolver'; nearest: 'sigma_min'"
        )
    if fields["solver_order"] > 3:
        raise UserError(f"{asked.where}: solver_order {fields['solver_order']} is not from 1 to 3; nearest: 3")
    clipped = fields["lambda_min_clipped"]
    top = asked.total - int((-np.log(asked.table[::-1]) < clipped).sum())
    if top < asked.total and fields["timestep_spacing"] == "trailing":
        raise UserError(
            f"{asked.where}: lambda_min_clipped {clipped} with timestep_spacing 'trailing' leaves less steps than asked for; "
            "nearest: timestep_spacing 'linspace'"
        )
    smooth = fields["beta_schedule"] == "squaredcos_cap_v2"
    rounds = np.round if (fields["use_karras_sigmas"] or fields["use_lu_lambdas"]) and not smooth else np.trunc
    levels, steps = from_levels(asked, below=True, final=fields["final_sigmas_type"], rounds=rounds, top=top)
    orders = _final_orders(asked) or ((1,) if fields["euler_at_final"] or fields["final_sigmas_type"] == "zero" else ())
    order, variant = fields["solver_order"], "heun" if fields["solver_type"] == "heun" else "midpoint"
    solver: object
    if kind == "dpmsolver":
        solver = PublishedDPM(order, multistep=True, variant=variant, final_orders=orders)
    else:
        solver = PublishedDPMPP(order, sde=kind == "sde-dpmsolver++", variant=variant, final_orders=orders)
    return _by_levels(asked, levels, steps, solver)


def _last_level(asked: Asked) -> str:
    """A spacing between levels ends by its own last one where others end at the table's."""
    spaced = any(asked.fields.get(name) for name in SPACINGS)
    return "last" if spaced else "sigma_min"


def _unipc(asked: Asked) -> Course:
    fields = asked.fields
    if fields["solver_order"] > 3:
        raise UserError(f"{asked.where}: solver_order {fields['solver_order']} is not from 1 to 3; nearest: 3")
    final = "zero" if fields["final_sigmas_type"] == "zero" else _last_level(asked)
    rounds = np.round if fields["use_karras_sigmas"] else np.trunc
    levels, steps = from_levels(asked, below=True, final=final, rounds=rounds)
    variant = "bh1" if fields["solver_type"] == "bh1" else "bh2"
    return _by_levels(asked, levels, steps, UniPC(fields["solver_order"], variant, _final_orders(asked, always=True)))


def _deis(asked: Asked) -> Course:
    if asked.fields["solver_order"] > 3:
        raise UserError(f"{asked.where}: solver_order {asked.fields['solver_order']} is not from 1 to 3; nearest: 3")
    rounds = np.round if asked.fields["use_karras_sigmas"] else np.trunc
    levels, steps = from_levels(asked, below=True, final=_last_level(asked), rounds=rounds)
    return _by_levels(asked, levels, steps, DEIS(asked.fields["solver_order"], "logrho", _final_orders(asked)))


def _ddpm(asked: Asked) -> Course:
    steps, kind = timesteps(asked.fields, asked.num_steps, asked.where), asked.fields["variance_type"]
    if kind in ("fixed_large", "learned_range") and steps[-1] > 0:
        raise UserError(
            f"{asked.where}: variance_type {kind!r} with a last timestep of {steps[-1]:g} leaves noise in the sample; nearest: "
            "timestep_spacing 'leading' and steps_offset 0, which end at 0"
        )
    variance = {"fixed_large": "beta", "learned_range": "learned_range"}.get(kind, "posterior")
    times = time_of_step(steps, asked.total)
    return Course(times, np.append(times[1:], 0.0), steps, steps, DDPM(variance))


def _lcm(asked: Asked) -> Course:
    """Evenly chosen among the timesteps of the distillation, T // original of the table apart, or the lower `share` of them."""
    original, count = asked.fields["original_inference_steps"], asked.num_steps
    if not count <= original <= asked.total:
        raise UserError(
            f"{asked.where}: num_steps {count} of LCMScheduler, original_inference_steps {original} and num_train_timesteps "
            f"{asked.total} must not fall; nearest: num_steps {min(count, original, asked.total)}"
        )
    length = int(original * asked.share)
    if count > length:
        near = f"num_steps {length}" if length else f"a strength of {math.ceil(1e4 / original) / 1e4:g}"
        raise UserError(
            f"{asked.where}: num_steps {count} at strength {asked.share:g} of LCMScheduler: int({original} x {asked.share:g}) "
            f"= {length} timesteps are there to draw from; nearest: {near}"
        )
    all_of_them = (np.arange(1, length + 1) * (asked.total // original) - 1)[::-1].astype(np.float64)
    steps = all_of_them[np.floor(np.linspace(0, length, count, endpoint=False)).astype(int)]
    times = time_of_step(steps, asked.total)
    return Course(times, np.append(times[1:], 0.0), steps, steps, ConsistencyMultistep())


def _unclip(asked: Asked) -> Course:
    """Evenly rounded from the last timestep to the first, both among them; from there to clean data.

    That last step multiplies x0 by beta / (1 - (1 - beta)) of the first beta in float32, 0.9995 of a table of 1000.
    """
    if asked.num_steps < 2:
        raise UserError(
            f"{asked.where}: num_steps {asked.num_steps} of UnCLIPScheduler: both ends are steps; nearest: 2"
        )
    steps = np.round(np.arange(asked.num_steps) * ((asked.total - 1) / (asked.num_steps - 1)))[::-1]
    variance = "learned_range" if asked.fields["variance_type"] == "learned_range" else "posterior"
    times = time_of_step(steps, asked.total)
    one, first = np.float32(1), np.float32(beta_table("cosine", asked.total)[0])
    scale = float(first / (one - (one - first)))
    return Course(times, np.append(times[1:], 0.0), steps, steps, DDPM(variance), scale=scale)


COURSES: dict[str, Callable[[Asked], Course]] = {
    "DDIMScheduler": _ddim,
    "DDPMScheduler": _ddpm,
    "PNDMScheduler": _pndm,
    "EulerDiscreteScheduler": _euler,
    "EulerAncestralDiscreteScheduler": _euler_ancestral,
    "HeunDiscreteScheduler": _heun,
    "LMSDiscreteScheduler": _lms,
    "KDPM2DiscreteScheduler": functools.partial(_dpm2, eta=0.0),
    "KDPM2AncestralDiscreteScheduler": functools.partial(_dpm2, eta=1.0),
    "DPMSolverMultistepScheduler": _dpm,
    "UniPCMultistepScheduler": _unipc,
    "DEISMultistepScheduler": _deis,
    "LCMScheduler": _lcm,
    "UnCLIPScheduler": _unclip,
}
