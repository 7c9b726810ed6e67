"""The variational bound against closed forms: Gaussian data have an exact denoiser, and their bound is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import (
    EDM,
    VE,
    Cosine,
    Discrete,
    RectifiedFlow,
    SubVP,
    VPLinear,
    bound,
    exact,
    from_x0,
    times,
)
from diffusion_jax.process.asking import AnyTime
from diffusion_jax.typing import Prediction, UserError

SCHEDULES = [VPLinear(), Cosine(), Cosine(t_min=0.01, t_max=0.95), RectifiedFlow(), VE(), EDM(), SubVP(), Discrete()]
IDS = ["VPLinear", "Cosine", "Cosine inside", "RectifiedFlow", "VE", "EDM", "SubVP", "Discrete"]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=IDS)
MEAN, STD = 0.7, 0.5


def mmse(logsnr):
    """E |eps - eps_hat|^2 of the exact denoiser, a dimension."""
    gain = STD**2 * np.exp(np.asarray(logsnr, np.float64))
    return gain / (1 + gain)


def ends(schedule):
    """(logsnr at t_min, logsnr at t_max), float64."""
    with jax.enable_x64(True):
        return np.asarray(schedule.logsnr(jnp.array([schedule.t_min, schedule.t_max], jnp.float64)))


def integral(schedule):
    """The diffusion term a dimension in continuous time."""
    clean, noisy = np.log1p(STD**2 * np.exp(ends(schedule)))
    return 0.5 * (clean - noisy)


def expected(fn, t):
    """The mean of fn(x0, eps, t) over data and noise at each time of t [n], exact for what is quadratic in them.

    A Gaussian's first two moments are those of the two points at one standard deviation.
    """
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float64)
    x0, eps = (jnp.tile(column, len(t))[:, None] for column in (MEAN + STD * signs[:, 0], signs[:, 1]))
    return np.asarray(fn(x0, eps, jnp.repeat(jnp.asarray(t), 4))).reshape(len(t), 4).mean(1)


def gaussian(schedule, entries=1):
    return exact.gaussian(schedule, jnp.full(entries, MEAN), STD)


def steps_total(schedule, count):
    """The exact expectation of the bound's `count` steps."""
    with jax.enable_x64(True):
        grid = np.linspace(schedule.t_min, schedule.t_max, count + 1)
        model, earlier = gaussian(schedule), dict(zip(grid[1:], grid[:-1]))

        def step(x0, eps, t):
            s = jnp.array([earlier[float(value)] for value in t])
            return bound.step_kl(model, schedule, x0, eps, s, t)

        return expected(step, grid[1:]).sum()


@every_schedule
def test_the_integral_of_the_exact_error_is_the_closed_form(schedule):
    """I-MMSE, by Gauss-Legendre quadrature over logsnr."""
    with jax.enable_x64(True):
        clean, noisy = ends(schedule)
        nodes, weights = np.polynomial.legendre.leggauss(60)
        logsnr = noisy + (clean - noisy) * (nodes + 1) / 2
        t = np.clip(np.asarray(schedule.t_from_logsnr(jnp.asarray(logsnr))), schedule.t_min, schedule.t_max)
        model = gaussian(schedule)
        error = expected(lambda x0, eps, t: bound.eps_error(model, schedule, x0, eps, t), t)
        np.testing.assert_allclose(error, mmse(logsnr), rtol=1e-6)
        np.testing.assert_allclose((weights * error).sum() * (clean - noisy) / 4, integral(schedule), rtol=1e-6)


@every_schedule
@pytest.mark.parametrize("num_steps", [None, 7])
def test_the_estimate_has_the_exact_mean(schedule, num_steps):
    count, entries = 20_000, 2
    x0 = MEAN + STD * jax.random.normal(jax.random.key(1), (count, entries))
    nats = bound.diffusion(gaussian(schedule, entries), schedule, x0, None, jax.random.key(2), num_steps)
    if num_steps is None:
        wanted = entries * integral(schedule)
    else:
        with jax.enable_x64(True):
            clean, noisy = (schedule.t_from_logsnr(jnp.asarray(end)) for end in ends(schedule))
            logsnr = np.asarray(schedule.logsnr(jnp.linspace(clean, noisy, num_steps + 1)))
        wanted = entries * (0.5 * np.expm1(logsnr[:-1] - logsnr[1:]) * mmse(logsnr[1:])).sum()
    nats = np.asarray(nats, np.float64)
    assert abs(nats.mean() - wanted) < 4 * nats.std() / math.sqrt(count)
    assert abs(nats.mean() / wanted - 1) < 0.1  # the standard error is small enough to say something


