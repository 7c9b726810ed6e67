"""Any falling grid gives finite samples with every solver: coinciding and clustered times, clipped ends, thousands of steps.

All in float32. Grids of one length share the compiled program of a solver and schedule.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from members import MEAN, ODE, SCHEDULES, SDE, STD, gaussian

from diffusion_jax.process import EDM, RectifiedFlow, learned_gamma
from diffusion_jax.process.truncated import Truncated
from diffusion_jax.sampling import (
    DDPM,
    DEIS,
    IPNDM,
    LMS,
    AdaptiveODE,
    ConsistencyMultistep,
    DPMSolver,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    SASolver,
    UniPC,
    karras,
    logsnr_uniform,
    quadratic,
    sample,
    uniform,
)
from diffusion_jax.sampling.grids import check_grid, told_apart
from diffusion_jax.sampling.steps import phis
from diffusion_jax.typing import Prediction, UserError

STEPS = 24
EVERY = [*ODE, *SDE, DDPM("learned_range"), Euler("t"), Heun("t"), ConsistencyMultistep(), UniPC(3, "bh1")]
EVERY += [DEIS(3, "logrho"), LMS(2), SASolver(2, 1, tau=0.0), SASolver(3, 2)]
LEFT_OUT = EulerMaruyama | PredictorCorrector | AdaptiveODE
"""Those that refuse a beginning without signal, or solve each interval anew; they have tests of their own below."""
SHARED = [DPMSolver(3), DPMSolverPP(2), DPMSolverPP(3, sde=True), UniPC(3), SASolver(tau=0.0), DEIS(3, "logrho"), LMS()]
"""One of each formula that has differences of nodes or of exponentials."""
ROWS = {**SCHEDULES, "Late": Truncated(RectifiedFlow(), 0.01)}
ROWS["Learned"] = learned_gamma(jax.random.key(0))


def end_of(schedule):
    return 0.0 if float(schedule.sigma(jnp.float32(0))) == 0.0 else float(schedule.t_min)


def falling(times, schedule, steps):
    """A grid of `steps` steps out of such times, from t_max to the end; gaps are filled by halving the widest."""
    low, high, end = float(schedule.t_min), float(schedule.t_max), end_of(schedule)
    times = {min(max(float(t), low), high) for t in times} - {high, end}
    inner = sorted(times, reverse=True)[: steps - 1]
    ts = [high, *inner, end]
    while len(ts) < steps + 1:
        wide = max(range(len(ts) - 1), key=lambda i: ts[i] - max(ts[i + 1], low))
        ts.insert(wide + 1, 0.5 * (ts[wide] + max(ts[wide + 1], low)))
    return np.array(ts)


def crowded(schedule, steps=STEPS):
    """A third where logsnr is clipped at either end, a third in clusters closer than float32 tells apart."""
    third = steps // 3
    ends = [1 - 1e-7 * i for i in range(third)] + [10.0**-e for e in (6, 7, 12, 30, 38, 39, 44, 300, 320)][:third]
    return falling(
        ends + [0.5 + 1e-8 * i for i in range(third // 2)] + [0.2 + 1e-6 * i for i in range(third // 2)],
        schedule,
        steps,
    )


def grids(schedule, steps=STEPS):
    made = {"crowded": crowded(schedule, steps)}
    for make in (uniform, quadratic, karras, logsnr_uniform, functools.partial(logsnr_uniform, logsnr_max=19.9)):
        name = f"{getattr(make, '__name__', 'logsnr to the clip')}"
        try:
            made[name] = make(steps, schedule)
        except UserError:  # no room above t_min
            continue
    return made


def drawn(schedule, solver, ts, dtype=jnp.float32):
    """Samples of a Gaussian from fixed noise."""
    check_grid(np.asarray(ts), schedule)
    x1 = schedule.sigma(dtype(schedule.t_max)) * jnp.array([[-1.3], [0.2], [1.9]], dtype)
    x0 = sample(model(schedule, solver), schedule, solver, x1, ts, jax.random.key(0))
    assert x0.dtype == dtype
    return np.asarray(x0)


def model(schedule, solver):
    plain = gaussian(schedule)
    if solver != DDPM("learned_range"):
        return plain

    def with_variance(x, t, cond):
        pair = plain(x, t)
        return Prediction(pair.x0, pair.eps, jnp.full_like(x, 0.5))

    return with_variance


def missed(schedule, x0, ts):
    """The largest distance to the exact end of the probability-flow ODE."""
    with jax.enable_x64(True):
        alpha, sigma = (np.asarray(f(jnp.asarray(ts)[jnp.array([0, -1])])) for f in (schedule.alpha, schedule.sigma))
    variance = (alpha * STD) ** 2 + sigma**2
    x1 = float(schedule.sigma(jnp.float32(schedule.t_max))) * np.array([[-1.3], [0.2], [1.9]])
    wanted = alpha[1] * MEAN + np.sqrt(variance[1] / variance[0]) * (x1 - alpha[0] * MEAN)
    if ts[-1] == 0 and sigma[1] > 0:
        wanted = MEAN + alpha[1] * STD**2 / variance[1] * (wanted - alpha[1] * MEAN)
    return np.abs(x0 - wanted).max()


@pytest.mark.parametrize(("solver", "schedule"), [*((s, RectifiedFlow()) for s in SHARED), (LMS(2), EDM())], ids=repr)
def test_coinciding_times_give_finite_samples(solver, schedule):
    """RectifiedFlow has logsnr clipped at both ends: many times of one lambda; what lies there is exact to 1e-4 anyhow.

    EDM's sigma is 80 t: next to t = 1 two times have one sigma or two, as the compiler rounds.
    """
    for name, ts in grids(schedule).items():
        x0 = drawn(schedule, solver, ts)
        assert np.isfinite(x0).all(), name
        assert np.abs(x0 - MEAN).max() < 12, name  # in the crowded grid, a step over half of it


@pytest.mark.parametrize("solver", [solver for solver in SHARED if not isinstance(solver, DPMSolver)], ids=repr)
def test_a_time_that_is_there_twice_changes_nothing(solver):
    """Each time of a grid followed by one 2e-7 below: the memory of a multi-step solver has it once."""
    schedule = RectifiedFlow()
    ts = np.linspace(0.95, 0.02, STEPS // 2 + 1)
    twice = np.sort(np.append(ts, ts[:-1] - 2e-7))[::-1]
    x0s = [drawn(schedule, solver, grid) for grid in (ts, twice)]
    if isinstance(solver, DPMSolverPP) and solver.sde:  # which draws other noise
        assert np.abs(x0s[1] - MEAN).max() < 4 * STD
    elif isinstance(solver, UniPC | SASolver):  # whose second prediction is made at the corrected state: exacter
        assert missed(schedule, x0s[1], ts) < missed(schedule, x0s[0], ts)
    else:
        np.testing.assert_allclose(x0s[1], x0s[0], atol=1e-4)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_random_grids_give_finite_samples(data):
    _random(data, SHARED, RectifiedFlow())


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_random_grids_give_finite_samples_everywhere(name, data):
    _random(data, [solver for solver in EVERY if not isinstance(solver, LEFT_OUT)], ROWS[name])


def _random(data, solvers, schedule):
    centres = data.draw(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5))
    width = st.one_of(st.floats(0.0, 1e-6), st.floats(0.0, 0.3), st.sampled_from([5e-324, 1e-45, 1.2e-38, 6e-8]))
    near = st.tuples(st.sampled_from(centres), st.sampled_from([-1.0, 1.0]), width)
    times = [centre + sign * gap for centre, sign, gap in data.draw(st.lists(near, min_size=4, max_size=STEPS - 1))]
    solver = data.draw(st.sampled_from(solvers))
    x0 = drawn(schedule, solver, falling(times, schedule, STEPS))
    assert np.isfinite(x0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("solver", [solver for solver in EVERY if not isinstance(solver, LEFT_OUT)], ids=repr)
def test_every_solver_and_schedule_up_to_four_thousand_steps(solver, name):
    """Finite, and with the rounding of float32 no further than 2e-4 from the same in float64: nothing is magnified."""
    schedule = ROWS[name]
    for steps in (100, 4000):
        for grid, ts in grids(schedule, steps).items():
            x0 = drawn(schedule, solver, ts)
            assert np.isfinite(x0).all(), (grid, steps)
            if solver in ODE and grid != "crowded":
                with jax.enable_x64(True):
                    exactly = drawn(schedule, solver, ts, jnp.float64)
                assert np.abs(x0 - exactly).max() < 2e-4, (grid, steps)


def test_four_thousand_steps_are_as_exact_as_a_hundred():
    """The default's share of the test above: phi functions up to the fourth order at h = .004, in float32."""
    schedule = RectifiedFlow()
    few, many = (missed(schedule, drawn(schedule, UniPC(3), ts), ts) for ts in (uniform(100), uniform(4000)))
    assert few < 1e-3
    assert many < few + 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_the_adaptive_solver_and_the_sde_itself_on_many_steps(name):
    schedule = ROWS[name]
    for ts in (*grids(schedule).values(), *(grid for grid in grids(schedule, 500).values())):
        assert np.isfinite(drawn(schedule, AdaptiveODE(1e-4, 1e-4), ts)).all()
        later = ts[float(schedule.alpha(jnp.float32(ts[0]))) <= 4.5e-5 :]
        if float(schedule.alpha(jnp.float32(later[0]))) > 4.5e-5:
            for solver in (EulerMaruyama(), PredictorCorrector(EulerMaruyama())):
                assert np.isfinite(drawn(schedule, solver, later)).all()


