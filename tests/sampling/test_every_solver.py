"""Every solver under every schedule reaches a known distribution; and what holds for all of them alike, by tables."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import (
    EVERY_SCHEDULE,
    MEANS,
    SCHEDULES,
    SDE,
    SOLVERS,
    STDS,
    WEIGHTS,
    by_default,
    gaussian,
    two_blobs,
)

from diffusion_jax import build
from diffusion_jax.parallel.mesh import batch_sharding, make_mesh
from diffusion_jax.process import EDM, VE, Cosine, Discrete, RectifiedFlow, SubVP, VPLinear, denoiser, exact
from diffusion_jax.process.prediction import KINDS, from_pair
from diffusion_jax.sampling import (
    DDIM,
    DDPM,
    DEIS,
    IPNDM,
    LMS,
    PNDM,
    AdaptiveODE,
    ConsistencyMultistep,
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
    initial_noise,
    logsnr_uniform,
    optional,
    sample,
    trace,
    uniform,
)
from diffusion_jax.typing import Prediction, Solver, UserError

COUNT, DRAWS, STEPS = 512, 2048, 48
COVER = {
    # Stiff in t: these two are shown on the schedules whose g is moderate.
    solver: {EulerMaruyama: "SubVP", PredictorCorrector: "VPLinear"}.get(type(solver), name)
    for solver, name in zip(SOLVERS, itertools.cycle(EVERY_SCHEDULE))
}


def quantiles(x):
    return np.quantile(np.asarray(x, np.float64).reshape(-1), np.linspace(0.03, 0.97, 32))


def known_quantiles():
    """The mixture's, by inverting its distribution function on a fine grid."""
    line = np.linspace(-3, 4, 20001)
    z = (line[None] - np.asarray(MEANS)) / np.asarray(STDS)[:, None]
    density = np.exp(-0.5 * z**2) / (np.asarray(STDS)[:, None] * np.sqrt(2 * np.pi))
    mass = np.cumsum(np.asarray(WEIGHTS) @ density) * (line[1] - line[0])
    return np.interp(np.linspace(0.03, 0.97, 32), mass, line)


def start(schedule, count=COUNT):
    """Noise at equal quantiles, so that an ODE's samples are the mixture's quantiles and only the solver errs."""
    noise = jax.scipy.special.ndtri((jnp.arange(count) + 0.5) / count)[:, None]
    return schedule.sigma(jnp.float32(schedule.t_max)) * noise


@functools.cache
def setting(solver, name):
    """(denoiser, schedule, x1, grid) for the solver under the schedule."""
    schedule, steps = EVERY_SCHEDULE[name], STEPS
    x1 = start(schedule, DRAWS if solver in SDE else COUNT)
    if isinstance(solver, EulerMaruyama | PredictorCorrector):
        if not isinstance(schedule, VPLinear | Cosine | SubVP | RectifiedFlow):
            pytest.skip("stiff in t: shown on the schedules whose g is moderate")
        if isinstance(schedule, Cosine | RectifiedFlow):  # cut where its own start is out of an SDE's reach
            schedule = type(schedule)(t_max=0.98)
            x1 = start(schedule, DRAWS)
        ts = np.linspace(float(schedule.t_max), 0.0, 401)
    elif isinstance(solver, AdaptiveODE):
        ts = np.array([schedule.t_max, 0.0])
    else:
        ts = logsnr_uniform(steps, schedule)
    return two_blobs(schedule), schedule, x1, ts


@functools.cache
def reached(solver, name):
    model, schedule, x1, ts = setting(solver, name)
    return trace(model, schedule, solver, x1, ts, jax.random.split(jax.random.key(4), len(x1)))


def distance(x0):
    return np.abs(quantiles(x0) - known_quantiles()).mean()


def allowed(solver):
    """First order errs by .036 at 48 steps, higher orders by less than .01; 2048 draws scatter by .02."""
    return 0.08 if solver in SDE else (0.04 if optional.convergence(solver) == 1 else 0.02)


def test_every_name_of_the_tables_is_a_member():
    assert {type(solver) for solver in [*SOLVERS, ConsistencyMultistep()]} >= set(build.SOLVERS.values())
    made = {name: make for name, make in build.SCHEDULES.items() if isinstance(make, type)}
    assert {type(schedule) for schedule in SCHEDULES.values()} >= set(made.values())
    assert set(build.SCHEDULES) - set(made) == {"shifted"}


