"""Solvers against closed forms: Gaussian data, where the ODE's solution and every step's mean and variance are known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import Cosine, RectifiedFlow, VPLinear, exact
from diffusion_jax.sampling import DDIM, DDPM, Euler, Heun, logsnr_uniform, sample, uniform
from diffusion_jax.typing import Prediction, Schedule, UserError, pytree_dataclass

MEAN, STD = 0.7, 0.5
SCHEDULES = [VPLinear(), Cosine(), RectifiedFlow()]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
SOLVERS = [
    DDIM(),
    DDPM(),
    Heun(),
    *(pytest.param(s, marks=pytest.mark.slow) for s in (DDIM(0.5), DDPM("beta"), Euler(), Euler("t"), Heun("t"))),
]


def variance(schedule, t):
    return schedule.alpha(t) ** 2 * STD**2 + schedule.sigma(t) ** 2


def ode_solution(schedule, x, t, t_next):
    """The exact probability flow of N(m, s^2) from t to t_next."""
    ratio = jnp.sqrt(variance(schedule, t_next) / variance(schedule, t))
    return schedule.alpha(t_next) * MEAN + ratio * (x - schedule.alpha(t) * MEAN)


def bound(schedule):
    model = exact.gaussian(schedule, jnp.full(1, MEAN), STD)
    return lambda x, t: model(x, t)


@pytest.mark.parametrize(
    ("solver", "order"),
    [(DDIM(), 1), (Euler(), 1), (Euler("t"), 1), (Heun(), 2), (Heun("t"), 2)],
    ids=lambda p: repr(p),
)
@pytest.mark.parametrize("schedule", [VPLinear(), RectifiedFlow(t_max=0.999)], ids=lambda s: type(s).__name__)
def test_ode_solvers_converge_to_the_exact_flow_with_their_order(solver, order, schedule):
    with jax.enable_x64(True):
        x1 = jnp.array([[-1.3], [0.2], [1.9]], jnp.float64)
        key = jax.random.key(0)
        end = 1e-3
        wanted = ode_solution(schedule, x1, jnp.float64(schedule.t_max), jnp.float64(end))
        errors = []
        for n in (40, 160):
            levels = np.linspace(float(schedule.logsnr(schedule.t_max)), float(schedule.logsnr(end)), n + 1)
            ts = np.array(schedule.t_from_logsnr(levels))
            ts[0], ts[-1] = schedule.t_max, end
            got = sample(exact.gaussian(schedule, jnp.full(1, MEAN), STD), schedule, solver, x1, ts, key)
            assert got.dtype == jnp.float64
            errors.append(float(jnp.abs(got - wanted).max()))
        assert errors[1] < (0.03 if order == 1 else 1e-3)
        slope = np.log(errors[0] / errors[1]) / np.log(4)
        assert order - 0.15 < slope < order + 0.4


@every_schedule
@pytest.mark.parametrize("solver", [DDIM(), Euler(), Heun()], ids=repr)
def test_ode_solvers_end_in_clean_data_that_the_exact_flow_gives(solver, schedule, key):
    """With the last step to sigma = 0, from pure noise: no NaN, no noise left."""
    x1 = jax.random.normal(key, (64, 1))
    got = sample(
        exact.gaussian(schedule, jnp.full(1, MEAN), STD), schedule, solver, x1, logsnr_uniform(64, schedule), key
    )
    wanted = ode_solution(schedule, x1, jnp.float32(1), jnp.float32(0))
    np.testing.assert_allclose(got, wanted, atol=0.05 if not isinstance(solver, Heun) else 0.01)


def affine(solver, schedule, t, t_next):
    """(gain, std, offset) of a step x -> gain x + offset + std z under the exact denoiser of N(m, s^2)."""
    keys = jax.random.split(jax.random.key(3), 2)
    # Three probes in one batch, (x, key): (0, first), (1, first), (0, second).
    x, key = jnp.array([[0.0], [1.0], [0.0]]), keys[jnp.array([0, 0, 1])]
    zero, one, other = solver.step(bound(schedule), schedule, x, t, t_next, key, solver.init(x))[0][:, 0]
    draws = [jax.random.normal(k, (1,))[0] for k in keys]
    std = (other - zero) / (draws[1] - draws[0])
    return one - zero, std, zero - draws[0] * std


def propagate(solver, schedule, ts):
    """The exact mean and variance at ts[-1] of what begins as the true marginal at ts[0]."""
    mean = float(schedule.alpha(ts[0])) * MEAN
    var = float(variance(schedule, ts[0]))
    steps = jax.jit(jax.vmap(lambda t, s: affine(solver, schedule, t, s)))(jnp.asarray(ts[:-1]), jnp.asarray(ts[1:]))
    for gain, std, offset in zip(*(np.asarray(a) for a in steps), strict=True):
        mean, var = gain * mean + offset, gain**2 * var + std**2
    return mean, var


def published_recursion(ts, kind):
    """The variance that DDPM's own formulas (arXiv 2006.11239, eq. 6 and 7) carry from ts[0] to ts[-1], in NumPy."""
    alpha_bar = np.exp(-(0.1 * ts + 19.9 * ts**2 / 2))
    var = alpha_bar[0] * STD**2 + 1 - alpha_bar[0]
    for now, then in itertools.pairwise(alpha_bar):
        beta = 1 - now / then
        denoised = np.sqrt(now) * STD**2 / (now * STD**2 + 1 - now)
        gain = np.sqrt(then) * beta / (1 - now) * denoised + np.sqrt(now / then) * (1 - then) / (1 - now)
        var = gain**2 * var + (beta if kind == "beta" else beta * (1 - then) / (1 - now))
    return var


