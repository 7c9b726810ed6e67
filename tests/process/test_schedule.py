"""Every schedule of the table, and one of a user's: what alpha, sigma, logsnr and their rates have to do with each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from own import Parabola

from diffusion_jax import build
from diffusion_jax.process import (
    EDM,
    VE,
    Cosine,
    Discrete,
    RectifiedFlow,
    Shifted,
    SubVP,
    VPLinear,
    from_pair,
    learned_gamma,
    sde,
    to_prediction,
)
from diffusion_jax.process.prediction import KINDS
from diffusion_jax.process.truncated import Truncated
from diffusion_jax.typing import Prediction, Schedule

FIRST = {"VPLinear": VPLinear(), "Cosine": Cosine(), "RectifiedFlow": RectifiedFlow()}
"""Those of the closest tolerances, as nothing in them is looked up, shifted or large."""
SCHEDULES = {
    **FIRST,
    "SubVP": SubVP(),
    "VE": VE(),
    "EDM": EDM(),
    "Discrete": Discrete(),
    "scaled": Discrete("scaled_linear"),
    "cosine": Discrete("cosine"),
    "zero SNR": Discrete(zero_terminal_snr=True),
    "shifted flow": Shifted(RectifiedFlow(), 3.0),
    "shifted cosine": Shifted(Cosine(), 2.0),
    "shifted VE": Shifted(VE(), 2.0),
    "truncated": Truncated(Cosine(), 0.01),
    "learned": learned_gamma(jax.random.key(0)),
    "a user's": Parabola(),
}
every = pytest.mark.parametrize("name", SCHEDULES)
first = pytest.mark.parametrize("schedule", FIRST.values(), ids=FIRST)
COUNT = 24
"""Of times in each array, so that one compiled operation serves all schedules."""


def close(got, wanted, **tolerance):
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


def between(low, high, seed=0):
    """The ends, and random times between them."""
    inner = np.random.default_rng(seed).uniform(low, high, COUNT - 2)
    return jnp.asarray(np.sort(np.concatenate([[low, high], inner])), jnp.float32)


def test_every_name_of_the_table_is_here():
    made = [make for make in build.SCHEDULES.values() if isinstance(make, type)]
    assert {type(schedule) for schedule in SCHEDULES.values()} >= {*made, Shifted}
    assert len(made) == len(build.SCHEDULES) - 1


@every
def test_a_schedule_is_a_schedule(name):
    schedule = SCHEDULES[name]
    assert isinstance(schedule, Schedule)
    assert 0 <= schedule.t_min < schedule.t_max <= 1
    if isinstance(schedule, VPLinear | Cosine | RectifiedFlow | SubVP | VE | EDM):
        assert jax.tree.leaves(schedule) == []
        assert hash(schedule) == hash(type(schedule)())


@pytest.mark.parametrize("schedule", [VPLinear(), Cosine(), Discrete()], ids=["VPLinear", "Cosine", "Discrete"])
def test_variance_is_preserved(schedule):
    for seed in range(3):
        t = between(0.0, 1.0, seed)
        close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1.0)


@every
def test_logsnr_is_the_logarithm_falls_and_inverts(name):
    schedule = SCHEDULES[name]
    for seed in range(2):
        t = between(max(schedule.t_min, 0.01), 0.99, seed)
        logsnr = schedule.logsnr(t)
        limit = 2e-5 if name in FIRST else 3e-5
        close(logsnr, 2 * np.log(np.asarray(schedule.alpha(t), np.float64) / schedule.sigma(t)), atol=limit)
        close(schedule.t_from_logsnr(logsnr), t, rtol=limit)
    ends = (0, 1) if name in FIRST else (max(schedule.t_min, 0.01), 0.99)
    assert (np.diff(np.asarray(schedule.logsnr(jnp.linspace(*ends, 101)))) < 0).all()


@every
def test_a_schedule_has_its_limits(name):
    """Exactly clean at t = 0 and noise alone at t = 1 where it says so; finite in every type of floats."""
    schedule = SCHEDULES[name]
    ends = jnp.array([0.0, 1.0], jnp.float32)
    alpha, sigma, logsnr = (np.asarray(f(ends)) for f in (schedule.alpha, schedule.sigma, schedule.logsnr))
    assert ((alpha[0], sigma[0]) == (1, 0)) == (sigma[0] == 0) == schedule.clean
    assert (alpha[1] == 0) == (logsnr[1] == -20) == schedule.pure_noise
    if schedule.clean and not isinstance(schedule, Shifted):  # whose logsnr is the base's clipped one, less the shift
        assert logsnr[0] == 20
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        alpha, sigma, logsnr = (f(ends.astype(dtype)) for f in (schedule.alpha, schedule.sigma, schedule.logsnr))
        assert jnp.isfinite(alpha).all() and (alpha >= 0).all()
        assert jnp.isfinite(sigma).all() and (sigma >= 0).all()
        assert (jnp.abs(logsnr) <= 20).all()


@every
def test_the_rates_belong_together(name):
    """g^2 = -sigma^2 logsnr', and d/dt of alpha and sigma by central differences in float64."""
    schedule = SCHEDULES[name]
    with jax.enable_x64(True):
        t = jnp.array([0.1234, 0.4567, 0.8765])
        rate = jax.jvp(schedule.logsnr, (t,), (jnp.ones(3),))[1]
        close(sde.squared_diffusion(schedule, t), -(schedule.sigma(t) ** 2) * rate, rtol=1e-8)
        step = 1e-6
        wanted = [(f(t + step) - f(t - step)) / (2 * step) for f in (schedule.alpha, schedule.sigma)]
        for got, want in zip(sde.rates(schedule, t), wanted, strict=True):
            close(got, want, rtol=1e-5, atol=1e-7)