@pytest.mark.parametrize(
    "schedule", [VPLinear(t_min=0.05), pytest.param(VE(), marks=pytest.mark.slow)], ids=lambda s: type(s).__name__
)
def test_more_steps_come_down_to_continuous_time(schedule):
    exact_limit = integral(schedule)
    excess = np.array([steps_total(schedule, count) - exact_limit for count in (1, 2, 8, 128, 512)])
    assert (excess > 0).all()
    assert (np.diff(excess) < 0).all()  # each grid holds the one before
    assert excess[-2] / excess[-1] == pytest.approx(4.0, rel=0.15)  # first order
    assert excess[-1] < 0.05 * excess[2]


@every_schedule
def test_the_prior_term_is_the_kl_of_two_gaussians(schedule, key):
    x0 = jax.random.normal(key, (5, 3))
    alpha, sigma = (np.float64(f(jnp.float32(schedule.t_max))) for f in (schedule.alpha, schedule.sigma))
    mean = alpha * np.asarray(x0, np.float64)
    kl = (np.log(sigma / sigma) + (sigma**2 + mean**2) / (2 * sigma**2) - 0.5).sum(1)
    got = bound.prior_kl(schedule, x0)
    np.testing.assert_allclose(got, kl, rtol=1e-5, atol=1e-7)
    if isinstance(schedule, Cosine | RectifiedFlow) and schedule.t_max == 1.0:
        np.testing.assert_array_equal(got, np.zeros(5))
    if isinstance(schedule, VE):
        np.testing.assert_allclose(got, (np.asarray(x0) ** 2).sum(1) / (2 * 50.0**2), rtol=1e-5)


def test_the_reconstruction_of_a_density_is_exact():
    schedule = VE(sigma_min=0.3, sigma_max=2.0)
    got = bound.reconstruction(schedule, jnp.ones((2, 3, 4)))
    # -log N(x0; z, .3^2) at z = x0 + .3 eps is quadratic in eps: eps = +-1 gives its mean.
    density = 0.5 * math.log(2 * math.pi * 0.09) + 0.5
    np.testing.assert_allclose(got, np.full(2, 12 * density), rtol=1e-6)


def test_the_reconstruction_of_levels_is_bayes_rule(key):
    """p(k | z) is proportional to the density of z given level k."""
    schedule, levels = VPLinear(t_min=0.05), 16
    index = jax.random.randint(key, (3, 5), 0, levels)
    x0 = 2 * index / (levels - 1) - 1
    got = bound.level_reconstruction(schedule, x0, jax.random.key(4), levels)
    alpha, sigma = (np.float64(f(jnp.float32(0.05))) for f in (schedule.alpha, schedule.sigma))
    noise = np.asarray(jax.random.normal(jax.random.key(4), x0.shape), np.float64)
    z = alpha * np.asarray(x0, np.float64) + sigma * noise
    grid = np.linspace(-1, 1, levels)
    density = np.exp(-((z[..., None] - alpha * grid) ** 2) / (2 * sigma**2))
    posterior = density / density.sum(-1, keepdims=True)
    p = np.take_along_axis(posterior, np.asarray(index)[..., None], -1)[..., 0]
    np.testing.assert_allclose(got, -np.log(p).sum(1), rtol=1e-3)
    assert got.min() > 0.1


def test_levels_are_certain_without_noise_and_unknown_in_noise(key):
    x0 = 2 * jax.random.randint(key, (4, 6), 0, 256) / 255 - 1
    for schedule in (Cosine(), EDM(sigma_min=1e-4)):  # logsnr 20 and 18: a level is 90 deviations wide, or 39
        assert bound.level_reconstruction(schedule, x0, key).max() < 1e-3
    unknown = bound.level_reconstruction(VE(sigma_min=1000.0, sigma_max=2000.0), x0, key)
    np.testing.assert_allclose(unknown, np.full(4, 6 * math.log(256)), rtol=1e-3)


@pytest.mark.parametrize(
    "schedule", [VE(sigma_min=0.3, sigma_max=2.0), VPLinear(), Cosine()], ids=lambda s: type(s).__name__
)
def test_the_bound_of_gaussian_data_lies_above_their_entropy_by_the_known_gap(schedule):
    """The model's process leaves noise at t_min and begins from a prior that the data do not quite reach."""
    count, entries = 20_000, 2
    x0 = MEAN + STD * jax.random.normal(jax.random.key(1), (count, entries))
    parts = bound.variational_bound(gaussian(schedule, entries), schedule, x0, None, jax.random.key(2))
    clean, noisy = ends(schedule)
    entropy = 0.5 * math.log(2 * math.pi * math.e * STD**2)
    gap = 0.5 * math.log1p(math.exp(-clean) / STD**2)
    snr = 0.0 if float(schedule.alpha(jnp.float32(schedule.t_max))) == 0 else math.exp(noisy)
    gap += 0.5 * (snr * (STD**2 + MEAN**2) - math.log1p(STD**2 * snr))
    assert gap >= 0
    total = np.asarray(parts.total, np.float64)
    np.testing.assert_allclose(total, parts.prior + parts.reconstruction + parts.diffusion, rtol=1e-5, atol=1e-5)
    assert abs(total.mean() - entries * (entropy + gap)) < 4 * total.std() / math.sqrt(count)


