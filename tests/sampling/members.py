"""The members of the tables, for one test a property; a new solver or schedule is a row here, and so gets every common test.

Beside the package's own stand a solver and a schedule as a user writes them.
"""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from own import Midpoint, Parabola

from diffusion_jax.process import EDM, VE, Cosine, Discrete, RectifiedFlow, Shifted, SubVP, VPLinear, exact
from diffusion_jax.sampling import (
    DDIM,
    DDPM,
    DEIS,
    IPNDM,
    LMS,
    PNDM,
    AdaptiveODE,
    Ancestral,
    DPMSolver,
    DPMSolverPP,
    EDMStochastic,
    Euler,
    EulerAncestral,
    EulerMaruyama,
    ExponentialEuler,
    Heun,
    PredictorCorrector,
    Restart,
    SASolver,
    UniPC,
)

ODE = [
    DDIM(),
    Euler(),
    Heun(),
    Heun("rho"),
    ExponentialEuler(),
    DPMSolver(2),
    DPMSolver(3),
    DPMSolver(3, multistep=True),
    DPMSolverPP(2),
    DPMSolverPP(3),
    DPMSolverPP(2, variant="heun", final_orders=(1, 2)),
    DPMSolverPP(2, multistep=False),
    DPMSolverPP(3, multistep=False),
    UniPC(2, "bh1"),
    UniPC(3),
    DEIS(2, "logrho"),
    DEIS(3),
    IPNDM(),
    PNDM(),
    PNDM("plms"),
    PNDM("plms", raw="v"),
    LMS(),
    SASolver(tau=0.0),
    AdaptiveODE(rtol=1e-4, atol=1e-4),
]
SDE = [
    DDPM(),
    DDPM("beta"),
    DDIM(0.5),
    EulerAncestral(),
    Ancestral(),
    EDMStochastic(),
    EulerMaruyama(),
    PredictorCorrector(EulerMaruyama()),
    ExponentialEuler(1.0),
    DPMSolverPP(2, sde=True),
    DPMSolverPP(3, sde=True),
    DPMSolverPP(2, multistep=False, sde=True),
    SASolver(),
    Restart(),
]
SOLVERS = [*ODE, *SDE, Midpoint()]
SCHEDULES = {
    "VPLinear": VPLinear(),
    "Cosine": Cosine(),
    "SubVP": SubVP(),
    "VE": VE(),
    "EDM": EDM(),
    "RectifiedFlow": RectifiedFlow(),
    "Discrete": Discrete(),
    "ZeroSNR": Discrete("scaled_linear", zero_terminal_snr=True),
    "Shifted": Shifted(RectifiedFlow(), 3.0),
}
EVERY_SCHEDULE = {**SCHEDULES, "Parabola": Parabola()}

MEAN, STD = 0.7, 0.5
"""Of the Gaussian data whose flow is known in closed form."""
MEANS, STDS, WEIGHTS = jnp.array([[-1.0], [0.8]]), jnp.array([0.25, 0.4]), jnp.array([0.3, 0.7])
"""Of the mixture of two."""


def two_blobs(schedule):
    return exact.mixture(schedule, MEANS, STDS, WEIGHTS)


def gaussian(schedule):
    return exact.gaussian(schedule, jnp.full(1, MEAN), STD)


def variance(schedule, t):
    """Of the Gaussian's marginal at t."""
    return schedule.alpha(t) ** 2 * STD**2 + schedule.sigma(t) ** 2


def flow(schedule, x, t, t_next):
    """The exact probability flow of the Gaussian from t to t_next."""
    ratio = jnp.sqrt(variance(schedule, t_next) / variance(schedule, t))
    return schedule.alpha(t_next) * MEAN + ratio * (x - schedule.alpha(t) * MEAN)


def smooth_grid(schedule, n, end):
    """n equal steps of logsnr from t_max to `end`, float64."""
    levels = np.linspace(float(schedule.logsnr(schedule.t_max)), float(schedule.logsnr(end)), n + 1)
    ts = np.array(schedule.t_from_logsnr(levels))
    ts[0], ts[-1] = schedule.t_max, end
    return ts


def graded_grid(schedule, n, end):
    """n steps of logsnr from t_max to `end` that begin small, float64: the first is of order n**-2.

    A multi-step solver begins with lower orders, whose error on equal steps is of order n**-2 whatever the solver's own;
    here the first step's is of order n**-4.
    """
    first, last = float(schedule.logsnr(schedule.t_max)), float(schedule.logsnr(end))
    u = np.linspace(0, 1, n + 1)
    ts = np.array(schedule.t_from_logsnr(first + (last - first) * u**2 * (2 - u)))
    ts[0], ts[-1] = schedule.t_max, end
    return ts


def by_default(members, every=2, first=0):
    """All of them, of which one in `every` runs by default, from `first` on; tests of one kind take turns by it."""
    return [pytest.param(one, marks=() if i % every == first else pytest.mark.slow) for i, one in enumerate(members)]


def replace_noise(monkeypatch, draw):
    """draw(key, x) in the place of the noise of every solver and edit."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("diffusion_jax.sampling.solvers.", "diffusion_jax.sampling.editing.")):
            monkeypatch.setattr(module, "noise_like", draw, raising=False)