@first
def test_squared_diffusion_is_minus_sigma_squared_logsnr_rate(schedule):
    t = between(0.02, 0.98)
    rate = jax.jvp(schedule.logsnr, (t,), (jnp.ones_like(t),))[1]
    close(sde.squared_diffusion(schedule, t), -(schedule.sigma(t) ** 2) * rate, rtol=1e-4)


@first
def test_the_forward_sde_has_the_schedules_mean_and_variance(schedule):
    """Exact recursions: m' = f m and V' = 2 f V + g^2, integrated, give alpha and sigma^2."""
    with jax.enable_x64(True):
        ts = jnp.linspace(0.01, 0.9, 4001, dtype=jnp.float64)
        f, g2 = sde.drift(schedule, ts), sde.squared_diffusion(schedule, ts)
        dt = np.diff(ts)
        growth = np.concatenate([[0], np.cumsum((np.asarray(f)[1:] + np.asarray(f)[:-1]) / 2 * dt)])
        mean = schedule.alpha(ts[0]) * np.exp(growth)
        close(mean, schedule.alpha(ts), rtol=1e-5)
        inner = np.asarray(g2) * np.exp(-2 * growth)
        integral = np.concatenate([[0], np.cumsum((inner[1:] + inner[:-1]) / 2 * dt)])
        variance = np.exp(2 * growth) * (float(schedule.sigma(ts[0])) ** 2 + integral)
        close(variance, schedule.sigma(ts) ** 2, rtol=1e-5)


@first
def test_velocity_is_the_derivative_of_the_path(schedule, key):
    x0, eps = jax.random.normal(key, (2, 3, 4))
    t = jnp.array([0.2, 0.5, 0.9])

    def path(t):
        return sde.expand(schedule.alpha(t), x0) * x0 + sde.expand(schedule.sigma(t), x0) * eps

    wanted = jax.jvp(path, (t,), (jnp.ones_like(t),))[1]
    close(sde.velocity(schedule, Prediction(x0, eps), t), wanted)
    close(from_pair("velocity", x0, eps, t, schedule), wanted)
    close(sde.score(schedule, Prediction(x0, eps), t), -eps / sde.expand(schedule.sigma(t), eps))


@every
@pytest.mark.parametrize("kind", KINDS)
def test_every_prediction_leads_back_to_the_pair(name, kind):
    schedule, t = SCHEDULES[name], between(0.05, 0.95)
    x0, eps = jnp.asarray(np.random.default_rng(1).normal(size=(2, COUNT, 3)).astype(np.float32))
    alpha, sigma = (np.asarray(f(t))[:, None] for f in (schedule.alpha, schedule.sigma))
    xt = alpha * x0 + sigma * eps
    pair = to_prediction(kind, from_pair(kind, x0, eps, t, schedule), xt, t, schedule)
    # x0 from eps is as exact as the division by alpha allows, and eps from x0 by sigma.
    unit = 2e-6 if name in FIRST else 5e-6 * np.maximum(alpha, sigma)
    assert (np.abs(pair.x0 - x0) <= unit / alpha + 1e-4 * np.abs(x0)).all()
    assert (np.abs(pair.eps - eps) <= unit / sigma + 1e-4 * np.abs(eps)).all()
    if name in FIRST:
        close(alpha * pair.x0 + sigma * pair.eps, xt, atol=5e-6)


@every
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_predictions_are_finite_at_both_ends_and_trained_ones_are_kept(name, dtype, key):
    schedule = SCHEDULES[name]
    xt, output = jax.random.normal(key, (2, 2, 4), dtype)
    t = jnp.array([schedule.t_min, schedule.t_max])
    for kind in KINDS:
        if kind == "velocity" and name == "zero SNR":
            continue  # which `denoiser` refuses
        pair = to_prediction(kind, output, xt, t, schedule)
        assert pair.x0.dtype == pair.eps.dtype == jnp.float32
        assert jnp.isfinite(pair.x0).all() and jnp.isfinite(pair.eps).all()
        if kind in ("eps", "x0"):
            np.testing.assert_array_equal(getattr(pair, kind), output.astype(jnp.float32))