@pytest.mark.parametrize(
    ("kind", "ratios"),
    [
        ("posterior", {10: 0.446, 50: 0.831, 250: 0.963, 1000: 0.991}),
        ("beta", {10: 1.51, 50: 1.09, 250: 1.017, 1000: 1.004}),
    ],
    ids=["posterior", "beta"],
)
def test_ddpm_variance_over_the_truth_has_its_known_values(kind, ratios):
    """The linear denoiser carries mean and variance exactly: no Monte Carlo."""
    schedule = VPLinear()
    with jax.enable_x64(True):
        for n, ratio in ratios.items():
            levels = np.linspace(float(schedule.logsnr(1.0)), float(schedule.logsnr(1e-3)), n + 1)
            ts = np.array(schedule.t_from_logsnr(levels))
            _, var = propagate(DDPM(kind), schedule, ts)
            np.testing.assert_allclose(var, published_recursion(ts, kind), rtol=1e-8)
            assert abs(var / float(variance(schedule, 1e-3)) / ratio - 1) < (3e-3 if n == 50 and ratio > 1 else 6e-4)


@every_schedule
@pytest.mark.parametrize(
    "solver", [DDIM(0.4), *(pytest.param(s, marks=pytest.mark.slow) for s in (DDPM(), DDPM("beta")))], ids=repr
)
def test_stochastic_samplers_reach_the_data_with_many_steps(solver, schedule):
    with jax.enable_x64(True):
        mean, var = propagate(solver, schedule, logsnr_uniform(2000, schedule))
    assert abs(mean - MEAN) < 0.01
    assert abs(var / STD**2 - 1) < 0.02


@every_schedule
@pytest.mark.parametrize("pair", [(DDIM(1.0), DDPM()), (DDIM(), Euler())], ids=repr)
def test_solvers_that_are_one_method_agree(schedule, pair, key):
    x1 = jax.random.normal(key, (5, 1))
    model = exact.mixture(schedule, jnp.array([[-1.0], [0.4]]), jnp.array([0.2, 0.5]))
    first, second = (sample(model, schedule, s, x1, uniform(12, schedule), key) for s in pair)
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def test_euler_in_t_is_euler_in_sigma_on_straight_lines(key):
    schedule, x1 = RectifiedFlow(), jax.random.normal(key, (5, 1))
    model = exact.gaussian(schedule, jnp.full(1, MEAN), STD)
    for kind in (Euler, Heun):
        results = [sample(model, schedule, kind(v), x1, uniform(9, schedule), key) for v in ("sigma", "t")]
        np.testing.assert_allclose(*results, rtol=1e-5, atol=2e-6)


def test_the_variable_t_leaves_noise_for_vp_linear(key):
    """What the module's docstring says: at a last step to 0, sigma falls by less than it should."""
    schedule, t = VPLinear(), jnp.float32(0.1)

    def noise(x, t):
        return Prediction(jnp.zeros_like(x), jnp.ones_like(x))

    def left(variable):
        x = jnp.full((1, 1), schedule.sigma(t))
        return float(Euler(variable).step(noise, schedule, x, t, jnp.float32(0), jax.random.split(key, 1), ())[0][0, 0])

    assert left("sigma") == 0.0
    assert left("t") > 0.05 * schedule.sigma(t)


