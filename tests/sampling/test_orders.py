"""The order that each solver declares: slopes of the error against the number of steps, on Gaussian data.

Of deterministic solvers against the exact flow. Of the others by exact recursions of mean and variance: the denoiser of a
Gaussian is affine, so a sample is affine in x1 and in every draw on the way, and no draws are needed. One batch holds a
probe for each: the first has mean input and silent draws, the second a unit more of x1, the others a unit of one draw
each. The differences to the first are the gains, and the sum of their squares is the variance. Solvers with a memory are
covered too. A grid of any length runs in one compiled program of a solver.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import MEAN, STD, flow, gaussian, graded_grid, replace_noise, smooth_grid, variance
from own import Midpoint, Parabola

from diffusion_jax import build
from diffusion_jax.process import EDM, VE, Cosine, RectifiedFlow, SubVP, VPLinear
from diffusion_jax.sampling import (
    DDIM,
    DDPM,
    DEIS,
    IPNDM,
    LMS,
    PNDM,
    Ancestral,
    DPMSolver,
    DPMSolverPP,
    EDMStochastic,
    Euler,
    EulerAncestral,
    EulerMaruyama,
    ExponentialEuler,
    Heun,
    Restart,
    SASolver,
    UniPC,
    optional,
    sample,
)
from diffusion_jax.typing import UserError

END, LATER = 1e-3, 2e-3

EXACT = [
    DDIM(),
    Euler(),
    Euler("t"),
    EulerAncestral(0.0),
    EulerMaruyama(0.0),
    ExponentialEuler(),
    Heun(),
    Heun("t"),
    Heun("rho"),
    EDMStochastic(s_churn=0.0),
    *(DPMSolver(n) for n in (1, 2, 3)),
    *(DPMSolver(n, multistep=True) for n in (2, 3)),
    DPMSolver(2, multistep=True, variant="heun"),
    *(DPMSolverPP(n) for n in (1, 2, 3)),
    DPMSolverPP(2, variant="heun"),
    *(DPMSolverPP(n, multistep=False) for n in (2, 3)),
    *(UniPC(n) for n in (1, 2, 3)),
    *(UniPC(n, "bh1") for n in (2, 3)),
    *(DEIS(n) for n in (1, 2, 3)),
    *(DEIS(n, "logrho") for n in (2, 3)),
    *(LMS(n) for n in (1, 2, 3, 4)),
    *(IPNDM(n) for n in (1, 2, 4)),
    PNDM(),
    PNDM("plms"),
    PNDM("plms", raw="v"),
    SASolver(1, 0, tau=0.0),
    SASolver(2, 0, tau=0.0),
    SASolver(2, 1, tau=0.0),
    SASolver(1, 2, tau=0.0),
    SASolver(3, 3, tau=0.0),
    Midpoint(),
]
DRAWN = [
    DDPM(),
    DDPM("beta"),
    EulerAncestral(),
    Ancestral(),
    DDIM(0.5),
    ExponentialEuler(0.7),
    ExponentialEuler(1.0),
    EulerMaruyama(),
    EulerMaruyama(0.5),
    DPMSolverPP(2, sde=True),
    DPMSolverPP(3, sde=True),
    DPMSolverPP(2, multistep=False, sde=True),
    SASolver(2, 2),
    SASolver(),
    EDMStochastic(s_churn=8.0, s_noise=1.0),
]
BOTH = [DDIM(), Euler(), Euler("t"), Heun(), Heun("t"), Heun("rho")]
"""On straight lines too by default, and with a slope that is not above the order either."""
HIGHEST = {
    *BOTH,
    EulerAncestral(0.0),
    EDMStochastic(s_churn=0.0),
    IPNDM(4),
    PNDM(),
    PNDM("plms", raw="v"),
    ExponentialEuler(),
    Midpoint(),
}
"""Those below order 3 that run by default; the lower orders of the other families are in test-all."""
LIMIT = {1: 0.02, 2: 1e-4, 3: 1e-5, 4: 1e-5}


def padded(ts, length=641):
    return jnp.asarray(np.append(ts, np.full(length - len(ts), ts[-1])))


@functools.partial(jax.jit, static_argnames="solver")
def walked(solver, schedule, x1, ts, steps):
    """x after `steps` steps down the grid ts, of any length in one program."""
    keys, model = jax.random.split(jax.random.key(0), len(x1)), gaussian(schedule)

    def step(i, carry):
        x, state = carry
        return solver.step(lambda x, t: model(x, t), schedule, x, ts[i], ts[i + 1], keys, state)

    return jax.lax.fori_loop(0, steps, step, (x1, solver.init(x1)))[0]


def errors(schedule, solver, steps, grid=smooth_grid):
    x1 = schedule.sigma(jnp.float64(schedule.t_max)) * jnp.array([[-1.3], [0.2], [1.9]], jnp.float64)
    wanted = flow(schedule, x1, jnp.float64(schedule.t_max), jnp.float64(END))
    run = [walked(solver, schedule, x1, padded(grid(schedule, n, END), max(640, *steps) + 1), n) for n in steps]
    assert all(x.dtype == jnp.float64 for x in run)
    return np.array([float(jnp.abs(x - wanted).max()) for x in run])


def slopes(found, steps):
    return np.log(found[:-1] / found[1:]) / np.diff(np.log(steps))


def test_what_is_of_no_order_is_here_by_name():
    """Every other solver of the table has its order tested below."""
    tested = {type(solver) for solver in (*EXACT, *DRAWN)}
    orders = {name: optional.convergence(make()) for name, make in build.SOLVERS.items()}
    none = {"restart", "predictor_corrector", "consistency", "adaptive_ode", "edm_stochastic"}
    assert {name for name, order in orders.items() if order is None} == none
    assert all(build.SOLVERS[name] in tested for name in orders if name not in none - {"edm_stochastic"})
    assert all(optional.deterministic(solver) for solver in EXACT)
    assert not any(optional.deterministic(solver) for solver in DRAWN)


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(s, marks=() if optional.convergence(s) > 2 or s in HIGHEST else pytest.mark.slow, id=repr(s))
        for s in EXACT
    ],
)
def test_the_error_falls_with_the_order(solver):
    order, steps = optional.convergence(solver), (40, 160, 640)
    with jax.enable_x64(True):
        found = errors(VPLinear(), solver, steps)
    assert slopes(found, steps)[-1] > order - 0.15
    assert found[-1] < LIMIT[order]
    if solver in BOTH:
        assert order - 0.15 < slopes(found, steps)[0] < order + 0.4
        assert found[1] < (0.03 if order == 1 else 1e-3)


@pytest.mark.parametrize("solver", BOTH, ids=repr)
def test_the_error_falls_with_the_order_on_straight_lines(solver):
    order, steps = optional.convergence(solver), (40, 160)
    with jax.enable_x64(True):
        found = errors(RectifiedFlow(t_max=0.999), solver, steps)
    assert order - 0.15 < slopes(found, steps)[0] < order + 0.4
    assert found[1] < (0.03 if order == 1 else 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    [Cosine(t_max=0.999), RectifiedFlow(t_max=0.999), SubVP(), VE(), EDM(), Parabola(t_max=0.999)],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("solver", EXACT, ids=repr)
def test_the_error_falls_with_the_order_on_every_schedule(solver, schedule):
    steps = (320, 640, 1280)
    with jax.enable_x64(True):
        found = errors(schedule, solver, steps, graded_grid)
    assert slopes(found, steps)[-1] > optional.convergence(solver) - 0.2, found


def moments(solver, schedule, grids, monkeypatch):
    """The exact mean and variance at the end of each grid, of what begins as the marginal at its beginning."""
    draws_a_step, draws, step_under_way = 2, [], []
    longest = max(len(ts) for ts in grids)

    def scripted(key, x):
        place = 2 + draws_a_step * step_under_way[-1] + len(draws)
        draws.append(place)
        return (jnp.arange(x.shape[0]) == place).astype(x.dtype)[:, None]

    replace_noise(monkeypatch, scripted)
    model, size = gaussian(schedule), 2 + draws_a_step * (longest - 1)
    keys = jax.random.split(jax.random.key(0), size)

    @functools.partial(jax.jit, static_argnames="solver")
    def run(solver, x1, ts, steps):
        def step(i, carry):
            step_under_way.append(i)
            draws.clear()
            return solver.step(lambda x, t: model(x, t), schedule, carry[0], ts[i], ts[i + 1], keys, carry[1])

        return jax.lax.fori_loop(0, steps, step, (x1, solver.init(x1)))[0][:, 0]

    found = []
    for ts in grids:
        x1 = jnp.full((size, 1), schedule.alpha(ts[0]) * MEAN).at[1].add(1.0)
        x = np.asarray(run(optional.over(solver, len(ts) - 1), x1, padded(ts, longest), len(ts) - 1))
        gains = x[1:] - x[0]
        found.append((x[0], gains[0] ** 2 * float(variance(schedule, ts[0])) + np.sum(gains[1:] ** 2)))
    return found


@pytest.mark.parametrize("solver", DRAWN, ids=repr)
def test_variance_converges_to_the_data(solver, monkeypatch):
    order, schedule, steps = optional.convergence(solver), VPLinear(), (60, 240)
    with jax.enable_x64(True):
        found = moments(solver, schedule, [smooth_grid(schedule, n, LATER) for n in steps], monkeypatch)
        wanted = float(variance(schedule, LATER))
        assert abs(found[-1][0] - float(schedule.alpha(LATER)) * MEAN) < 0.02
    errors = np.array([abs(var / wanted - 1) for _, var in found])
    assert errors[1] < (0.06 if order == 1 else 2e-3)
    assert slopes(errors, steps)[0] > order - 0.15


def test_restarts_change_nothing_on_the_exact_flow_but_the_noise():
    """With the exact denoiser a restart is a new draw of the same law: mean and variance of many are the data's."""
    schedule = EDM()
    x1 = schedule.sigma(1.0) * jax.random.normal(jax.random.key(1), (4000, 1))
    model = gaussian(schedule)
    ts = np.append(np.geomspace(80.0, 0.002, 60) / 80.0, 0.0)
    ts[0] = 1.0
    plain = sample(model, schedule, Heun(), x1, ts, jax.random.key(2))
    again = sample(model, schedule, Restart(((0.1, 2.0, 12, 2),)), x1, ts, jax.random.key(2))
    assert float(jnp.abs(again - plain).max()) > 0.1
    assert abs(float(again.mean()) - MEAN) < 4 * STD / np.sqrt(4000)
    assert abs(float(again.std()) / STD - 1) < 4 / np.sqrt(8000)


