"""Solvers and grids by name, for the group `sampler` of a diffusion config and for the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion_jax import sampling
from diffusion_jax.build.constructors import complete, construct
from diffusion_jax.build.own import pick
from diffusion_jax.sampling import optional
from diffusion_jax.sampling.natural import natural_name
from diffusion_jax.typing import Schedule, Solver

__all__ = ["GRIDS", "SOLVERS", "from_pair", "grid", "grid_name", "solver"]

SOLVERS: dict[str, Callable[..., Any]] = {
    "ddpm": sampling.DDPM,
    "ddim": sampling.DDIM,
    "euler": sampling.Euler,
    "heun": sampling.Heun,
    "euler_ancestral": sampling.EulerAncestral,
    "ancestral": sampling.Ancestral,
    "edm_stochastic": sampling.EDMStochastic,
    "restart": sampling.Restart,
    "euler_maruyama": sampling.EulerMaruyama,
    "predictor_corrector": sampling.PredictorCorrector,
    "exponential_euler": sampling.ExponentialEuler,
    "dpm_solver": sampling.DPMSolver,
    "dpm_solver_pp": sampling.DPMSolverPP,
    "unipc": sampling.UniPC,
    "deis": sampling.DEIS,
    "ipndm": sampling.IPNDM,
    "pndm": sampling.PNDM,
    "lms": sampling.LMS,
    "sa_solver": sampling.SASolver,
    "consistency": sampling.ConsistencyMultistep,
    "adaptive_ode": sampling.AdaptiveODE,
}
GRIDS: dict[str, Callable[..., np.ndarray]] = {
    "uniform": sampling.uniform,
    "logsnr": sampling.logsnr_uniform,
    "karras": sampling.karras,
    "quadratic": sampling.quadratic,
    "discrete": sampling.discrete,
    "natural": sampling.natural,
}


def solver(name: str, **options: Any) -> Solver:
    """A solver by its name, e.g. solver("ddim", eta=0.5)."""
    made = construct("solver", SOLVERS, {"name": name, **options})
    complete("solver", name, made, Solver)
    return made


def from_pair() -> list[str]:
    """The names of the solvers that step from the pair at the beginning of a step alone, as CFG++ needs it."""
    return [name for name, make in SOLVERS.items() if optional.from_pair(make())]


def grid_name(name: str, num_steps: int, schedule: Schedule) -> str:
    """`name`, or the name of the grid that goes with the schedule for "natural". UserError for one that is not known."""
    pick("grid", name, GRIDS)
    return natural_name(schedule, num_steps) if name == "natural" else name


def grid(name: str, num_steps: int, schedule: Schedule) -> np.ndarray:
    """The times of `num_steps` steps from the schedule's noise to its data, descending, float64 [num_steps + 1]."""
    return np.asarray(pick("grid", name, GRIDS)(num_steps, schedule), np.float64)