@every_schedule
def test_posterior_step_is_the_gaussian_posterior(schedule):
    """Mean and variance of q(x_s | x_t, x0) from the joint Gaussian of (x_s, x_t) given x0, by conditioning."""
    t, s, x0, xt = 0.7, 0.4, 0.3, -0.8
    with jax.enable_x64(True):
        a_t, s_t, a_s, s_s = (float(f(u)) for u in (t, s) for f in (schedule.alpha, schedule.sigma))
        cov = a_t / a_s * s_s**2
        wanted_mean = a_s * x0 + cov / s_t**2 * (xt - a_t * x0)
        wanted_std = np.sqrt(s_s**2 - cov**2 / s_t**2)
        pair = lambda x, t: Prediction(jnp.full_like(x, x0), (x - a_t * x0) / s_t)  # noqa: E731
        keys = jax.random.split(jax.random.key(1), 6)
        x = jnp.full((6, 1), xt)
        got = DDPM().step(pair, schedule, x, jnp.float64(t), jnp.float64(s), keys, ())[0][:, 0]
        z = jax.vmap(lambda k: jax.random.normal(k, (1,), x.dtype))(keys)[:, 0]
        np.testing.assert_allclose(got, wanted_mean + wanted_std * z, rtol=1e-9)
        # the forward kernel's variance
        wide = DDPM("beta").step(pair, schedule, x, jnp.float64(t), jnp.float64(s), keys, ())[0][:, 0]
        np.testing.assert_allclose(wide, wanted_mean + np.sqrt(s_t**2 - (a_t / a_s) ** 2 * s_s**2) * z, rtol=1e-9)


@every_schedule
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_last_step_to_clean_data_is_finite_also_under_vmap(solver, schedule, key):
    x = jax.random.normal(key, (3, 1))
    keys = jax.random.split(key, 3)

    def step(t_next, x=x):
        return solver.step(bound(schedule), schedule, x, jnp.float32(0.3), t_next, keys, ())[0]

    ends = jnp.array([0.1, 0.0])
    together = jax.vmap(step)(ends)
    assert jnp.isfinite(together).all()
    # also backwards, where a NaN in the branch that is not taken would show
    assert jnp.isfinite(jax.grad(lambda x: jax.vmap(lambda t: step(t, x))(ends).sum())(x)).all()
    for got, end in zip(together, ends, strict=True):
        np.testing.assert_allclose(got, jax.jit(step)(end), rtol=1e-5, atol=1e-6)
    if getattr(solver, "variable", "sigma") == "sigma":
        np.testing.assert_allclose(together[1], bound(schedule)(x, jnp.float32(0.3)).x0, rtol=1e-5, atol=1e-6)


@pytree_dataclass
class Betas:
    """Discrete: t = (i + 1) / n for step i, 0 is clean; an array leaf."""

    alpha_bar: jax.Array
    t_min: float = 1e-3
    t_max: float = 1.0

    def _at(self, t):
        return self.alpha_bar[jnp.round(jnp.asarray(t) * (len(self.alpha_bar) - 1)).astype(int)]

    def alpha(self, t):
        return jnp.sqrt(self._at(t))

    def sigma(self, t):
        return jnp.sqrt(1 - self._at(t))

    def logsnr(self, t):
        a = self._at(t)
        return jnp.clip(jnp.log(a) - jnp.log(jnp.maximum(1 - a, 1e-30)), -20, 20)

    def t_from_logsnr(self, logsnr):
        raise NotImplementedError


@pytest.mark.parametrize(("beta_start", "total"), [(1e-4, 172.0067), (1e-2, 149.8295)])
def test_ddim_gives_the_published_checksums(beta_start, total):
    """diffusers' tests/schedulers/test_scheduler_ddim.py, test_full_loop_no_noise and test_full_loop_with_set_alpha_to_one."""
    with jax.enable_x64(True):
        alpha_bar = np.cumprod(1 - np.linspace(beta_start, 0.02, 1000))
        schedule = Betas(jnp.concatenate([jnp.ones(1), jnp.asarray(alpha_bar)]))
        assert isinstance(schedule, Schedule)

        def denoise(x, t, cond):
            i = jnp.round(1000 * t) - 1
            eps = x * i / (i + 1)
            return Prediction(jnp.clip((x - schedule.sigma(t) * eps) / schedule.alpha(t), -1, 1), eps)

        x1 = (jnp.arange(768, dtype=jnp.float64) / 768).reshape(4, 192)
        ts = np.append(np.arange(900, -1, -100) + 1, 0) / 1000
        x0 = sample(denoise, schedule, DDIM(), x1, ts, jax.random.key(0))
        assert abs(float(jnp.abs(x0).sum()) - total) < 5e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIM(1.5), "eta 1.5 is not in"),
        (lambda: DDPM("posteriour"), "did you mean 'posterior'"),
        (lambda: Euler("s"), "variable 's'"),
        (lambda: Heun("sigmas"), "did you mean 'sigma'"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