def test_all_of_them_are_solvers_and_say_what_they_are():
    for solver in (*SOLVERS, ConsistencyMultistep()):
        assert isinstance(solver, Solver)
        assert hash(solver) == hash(type(solver)(**vars(solver)))
        assert optional.deterministic(solver) == (solver not in SDE and not isinstance(solver, ConsistencyMultistep))
        assert optional.convergence(solver) in (None, 1, 2, 3, 4)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_cover_of_solvers_and_schedules(solver):
    """One compiled program a solver says much: it arrives, draws as it declares, and leaves the examples apart."""
    name = COVER[solver]
    (model, schedule, x1, ts), path = setting(solver, name), reached(solver, name)
    assert distance(path.x0) < allowed(solver)
    assert path.x0.dtype == jnp.float32 and bool(jnp.isfinite(path.x0).all())
    assert path.xs.shape == (len(ts), *x1.shape) and path.x0_hats.shape == (len(ts) - 1, *x1.shape)
    if not isinstance(solver, AdaptiveODE):
        ends_in_noise = int(schedule.sigma(jnp.float32(0)) > 0)
        wanted = optional.evaluations(solver, schedule, jnp.asarray(ts, jnp.float32)) + ends_in_noise
        assert int(path.nfe) == int(wanted)
    keys = jax.random.split(jax.random.key(4), len(x1))
    turned = trace(model, schedule, solver, x1[::-1], ts, keys[::-1])
    np.testing.assert_allclose(turned.x0[::-1], path.x0, rtol=1e-4, atol=1e-5)
    redrawn = trace(model, schedule, solver, x1, ts, jax.random.split(jax.random.key(5), len(x1)))
    assert bool((redrawn.x0 == path.x0).all()) == optional.deterministic(solver)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_SCHEDULE)
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_every_solver_under_every_schedule(solver, name):
    path = reached(solver, name)
    assert bool(jnp.isfinite(path.x0).all())
    assert distance(path.x0) < allowed(solver)


@pytest.mark.parametrize("solver", by_default(SOLVERS, 2, 0), ids=repr)
def test_samples_depend_neither_on_the_batch_nor_on_the_devices(solver):
    """Sixteen of the examples, spread over eight devices."""
    name = COVER[solver]
    if isinstance(solver, AdaptiveODE):
        # Rounding that differs with the batch's size turns a step that was refused into one that is taken, and so moves a
        # sample by the solver's own tolerance, which must be below what is asked here.
        solver = dataclasses.replace(solver, rtol=1e-5, atol=1e-6)
    model, schedule, x1, ts = setting(solver, name)
    keys = jax.random.split(jax.random.key(4), len(x1))
    spread = batch_sharding(make_mesh())
    part = sample(
        model, schedule, solver, *jax.device_put((x1[96:112],), spread), ts, jax.device_put(keys[96:112], spread)
    )
    assert len(part.sharding.device_set) == 8
    np.testing.assert_allclose(part, reached(solver, name).x0[96:112], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", by_default(SOLVERS, 2, 1), ids=repr)
def test_evaluations_are_counted_and_the_state_stays_float32(solver):
    """nfe is how often the denoiser ran, as a counter in the host's memory sees it; the denoiser is of bfloat16."""
    schedule, calls = VPLinear(), []
    model, adaptive = two_blobs(schedule), isinstance(solver, AdaptiveODE)

    def counting(x, t, cond):
        jax.debug.callback(lambda: calls.append(1))
        if adaptive:  # whose steps would chase the rounding of bfloat16
            return model(x, t)
        pair = model(x.astype(jnp.bfloat16), t)
        return Prediction(pair.x0.astype(jnp.bfloat16), pair.eps.astype(jnp.bfloat16))

    ts = np.array([1.0, 0.0]) if adaptive else np.linspace(1, 0, 9)
    x1 = initial_noise(jax.random.key(1), (1, 1), schedule)
    x0 = sample(counting, schedule, solver, x1, ts, jax.random.key(2)).block_until_ready()
    jax.effects_barrier()
    assert x0.dtype == jnp.float32 and bool(jnp.isfinite(x0).all())
    if adaptive:
        counted = trace(model, schedule, solver, x1, ts, jax.random.key(2)).nfe
    else:
        counted = optional.evaluations(solver, schedule, jnp.asarray(ts, jnp.float32))
    assert int(np.asarray(counted).reshape(-1)[0]) == len(calls)


@pytest.mark.parametrize("solver", by_default(SOLVERS, 5, 2), ids=repr)
def test_the_tangent_is_the_difference(solver):
    """Under one key the samples of a Gaussian are affine in x1, so that differences of examples are exact."""
    schedule = VPLinear()
    ts = np.array([0.95, 0.05]) if isinstance(solver, AdaptiveODE) else np.linspace(0.95, 0.05, 6)
    keys = jnp.broadcast_to(jax.random.key(3), (2,))
    x1 = jnp.array([[-0.4], [0.6]])

    def run(x1):
        return sample(gaussian(schedule), schedule, solver, x1, ts, keys)

    x0, tangent = jax.jvp(run, (x1,), (jnp.ones_like(x1),))
    # The adaptive solver's steps are chosen for each example, to its tolerance.
    np.testing.assert_allclose(
        tangent[:, 0],
        jnp.repeat(x0[1] - x0[0], 2),
        rtol=1e-4,
        atol=2 * solver.atol if isinstance(solver, AdaptiveODE) else 1e-5,
    )


@pytest.mark.parametrize("solver", [s for s in SOLVERS if optional.from_pair(s)], ids=repr)
def test_a_step_from_the_pair_does_not_see_the_state(solver):
    """What CFG++ needs, whose pair does not add up to xt."""
    schedule, keys = VPLinear(), jax.random.split(jax.random.key(0), 2)
    asked = []

    def pair(x, t):
        asked.append(float(t))
        return Prediction(jnp.full_like(x, 0.3), jnp.full_like(x, -0.7))

    def step(x):
        return solver.step(pair, schedule, jnp.full((2, 1), x), jnp.float32(0.7), jnp.float32(0.4), keys, ())[0]

    np.testing.assert_array_equal(step(0.1), step(5.0))
    assert asked == [pytest.approx(0.7)] * 2


def test_by_name_the_solvers_of_cfg_plus_plus_are_those_that_declare_it():
    assert build.samplers.from_pair() == ["ddpm", "ddim", "euler", "euler_ancestral", "exponential_euler"]
    assert not optional.from_pair(Euler("t"))


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [
        # Each schedule with a few predictions and each prediction with a few schedules; all of them in test-all.
        pytest.param(schedule, kind, marks=() if (i + j) % 3 == 0 else pytest.mark.slow, id=f"{name}-{kind}")
        for i, (name, schedule) in enumerate(SCHEDULES.items())
        for j, kind in enumerate(KINDS)
    ],
)
def test_every_schedule_and_prediction_reaches_the_mixture(schedule, kind):
    """A network that says exactly what its kind should, read back by the denoiser."""
    no_signal = float(schedule.alpha(jnp.float32(1))) < 1e-4
    if no_signal and (kind in ("eps", "score") or (kind == "velocity" and isinstance(schedule, Discrete))):
        with pytest.raises(UserError, match="cannot represent t = 1"):
            denoiser(lambda *a, **k: None, {}, schedule, prediction=kind)
        return

    def network(params, x, t, cond, *, key=None, train=False):
        pair = two_blobs(schedule)(x, t)
        return from_pair(kind, pair.x0, pair.eps, t, schedule)

    model = denoiser(network, {}, schedule, prediction=kind, time="t")
    ts = logsnr_uniform(48, schedule)
    x0 = sample(model, schedule, DDIM(), start(schedule), ts, jax.random.key(4))
    assert distance(x0) < 0.04


