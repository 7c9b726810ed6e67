"""Schedules and what is derived from them, against closed forms."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.process import Cosine, RectifiedFlow, SubVP, VPLinear, from_pair, sde, to_prediction
from diffusion_jax.process.prediction import KINDS
from diffusion_jax.typing import Prediction, Schedule, UserError

SCHEDULES = [VPLinear(), Cosine(), RectifiedFlow()]
IDS = [type(s).__name__ for s in SCHEDULES]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=IDS)
TIMES = st.floats(0.01, 0.99)


def close(got, wanted, **tolerance):
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


@every_schedule
def test_a_schedule_is_a_schedule_and_a_pytree_without_leaves(schedule):
    assert isinstance(schedule, Schedule)
    assert jax.tree.leaves(schedule) == []
    assert hash(schedule) == hash(type(schedule)())


@pytest.mark.parametrize("schedule", [VPLinear(), Cosine()], ids=["VPLinear", "Cosine"])
@settings(max_examples=25, deadline=None)
@given(t=st.floats(0, 1))
def test_variance_is_preserved(schedule, t):
    close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1.0)


@every_schedule
@settings(max_examples=25, deadline=None)
@given(t=TIMES)
def test_logsnr_is_the_logarithm_and_its_inverse_inverts(schedule, t):
    alpha, sigma = np.float64(schedule.alpha(t)), np.float64(schedule.sigma(t))
    close(schedule.logsnr(t), 2 * np.log(alpha / sigma), atol=2e-5)
    close(schedule.t_from_logsnr(schedule.logsnr(t)), t, rtol=2e-5)


@every_schedule
def test_logsnr_falls_in_time(schedule):
    assert (np.diff(np.asarray(schedule.logsnr(jnp.linspace(0, 1, 101)))) < 0).all()


def test_end_points_in_float32():
    t = jnp.float32(1e-5)
    close(VPLinear().sigma(t), np.sqrt(-np.expm1(-2 * (0.05e-5 + 0.25 * 19.9e-10))), rtol=1e-6)
    for schedule in SCHEDULES:
        assert float(schedule.alpha(jnp.float32(0))) == 1.0
        assert float(schedule.sigma(jnp.float32(0))) == 0.0
        assert float(schedule.logsnr(jnp.float32(0))) == 20.0
    for schedule in (Cosine(), RectifiedFlow()):
        assert float(schedule.alpha(jnp.float32(1))) == 0.0
        assert float(schedule.logsnr(jnp.float32(1))) == -20.0
    for dtype in (jnp.bfloat16, jnp.float16):
        ends = jnp.array([0, 1], dtype)
        for schedule in SCHEDULES:
            assert jnp.isfinite(schedule.alpha(ends)).all()
            assert (schedule.alpha(ends) >= 0).all()
            assert jnp.isfinite(schedule.sigma(ends)).all()


@settings(max_examples=25, deadline=None)
@given(t=st.floats(0.0, 1.0))
def test_vp_linear_has_the_rates_of_its_beta(t):
    """f = -beta / 2 and g^2 = beta with beta = .1 + 19.9 t."""
    schedule, beta = VPLinear(), 0.1 + 19.9 * t
    close(sde.drift(schedule, jnp.float32(t)), -beta / 2)
    if t > 1e-3:
        close(sde.squared_diffusion(schedule, jnp.float32(t)), beta, rtol=2e-4)


@every_schedule
@settings(max_examples=15, deadline=None)
@given(t=st.floats(0.02, 0.98))
def test_squared_diffusion_is_minus_sigma_squared_logsnr_rate(schedule, t):
    rate = jax.jvp(schedule.logsnr, (jnp.float32(t),), (jnp.float32(1),))[1]
    close(sde.squared_diffusion(schedule, jnp.float32(t)), -(schedule.sigma(t) ** 2) * rate, rtol=1e-4)


@every_schedule
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


@every_schedule
def test_velocity_is_the_derivative_of_the_path(schedule, key):
    x0, eps = jax.random.normal(key, (2, 3, 4))
    t = jnp.array([0.2, 0.5, 0.9])

    def path(t):
        return sde.expand(schedule.alpha(t), x0) * x0 + sde.expand(schedule.sigma(t), x0) * eps

    wanted = jax.jvp(path, (t,), (jnp.ones_like(t),))[1]
    close(sde.velocity(schedule, Prediction(x0, eps), t), wanted)
    close(from_pair("velocity", x0, eps, t, schedule), wanted)
    close(sde.score(schedule, Prediction(x0, eps), t), -eps / sde.expand(schedule.sigma(t), eps))


@every_schedule
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(t=st.floats(0.05, 0.95), seed=st.integers(0, 2**31 - 1))
def test_every_prediction_leads_back_to_the_pair(schedule, kind, t, seed):
    x0, eps = jnp.asarray(np.random.default_rng(seed).normal(size=(2, 3, 4)).astype(np.float32))
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    xt = alpha * x0 + sigma * eps
    pair = to_prediction(kind, from_pair(kind, x0, eps, t, schedule), xt, t, schedule)
    # x0 from eps is as exact as the division by alpha allows, and eps from x0 by sigma.
    close(pair.x0, x0, rtol=1e-4, atol=2e-6 / float(alpha))
    close(pair.eps, eps, rtol=1e-4, atol=2e-6 / float(sigma))
    close(alpha * pair.x0 + sigma * pair.eps, xt, atol=5e-6)


@every_schedule
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_predictions_are_finite_at_both_ends_and_trained_ones_are_kept(schedule, dtype, key):
    xt, output = jax.random.normal(key, (2, 2, 4), dtype)
    for t in (schedule.t_min, schedule.t_max):
        for kind in KINDS:
            pair = to_prediction(kind, output, xt, t, schedule)
            assert pair.x0.dtype == pair.eps.dtype == jnp.float32
            assert jnp.isfinite(pair.x0).all()
            assert jnp.isfinite(pair.eps).all()
        np.testing.assert_array_equal(to_prediction("eps", output, xt, t, schedule).eps, output.astype(jnp.float32))
        np.testing.assert_array_equal(to_prediction("x0", output, xt, t, schedule).x0, output.astype(jnp.float32))


def test_v_at_the_ends_is_eps_and_minus_x0(key):
    v, xt = jax.random.normal(key, (2, 2, 4))
    close(to_prediction("v", v, xt, 0.0, Cosine()).eps, v)
    close(to_prediction("v", v, xt, 1.0, Cosine()).x0, -v)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VPLinear("a"), "beta_min is the str 'a', not a number"),
        (lambda: VPLinear(t_max=None), "t_max is None, not a number"),
        (lambda: SubVP(beta_max=[1.0]), "beta_max is a list, not a number"),
        (lambda: Cosine(True), "t_min is the bool True, not a number"),
        (lambda: RectifiedFlow(jnp.ones(2)), "t_min is an array of float32 of shape"),
        (lambda: VPLinear(t_min=0.5, t_max=0.5), "t_min 0.5 and t_max 0.5"),
        (lambda: Cosine(t_max=1.5), "t_max 1.5"),
        (lambda: RectifiedFlow(t_min=-0.1), "t_min -0.1"),
        (lambda: VPLinear(beta_min=2.0, beta_max=1.0), "beta_min 2.0 and beta_max 1.0"),
        (lambda: to_prediction("epsilon", jnp.ones((1, 1)), jnp.ones((1, 1)), 0.5, Cosine()), "did you mean 'eps'"),
    ],
)
def test_bad_input_is_named(make, message, monkeypatch):
    # Off: the suite's own checks of types, which a user does not have.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UserError, match=message):
        make()
