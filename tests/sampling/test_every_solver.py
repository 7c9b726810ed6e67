"""Every solver under every schedule reaches a known distribution; and what holds for all of them alike."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import EDM, VE, Cosine, Discrete, RectifiedFlow, Shifted, SubVP, VPLinear, denoiser, exact
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
    sample,
    trace,
)
from diffusion_jax.typing import Prediction, Solver, UserError

ODE = [
    DDIM(),
    Euler(),
    Heun(),
    ExponentialEuler(),
    DPMSolver(2),
    DPMSolver(3),
    DPMSolverPP(2),
    DPMSolverPP(3),
    DPMSolverPP(2, multistep=False),
    DPMSolverPP(3, multistep=False),
    UniPC(2, "bh1"),
    UniPC(3),
    DEIS(2, "logrho"),
    DEIS(3),
    IPNDM(),
    PNDM(),
    PNDM("plms"),
    LMS(),
    SASolver(tau=0.0),
    AdaptiveODE(rtol=1e-4, atol=1e-4),
]
SDE = [
    DDPM(),
    DDPM("beta"),
    DDIM(0.5),
    EulerAncestral(),
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
SCHEDULES = [
    VPLinear(),
    Cosine(),
    SubVP(),
    VE(),
    EDM(),
    RectifiedFlow(),
    Discrete(),
    Discrete("scaled_linear", zero_terminal_snr=True),
    Shifted(RectifiedFlow(), 3.0),
]
NAMES = ["VPLinear", "Cosine", "SubVP", "VE", "EDM", "RectifiedFlow", "Discrete", "ZeroSNR", "Shifted"]
MEANS, STDS, WEIGHTS = jnp.array([[-1.0], [0.8]]), jnp.array([0.25, 0.4]), jnp.array([0.3, 0.7])
COUNT, DRAWS = 512, 2048


def every_other(first):
    """All solvers, of which every second one runs by default; two tests with 0 and 1 have each solver in one of them."""
    return [
        pytest.param(solver, marks=() if i % 2 == first else pytest.mark.slow) for i, solver in enumerate([*ODE, *SDE])
    ]


def two_blobs(schedule):
    return exact.mixture(schedule, MEANS, STDS, WEIGHTS)


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


def begins_before(schedule):
    """The schedule, cut where its own start is out of an SDE's reach."""
    return type(schedule)(t_max=0.98) if isinstance(schedule, Cosine | RectifiedFlow) else schedule


def distance(schedule, solver, steps=48):
    count = DRAWS if solver in SDE else COUNT
    if isinstance(solver, EulerMaruyama | PredictorCorrector):
        if not isinstance(schedule, VPLinear | Cosine | SubVP | RectifiedFlow):
            pytest.skip("stiff in t: shown on the schedules whose g is moderate")
        schedule, steps = begins_before(schedule), 400
        ts = np.linspace(float(schedule.t_max), 0.0, steps + 1)
    elif isinstance(solver, AdaptiveODE):
        ts = np.array([schedule.t_max, 0.0])
    else:
        ts = logsnr_uniform(steps, schedule)
    x0 = sample(two_blobs(schedule), schedule, solver, start(schedule, count), ts, jax.random.key(4))
    assert x0.shape == (count, 1)
    assert bool(jnp.isfinite(x0).all())
    return np.abs(quantiles(x0) - known_quantiles()).mean()


def allowed(solver):
    """First order errs by .036 at 48 steps, higher orders by less than .01; 2048 draws scatter by .02."""
    first_order = isinstance(solver, DDIM | Euler | ExponentialEuler)
    return 0.08 if solver in SDE else (0.04 if first_order else 0.02)


def test_all_of_them_are_solvers():
    for solver in (*ODE, *SDE, ConsistencyMultistep()):
        assert isinstance(solver, Solver)
        assert hash(solver) == hash(type(solver)(**vars(solver)))


@pytest.mark.parametrize("solver", every_other(0), ids=repr)
def test_every_solver_reaches_the_mixture(solver):
    assert distance(VPLinear(), solver) < allowed(solver)


PAIRS = [(solver, SCHEDULES[1 + i % (len(SCHEDULES) - 1)]) for i, solver in enumerate([*ODE, *SDE])]


@pytest.mark.parametrize(("solver", "schedule"), PAIRS, ids=lambda p: repr(p)[:40])
def test_a_cover_of_solvers_and_schedules(solver, schedule):
    assert distance(schedule, solver) < allowed(solver)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES, ids=NAMES)