def test_the_bound_of_a_mixture_lies_above_its_density():
    schedule = VE(sigma_min=0.05, sigma_max=20.0)
    model = exact.mixture(schedule, jnp.array([[-1.0], [0.5]]), jnp.array([0.3, 0.2]), jnp.array([3.0, 1.0]))
    component, noise = jax.random.split(jax.random.key(0))
    which = jax.random.bernoulli(component, 0.25, (20_000, 1))
    x0 = jnp.where(which, 0.5, -1.0) + jnp.where(which, 0.2, 0.3) * jax.random.normal(noise, (20_000, 1))
    clean = exact.mixture(schedule, model.means, model.stds, jnp.array([3.0, 1.0]))

    def density(x, sigma):  # of the data with noise sigma
        z = (x - jnp.array([[-1.0, 0.5]])) ** 2 / (2 * (jnp.array([[0.09, 0.04]]) + sigma**2))
        norm = jnp.array([[0.75, 0.25]]) / jnp.sqrt(2 * jnp.pi * (jnp.array([[0.09, 0.04]]) + sigma**2))
        return (norm * jnp.exp(-z)).sum(1)

    excess = bound.variational_bound(clean, schedule, x0, None, jax.random.key(3)).total + jnp.log(density(x0, 0.0))
    error = float(excess.std()) / math.sqrt(20_000)
    assert -4 * error < float(excess.mean()) < 0.05 + 4 * error
    worse = from_x0(lambda xt, t, cond: 0.9 * model(xt, t).x0, schedule)
    wrong = bound.variational_bound(worse, schedule, x0, None, jax.random.key(3)).total + jnp.log(density(x0, 0.0))
    assert float(wrong.mean()) > float(excess.mean()) + 0.1


def test_the_condition_reaches_the_network_and_the_gradient_its_weights(key):
    x0 = jnp.ones((4, 2))

    def total(w):
        model = from_x0(lambda xt, t, cond: w * cond["mean"], Cosine(t_min=0.05))
        return bound.variational_bound(model, Cosine(t_min=0.05), x0, {"mean": x0}, key, num_steps=10).diffusion.mean()

    value, gradient = jax.jit(jax.value_and_grad(total))(0.5)
    assert float(value) > 1 and float(gradient) < -1
    assert float(jnp.abs(total(1.0))) < 1e-6  # x0 itself: no error at all


def test_times_are_stratified_and_keys_explicit(key):
    """One time in each n-th of the logsnr: the mean over 64 examples is far steadier than over independent times."""
    schedule, seen = VE(), []

    class Spy(AnyTime):
        def __call__(self, xt, t, cond):
            seen.append(t)
            return Prediction(xt, xt)

    for _ in range(2):
        bound.diffusion(Spy(), schedule, jnp.zeros((64, 1)), None, key)
    np.testing.assert_array_equal(seen[0], seen[1])
    t = np.sort(np.asarray(seen[0]))
    assert np.ptp(t - np.arange(64) / 64) < 1e-5  # VE is linear in logsnr
    np.testing.assert_allclose(np.sort(1 - np.asarray(times.strata(jax.random.fold_in(key, 0), 64))), t, atol=1e-5)


def test_bits_and_refusals(key):
    np.testing.assert_allclose(bound.bits_per_dim(jnp.array([12 * math.log(2.0)]), 6), [2.0], rtol=1e-6)
    model = gaussian(VE())
    for make, message in [
        (lambda: bound.bits_per_dim(jnp.ones(1), 0), "entries 0"),
        (lambda: bound.diffusion(model, VE(), jnp.ones((2, 1)), None, key, 0), "num_steps 0"),
        (lambda: bound.level_reconstruction(VE(), jnp.ones((2, 1)), key, 1), "levels 1"),
    ]:
        with pytest.raises(UserError, match=message):
            make()
    assert bound.variational_bound(model, VE(), jnp.ones((2, 1), jnp.bfloat16), None, key).total.dtype == jnp.float32
