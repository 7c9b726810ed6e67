"""Solvers against closed forms: Gaussian data, where the ODE's solution and every step's mean and variance are known."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import MEAN, STD, flow, gaussian, smooth_grid, variance

from diffusion_jax.process import Cosine, RectifiedFlow, VPLinear
from diffusion_jax.sampling import DDIM, DDPM, Euler, Heun, logsnr_uniform, sample, uniform
from diffusion_jax.typing import Prediction

SCHEDULES = [VPLinear(), Cosine(), RectifiedFlow()]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
SOLVERS = [
    DDIM(),
    DDPM(),
    Heun(),
    *(pytest.param(s, marks=pytest.mark.slow) for s in (DDIM(0.5), DDPM("beta"), Euler(), Euler("t"), Heun("t"))),
]


def bound(schedule):
    model = gaussian(schedule)
    return lambda x, t: model(x, t)


@every_schedule
@pytest.mark.parametrize("solver", [DDIM(), Euler(), Heun()], ids=repr)
def test_ode_solvers_end_in_clean_data_that_the_exact_flow_gives(solver, schedule, key):
    """With the last step to sigma = 0, from pure noise: no NaN, no noise left."""
    x1 = jax.random.normal(key, (64, 1))
    got = sample(gaussian(schedule), schedule, solver, x1, logsnr_uniform(64, schedule), key)
    wanted = flow(schedule, x1, jnp.float32(1), jnp.float32(0))
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


LONGEST = 2000


@functools.partial(jax.jit, static_argnames="solver")
def all_steps(solver, schedule, ts):
    """`affine` of the steps of a grid of LONGEST steps."""
    return jax.vmap(lambda t, s: affine(solver, schedule, t, s))(ts[:-1], ts[1:])


def propagate(solver, schedule, ts):
    """The exact mean and variance at ts[-1] of what begins as the true marginal at ts[0]."""
    mean = float(schedule.alpha(ts[0])) * MEAN
    var = float(variance(schedule, ts[0]))
    # Filled up by steps that are not looked at, so that grids of all lengths are one program.
    filled = np.append(ts, np.linspace(0.5, 0.1, LONGEST + 1 - len(ts)))
    steps = all_steps(solver, schedule, jnp.asarray(filled))
    for gain, std, offset in zip(*(np.asarray(a)[: len(ts) - 1] for a in steps), strict=True):
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
            ts = smooth_grid(schedule, n, 1e-3)
            _, var = propagate(DDPM(kind), schedule, ts)
            np.testing.assert_allclose(var, published_recursion(ts, kind), rtol=1e-8)
            assert abs(var / float(variance(schedule, 1e-3)) / ratio - 1) < (3e-3 if n == 50 and ratio > 1 else 6e-4)


@every_schedule
@pytest.mark.parametrize(
    "solver", [DDIM(0.4), *(pytest.param(s, marks=pytest.mark.slow) for s in (DDPM(), DDPM("beta")))], ids=repr
)
def test_stochastic_samplers_reach_the_data_with_many_steps(solver, schedule):
    with jax.enable_x64(True):
        mean, var = propagate(solver, schedule, logsnr_uniform(LONGEST, schedule))
    assert abs(mean - MEAN) < 0.01
    assert abs(var / STD**2 - 1) < 0.02


def test_euler_in_t_is_euler_in_sigma_on_straight_lines(key):
    schedule, x1 = RectifiedFlow(), jax.random.normal(key, (5, 1))
    model = gaussian(schedule)
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
    x, keys, ends = jax.random.normal(key, (3, 1)), jax.random.split(key, 3), jnp.array([0.1, 0.0])

    def step(t_next, x):
        return solver.step(bound(schedule), schedule, x, jnp.float32(0.3), t_next, keys, ())[0]

    def steps(x):
        return jax.vmap(step, (0, None))(ends, x)

    # also backwards, where a NaN in the branch that is not taken would show
    together, slope = jax.jit(lambda x: (steps(x), jax.grad(lambda x: steps(x).sum())(x)))(x)
    assert jnp.isfinite(together).all() and jnp.isfinite(slope).all()
    alone = jax.jit(step)
    for got, end in zip(together, ends, strict=True):
        np.testing.assert_allclose(got, alone(end, x), rtol=1e-5, atol=1e-6)
    if getattr(solver, "variable", "sigma") == "sigma":
        np.testing.assert_allclose(together[1], bound(schedule)(x, jnp.float32(0.3)).x0, rtol=1e-5, atol=1e-6)