@pytest.mark.parametrize("solver", [*ODE, *SDE], ids=repr)
def test_every_solver_under_every_schedule(solver, schedule):
    assert distance(schedule, solver) < allowed(solver)


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [
        # Each schedule with a few predictions and each prediction with a few schedules; all of them in test-all.
        pytest.param(schedule, kind, marks=() if (i + j) % 3 == 0 else pytest.mark.slow, id=f"{NAMES[i]}-{kind}")
        for i, schedule in enumerate(SCHEDULES)
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
    assert np.abs(quantiles(x0) - known_quantiles()).mean() < 0.04


@pytest.mark.parametrize("solver", every_other(0), ids=repr)
def test_samples_do_not_depend_on_the_batch_and_the_state_stays_float32(solver):
    schedule = VPLinear()
    model, ts = two_blobs(schedule), np.linspace(1, 0, 7)
    if isinstance(solver, AdaptiveODE):
        ts = np.array([1.0, 0.0])

    def half(x, t, cond):
        pair = model(x.astype(jnp.bfloat16), t)
        return Prediction(pair.x0.astype(jnp.bfloat16), pair.eps.astype(jnp.bfloat16))

    x1 = initial_noise(jax.random.key(1), (5, 1), schedule)
    keys = jax.random.split(jax.random.key(2), 5)
    whole = sample(model, schedule, solver, x1, ts, keys)
    part = sample(model, schedule, solver, x1[1:3], ts, keys[1:3])
    np.testing.assert_allclose(part, whole[1:3], rtol=1e-4, atol=1e-5)
    if not isinstance(solver, AdaptiveODE):  # whose steps would chase the rounding of bfloat16
        x0 = sample(half, schedule, solver, x1, ts, keys)
        assert x0.dtype == jnp.float32
        assert bool(jnp.isfinite(x0).all())


@pytest.mark.parametrize("solver", every_other(1), ids=repr)
def test_evaluations_are_counted(solver):
    """nfe is how often the denoiser ran, as a counter in the host's memory sees it."""
    schedule, calls = VPLinear(), []
    model = two_blobs(schedule)

    def counting(x, t, cond):
        jax.debug.callback(lambda: calls.append(1))
        return model(x, t)

    ts = np.array([1.0, 0.0]) if isinstance(solver, AdaptiveODE) else np.linspace(1, 0, 9)
    x1 = initial_noise(jax.random.key(1), (1, 1), schedule)
    sample(counting, schedule, solver, x1, ts, jax.random.key(2)).block_until_ready()
    jax.effects_barrier()
    path = trace(model, schedule, solver, x1, ts, jax.random.key(2))
    assert int(np.asarray(path.nfe).reshape(-1)[0]) == len(calls)
    assert path.xs.shape == (len(ts), 1, 1)
    assert path.x0_hats.shape == (len(ts) - 1, 1, 1)


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


def test_adaptive_error_follows_its_tolerance():
    schedule = VPLinear()
    x1 = jnp.linspace(-2, 2, 9)[:, None]
    v = lambda t: schedule.alpha(t) ** 2 * 0.25 + schedule.sigma(t) ** 2  # noqa: E731
    wanted = 0.7 + 0.5 * (x1 - schedule.alpha(1.0) * 0.7) / jnp.sqrt(v(1.0))
    found, counts = [], []
    with jax.enable_x64(True):
        model = exact.gaussian(schedule, jnp.full(1, 0.7), 0.5)
        for tolerance in (1e-3, 1e-5, 1e-7):
            solver = AdaptiveODE(tolerance, tolerance)
            path = trace(model, schedule, solver, x1.astype(jnp.float64), np.array([1.0, 0.0]), jax.random.key(0))
            found.append(float(jnp.abs(path.x0 - wanted).max()))
            counts.append(int(path.nfe.max()))
    assert found[0] < 0.05 and found[1] < found[0] / 10 and found[2] < found[1] / 10
    assert counts[0] < counts[1] < counts[2]


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
    x1 = initial_noise(jax.random.key(1), (6, 1), schedule)
    if isinstance(other, UniPC):
        # Its corrector is more than DDIM: the first step alone is the same.
        ts = np.array([schedule.t_max, 0.4])
    first, second = (sample(two_blobs(schedule), schedule, s, x1, ts, jax.random.key(2)) for s in (one, other))
    np.testing.assert_allclose(first, second, rtol=2e-5, atol=2e-5)


BAD = [
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
