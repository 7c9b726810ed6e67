"""The order of every ODE solver: slopes of the error against the number of steps on the exact flow of a Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import EDM, VE, Cosine, RectifiedFlow, SubVP, VPLinear, exact
from diffusion_jax.sampling import (
    DDIM,
    DEIS,
    IPNDM,
    LMS,
    PNDM,
    DPMSolver,
    DPMSolverPP,
    EDMStochastic,
    Euler,
    EulerAncestral,
    ExponentialEuler,
    Heun,
    Restart,
    SASolver,
    UniPC,
    sample,
)

MEAN, STD, END = 0.7, 0.5, 1e-3

# IPNDM and PNDM are of second order for all their weights: their first steps, or the weights of equal steps, hold them back.
ORDERS = [
    (DDIM(), 1),
    (Euler(), 1),
    (Euler("t"), 1),
    (EulerAncestral(0.0), 1),
    (ExponentialEuler(), 1),
    (Heun(), 2),
    (Heun("t"), 2),
    (EDMStochastic(s_churn=0.0), 2),
    (DPMSolver(1), 1),
    (DPMSolver(2), 2),
    (DPMSolver(3), 3),
    (DPMSolverPP(1), 1),
    (DPMSolverPP(2), 2),
    (DPMSolverPP(3), 3),
    (DPMSolverPP(2, multistep=False), 2),
    (DPMSolverPP(3, multistep=False), 3),
    (UniPC(1), 1),
    (UniPC(2), 2),
    (UniPC(3), 3),
    (UniPC(2, "bh1"), 2),
    (UniPC(3, "bh1"), 3),
    (DEIS(1), 1),
    (DEIS(2), 2),
    (DEIS(3), 3),
    (DEIS(2, "logrho"), 2),
    (DEIS(3, "logrho"), 3),
    (LMS(1), 1),
    (LMS(2), 2),
    (LMS(3), 3),
    (IPNDM(1), 1),
    (IPNDM(2), 2),
    (IPNDM(4), 2),
    (PNDM(), 2),
    (PNDM("plms"), 2),
    (SASolver(1, 0, tau=0.0), 1),
    (SASolver(2, 0, tau=0.0), 2),
    (SASolver(3, 3, tau=0.0), 3),
]


def variance(schedule, t):
    return schedule.alpha(t) ** 2 * STD**2 + schedule.sigma(t) ** 2


def flow(schedule, x, t, t_next):
    ratio = jnp.sqrt(variance(schedule, t_next) / variance(schedule, t))
    return schedule.alpha(t_next) * MEAN + ratio * (x - schedule.alpha(t) * MEAN)


def smooth_grid(schedule, n):
    levels = np.linspace(float(schedule.logsnr(schedule.t_max)), float(schedule.logsnr(END)), n + 1)
    ts = np.array(schedule.t_from_logsnr(levels))
    ts[0], ts[-1] = schedule.t_max, END
    return ts


def errors(schedule, solver, steps):
    x1 = schedule.sigma(schedule.t_max) * jnp.array([[-1.3], [0.2], [1.9]], jnp.float64)
    wanted = flow(schedule, x1, jnp.float64(schedule.t_max), jnp.float64(END))
    model = exact.gaussian(schedule, jnp.full(1, MEAN), STD)
    run = [sample(model, schedule, solver, x1, smooth_grid(schedule, n), jax.random.key(0)) for n in steps]
    assert all(x.dtype == jnp.float64 for x in run)
    return np.array([float(jnp.abs(x - wanted).max()) for x in run])


HIGHEST = {DDIM(), EulerAncestral(0.0), Heun(), EDMStochastic(s_churn=0.0), IPNDM(4), PNDM(), ExponentialEuler()}
"""Those below order 3 that run by default; the lower orders of the other families are in test-all."""


@pytest.mark.parametrize(
    ("solver", "order"),
    [pytest.param(s, n, marks=() if n == 3 or s in HIGHEST else pytest.mark.slow, id=repr(s)) for s, n in ORDERS],
)
def test_the_error_falls_with_the_order(solver, order):
    with jax.enable_x64(True):
        found = errors(VPLinear(), solver, (160, 640))
    slope = np.log(found[0] / found[1]) / np.log(4)
    assert slope > order - 0.15
    assert found[1] < {1: 0.02, 2: 1e-4, 3: 1e-5}[order]


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule", [Cosine(t_max=0.999), RectifiedFlow(t_max=0.999), SubVP(), VE(), EDM()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize(("solver", "order"), ORDERS, ids=lambda p: repr(p))
def test_the_error_falls_with_the_order_on_every_schedule(solver, order, schedule):
    with jax.enable_x64(True):
        found = errors(schedule, solver, (160, 320, 640))
    slopes = np.log2(found[:-1] / found[1:])
    assert slopes[-1] > order - 0.2 or found[-1] < 1e-9, slopes


def test_restarts_change_nothing_on_the_exact_flow_but_the_noise():
    """With the exact denoiser a restart is a new draw of the same law: mean and variance of many are the data's."""
    schedule = EDM()
    x1 = schedule.sigma(1.0) * jax.random.normal(jax.random.key(1), (4000, 1))
    model = exact.gaussian(schedule, jnp.full(1, MEAN), STD)
    ts = np.append(np.geomspace(80.0, 0.002, 60) / 80.0, 0.0)
    ts[0] = 1.0
    plain = sample(model, schedule, Heun(), x1, ts, jax.random.key(2))
    again = sample(model, schedule, Restart(((0.1, 2.0, 12, 2),)), x1, ts, jax.random.key(2))
    assert float(jnp.abs(again - plain).max()) > 0.1
    assert abs(float(again.mean()) - MEAN) < 4 * STD / np.sqrt(4000)
    assert abs(float(again.std()) / STD - 1) < 4 / np.sqrt(8000)