def test_without_its_noise_ddpm_shrinks_by_the_product_of_its_means(monkeypatch):
    """At temperature 0 a step maps x to a s_hat x: the exact product of the gains; the spread falls far short of the data's."""
    with jax.enable_x64(True):
        schedule = VE(0.01, 10.0)
        ts = smooth_grid(schedule, 64, LATER)
        gain = 1.0
        for t, s in itertools.pairwise(ts.tolist()):
            noise, later = float(schedule.sigma(t)) ** 2, float(schedule.sigma(s)) ** 2
            gain *= later / noise + (1 - later / noise) * STD**2 / (STD**2 + noise)
        wanted = gain**2 * float(variance(schedule, ts[0]))
        ((mean, found),) = moments(DDPM(temperature=0.0), schedule, [ts], monkeypatch)
        ((_, whole),) = moments(DDPM(), schedule, [ts], monkeypatch)
        ((_, half),) = moments(DDPM(temperature=0.5), schedule, [ts], monkeypatch)
    assert mean == pytest.approx(MEAN, abs=1e-6) and found == pytest.approx(wanted, rel=1e-6)
    assert half == pytest.approx(found + 0.25 * (whole - found), rel=1e-6)
    assert found < 0.2 * whole
    with pytest.raises(UserError, match=r"temperature 1\.5 is not in \[0, 1\]; nearest: 1\.0"):
        DDPM(temperature=1.5)