def test_consistency_steps_keep_the_data_whatever_the_grid():
    """The consistency map of a Gaussian is m + s / sqrt(V) (x - alpha m): each step's law is exact."""
    schedule, mean, std = VPLinear(), 0.7, 0.5

    def ends(x, t, cond):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x0 = mean + std / jnp.sqrt(alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
        return Prediction(x0, (x - alpha * x0) / sigma)

    for ts in ([1.0, 0.0], [1.0, 0.6, 0.0], [1.0, 0.9, 0.3, 0.05, 0.0]):
        v = schedule.alpha(1.0) ** 2 * std**2 + schedule.sigma(1.0) ** 2
        noise = jax.random.normal(jax.random.key(1), (4000, 1))
        x1 = schedule.alpha(1.0) * mean + jnp.sqrt(v) * noise
        x0 = sample(ends, schedule, ConsistencyMultistep(), x1, np.array(ts), jax.random.key(2))
        assert abs(float(x0.mean()) - mean) < 4 * std / np.sqrt(4000)
        assert abs(float(x0.std()) / std - 1) < 4 / np.sqrt(8000)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (DDIM(), DPMSolver(1)),
        (DDIM(), DPMSolverPP(1)),
        (DDIM(), ExponentialEuler()),
        (DDIM(), UniPC(1)),
        (DDIM(), SASolver(1, 0, tau=0.0)),
        (DDPM(), DPMSolverPP(1, sde=True)),
        (DDPM(), ExponentialEuler(1.0)),
        (DDPM(), SASolver(1, 0, tau=1.0)),
        (DDIM(0.4), EulerAncestral(0.4)),
        (Heun(), EDMStochastic(s_churn=0.0)),
        (Euler(), LMS(1)),
        (Euler(), IPNDM(1)),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "schedule",
    [RectifiedFlow(), pytest.param(VPLinear(), marks=pytest.mark.slow), pytest.param(VE(), marks=pytest.mark.slow)],
    ids=lambda s: type(s).__name__,
)
def test_solvers_that_are_one_method_agree_exactly(one, other, schedule):
    ts = np.array([schedule.t_max, 0.7, 0.35, 0.1, 0.02, 0.0])
    if isinstance(other, UniPC):
        # Its corrector is more than DDIM: the first step alone is the same.
        ts = np.array([schedule.t_max, 0.4])
    x1 = initial_noise(jax.random.key(1), (6, 1), schedule)
    first, second = (sample(two_blobs(schedule), schedule, s, x1, ts, jax.random.key(2)) for s in (one, other))
    np.testing.assert_allclose(first, second, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("one", "other"), [(DDIM(1.0), DDPM()), (DDIM(), Euler())], ids=repr)