def test_phi_functions_are_exact_for_any_step():
    """Against Gauss-Legendre's quadrature of their integral in float64, from h = 1e-12 to 40, of either sign."""
    nodes, weights = np.polynomial.legendre.leggauss(100)
    s, weights = 0.5 * (nodes + 1), 0.5 * weights
    steps = np.concatenate([[0.0], np.geomspace(1e-12, 40, 57), [1 - 1e-7, 1.0]])
    z = np.concatenate([steps, -steps])
    wanted = [np.exp(np.outer(z, 1 - s)) * s ** (k - 1) / math.factorial(k - 1) @ weights for k in range(1, 5)]
    np.testing.assert_allclose(phis(jnp.float32(z), 4), wanted, rtol=2e-5)
    with jax.enable_x64(True):
        np.testing.assert_allclose(phis(jnp.asarray(z, jnp.float64), 4), wanted, rtol=2e-13)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.one_of(st.floats(0, 1), st.floats(0, 1e-30), st.floats(1 - 1e-12, 1)), min_size=2, max_size=40))
def test_times_that_float32_confuses_are_told_apart(times):
    ts = np.array(sorted({*times, 0.0, 1.0}, reverse=True))
    told = told_apart(ts, np.dtype(np.float32))
    assert told.dtype == np.float32 and told[0] == 1 and told[-1] == 0
    assert (np.diff(told) < 0).all()
    assert (told[:-1] >= np.finfo(np.float32).tiny).all()
    ulps = len(ts) * np.maximum(np.spacing(told), np.finfo(np.float32).tiny)
    assert (np.abs(told - ts) <= ulps).all()
    plain = uniform(50)
    np.testing.assert_array_equal(told_apart(plain, np.dtype(np.float32)), plain.astype(np.float32))


def test_equal_steps_know_no_spacing_but_stay_finite():
    """IPNDM's coefficients are those of equal steps: where no signal is left, it falls back to the first order."""
    schedule = RectifiedFlow()
    x0 = drawn(schedule, IPNDM(), np.array([1.0, 1 - 1e-7, 1 - 3e-7, 0.5, 0.2, 0.0]))
    assert np.abs(x0 - MEAN).max() < 4 * STD