@pytest.mark.parametrize("schedule", [VPLinear(), Cosine(), RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_the_oldest_pairs_agree_more_closely(one, other, schedule, key):
    x1 = jax.random.normal(key, (5, 1))
    model = exact.mixture(schedule, jnp.array([[-1.0], [0.4]]), jnp.array([0.2, 0.5]))
    first, second = (sample(model, schedule, s, x1, uniform(12, schedule), key) for s in (one, other))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


BAD = [
    (lambda: DDIM(1.5), "eta 1.5 is not in"),
    (lambda: DDPM("posteriour"), "did you mean 'posterior'"),
    (lambda: Euler("s"), "variable 's'"),
    (lambda: Heun("sigmas"), "did you mean 'sigma'"),
    (lambda: DPMSolver(0), "DPMSolver has no order 0: 1 to 3; nearest: 1"),
    (lambda: DPMSolverPP(4), "no order 4"),
    (lambda: DPMSolverPP(3, multistep=False, sde=True), "no single-step SDE form of order 3"),
    (lambda: UniPC(0), "UniPC has no order 0"),
    (lambda: UniPC(2, "bh3"), "variant 'bh3'"),
    (lambda: DEIS(3, "rho"), "variable 'rho'"),
    (lambda: LMS(5), "no order 5"),
    (lambda: IPNDM(0), "no order 0"),
    (lambda: PNDM("rk"), "start 'rk'"),
    (lambda: SASolver(0), "no order 0"),
    (lambda: SASolver(tau=-1.0), "tau -1.0"),
    (lambda: EulerMaruyama(-0.1), "eta -0.1"),
    (lambda: EulerAncestral(2.0), "eta 2.0"),
    (lambda: EDMStochastic(s_churn=-1.0), "s_churn -1.0"),
    (lambda: Restart(((0.3, 0.1, 3, 2),)), "restart interval"),
    (lambda: PredictorCorrector(snr=0.0), "snr 0.0"),
    (lambda: PredictorCorrector(steps=0), "steps 0"),
    (lambda: AdaptiveODE(rtol=0.0), "rtol 0.0"),
    (lambda: AdaptiveODE(method="rk45"), "method 'rk45'"),
    (lambda: two_blobs(VPLinear())(jnp.ones((1, 1)), 1.5), "t = 1.5 is not in"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_options_are_named_with_the_nearest(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_an_sde_cannot_begin_without_signal():
    schedule = RectifiedFlow()
    for solver in (EulerMaruyama(), PredictorCorrector()):
        with pytest.raises(UserError, match="EulerMaruyama cannot begin at t = 1 under RectifiedFlow"):
            sample(two_blobs(schedule), schedule, solver, jnp.ones((1, 1)), [1.0, 0.5, 0.0], jax.random.key(0))


def test_a_churn_needs_its_grid():
    schedule = EDM()
    with pytest.raises(UserError, match="give num_steps"):
        EDMStochastic().step(
            lambda x, t: two_blobs(schedule)(x, t),
            schedule,
            jnp.ones((1, 1)),
            jnp.float32(0.5),
            jnp.float32(0.4),
            jax.random.split(jax.random.key(0), 1),
            (),
        )


def test_nothing_recompiles_when_weights_noise_or_seed_change():
    from diffusion_jax.sampling.sample import _sample

    schedule, ts = Discrete(), np.linspace(1, 0, 5)
    solvers = [UniPC(3), DPMSolverPP(2, sde=True), AdaptiveODE(1e-3, 1e-3)]
    for solver, seed in itertools.product(solvers, range(2)):
        before = _sample._cache_size()
        model = exact.mixture(Discrete(beta_start=1e-4 + 1e-4 * seed), MEANS + seed, STDS, WEIGHTS)
        sample(model, schedule, solver, jnp.full((3, 1), 1.0 + seed), ts, jax.random.key(seed))
        assert _sample._cache_size() - before == (0 if seed else 1)
