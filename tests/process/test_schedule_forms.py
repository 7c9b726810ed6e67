"""Each schedule against its own closed form: the published tables, exploding variance, shifted and learned ones."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.process import (
    EDM,
    VE,
    Cosine,
    Discrete,
    RectifiedFlow,
    Shifted,
    SubVP,
    VPLinear,
    beta_table,
    denoiser,
    exact,
    from_pair,
    learned_gamma,
    precondition,
    sde,
    to_prediction,
)
from diffusion_jax.typing import UserError


def close(got, wanted, **tolerance):
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


def test_vp_linear_is_exact_near_its_end_in_float32():
    close(VPLinear().sigma(jnp.float32(1e-5)), np.sqrt(-np.expm1(-2 * (0.05e-5 + 0.25 * 19.9e-10))), rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(t=st.floats(0.0, 1.0))
def test_vp_linear_has_the_rates_of_its_beta(t):
    """f = -beta / 2 and g^2 = beta with beta = .1 + 19.9 t."""
    schedule, beta = VPLinear(), 0.1 + 19.9 * t
    close(sde.drift(schedule, jnp.float32(t)), -beta / 2)
    if t > 1e-3:
        close(sde.squared_diffusion(schedule, jnp.float32(t)), beta, rtol=2e-4)


def test_v_at_the_ends_is_eps_and_minus_x0(key):
    v, xt = jax.random.normal(key, (2, 2, 4))
    close(to_prediction("v", v, xt, 0.0, Cosine()).eps, v)
    close(to_prediction("v", v, xt, 1.0, Cosine()).x0, -v)


def test_sub_vp_is_the_published_process():
    """sigma = 1 - exp(-int beta) and g^2 = beta (1 - exp(-2 int beta))."""
    t = jnp.array([0.05, 0.3, 0.7, 1.0])
    beta, integral = 0.1 + 19.9 * t, 0.1 * t + 19.9 * t**2 / 2
    close(SubVP().sigma(t), 1 - np.exp(-np.asarray(integral, np.float64)))
    close(sde.squared_diffusion(SubVP(), t), beta * (1 - np.exp(-2 * np.asarray(integral, np.float64))), rtol=1e-4)


def test_ve_and_edm_have_their_ends():
    assert float(VE().sigma(0.0)) == pytest.approx(0.01, rel=1e-6)
    assert float(VE().sigma(1.0)) == pytest.approx(50.0, rel=1e-6)
    close(VE(0.1, 10.0).sigma(0.5), 1.0)
    assert float(EDM().sigma(0.0)) == 0.0
    close(EDM().sigma(EDM().t_min), 0.002)
    close(sde.prior_std(EDM()), 80.0)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine"])
def test_a_table_is_its_own_products(name):
    bars = np.cumprod(1 - beta_table(name))
    t = (np.arange(1000) + 1) / 1000
    close(Discrete(name).alpha(jnp.asarray(t, jnp.float32)) ** 2, bars, atol=1e-6)
    close(Discrete(name).sigma(jnp.asarray(t, jnp.float32)) ** 2, 1 - bars, rtol=2e-5)
    assert float(Discrete(name).sigma(0.0)) == 0.0
    close(Discrete(beta_table(name)).logsnr(0.5), Discrete(name).logsnr(0.5))


def test_zero_terminal_snr_keeps_the_first_step_and_loses_the_last():
    plain, rescaled = Discrete("scaled_linear"), Discrete("scaled_linear", zero_terminal_snr=True)
    close(rescaled.alpha(1e-3), plain.alpha(1e-3))
    assert float(rescaled.alpha(1.0)) == 0.0 and float(rescaled.sigma(1.0)) == 1.0
    with pytest.raises(UserError, match="'eps' cannot represent t = 1"):
        denoiser(lambda *a, **k: a[1], {}, rescaled, prediction="eps")
    with pytest.raises(UserError, match="'velocity' cannot represent t = 1"):
        denoiser(lambda *a, **k: a[1], {}, rescaled, prediction="velocity")


def test_another_table_does_not_recompile():
    at = jax.jit(lambda schedule, t: schedule.alpha(t))
    for start in (1e-4, 2e-4):
        at(Discrete(beta_start=start), jnp.float32(0.3))
    assert at._cache_size() == 1


def test_the_network_sees_the_index_of_the_table():
    seen = []

    def network(params, x, index, cond, *, key=None, train=False):
        seen.append(np.asarray(index))
        return x

    schedule = Discrete()
    model = denoiser(network, {}, schedule, prediction="v", time="index")
    for index in (0, 1, 57, 999):
        model(jnp.ones((2, 1)), jnp.float32((index + 1) / 1000))
        np.testing.assert_array_equal(seen[-1], [index, index])


@settings(max_examples=20, deadline=None)
@given(t=st.floats(0.0, 1.0), shift=st.floats(0.2, 8.0))
def test_a_shifted_flow_is_sd3s(t, shift):
    """t' = s t / (1 + (s - 1) t), arXiv 2403.03206, eq. 23."""
    later = shift * t / (1 + (shift - 1) * t)
    close(Shifted(RectifiedFlow(), shift).sigma(t), later)
    close(Shifted(RectifiedFlow(), shift).alpha(t), 1 - later)


def test_a_learned_gamma_trains_and_keeps_its_ends():
    schedule = learned_gamma(jax.random.key(1), logsnr_max=10.0, logsnr_min=-6.0)
    close(schedule.logsnr(jnp.array([0.0, 1.0])), [10.0, -6.0])
    grad = jax.grad(lambda s: s.logsnr(jnp.float32(0.5)))(schedule)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(grad))


def test_preconditioning_is_edms(key):
    """c_skip, c_out, c_in of arXiv 2206.00364, table 1, at alpha = 1; unit variance of the target; and back."""
    schedule, t, sd = EDM(), jnp.float32(0.02), 0.5
    sigma = float(schedule.sigma(t))
    xt, output = jax.random.normal(key, (2, 3, 4))
    pair = precondition.from_network(output, xt, t, schedule, sd)
    total = sigma**2 + sd**2
    close(pair.x0, sd**2 / total * xt + sigma * sd / np.sqrt(total) * output)
    close(precondition.c_in(schedule, xt, t, sd)[0, 0], 1 / np.sqrt(total))
    for schedule in (SubVP(), VE(), Discrete(), Shifted(RectifiedFlow(), 3.0)):
        x0, eps = jax.random.normal(key, (2, 3, 4))
        t = jnp.float32(0.3)
        target = precondition.network_target(x0, eps, t, schedule, sd)
        back = precondition.from_network(target, sde.noised(schedule, x0, eps, t), t, schedule, sd)
        close(back.x0, x0, rtol=1e-4, atol=1e-4)
        close(back.eps, eps, rtol=1e-4, atol=1e-4)
    close(precondition.network_target(x0, eps, t, VPLinear(), 1.0), -from_pair("v", x0, eps, t, VPLinear()))


def test_an_edm_network_sees_unit_variance_and_samples(key):
    schedule = EDM()
    data = exact.gaussian(schedule, jnp.zeros(3), 0.5)

    def network(params, x, c_noise, cond, *, key=None, train=False):
        # F of the exact denoiser of N(0, 0.5^2) is 0: c_skip alone is the posterior mean.
        return jnp.zeros_like(x)

    model = denoiser(network, {}, schedule, prediction="edm", time="c_noise", sigma_data=0.5)
    xt, t = 3.0 * jax.random.normal(key, (4, 3)), jnp.float32(0.05)
    close(model(xt, t).x0, data(xt, t).x0, rtol=1e-4)
    close(model(xt, t).eps, data(xt, t).eps, rtol=1e-4)


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
        (lambda: VE("a"), "sigma_min is the str 'a', not a number"),
        (lambda: EDM(sigma_max=None), "sigma_max is None, not a number"),
        (lambda: Discrete("linear", "10"), "num_steps .* is not a whole number of at least 2"),
        (lambda: Discrete("linear", beta_end="a"), "beta_end is the str 'a', not a number"),
        (lambda: Discrete(["a", "b"]), "betas is a list, not the name of a table"),
        (lambda: Shifted(RectifiedFlow(), "3"), "shift is the str '3', not a number"),
        (lambda: learned_gamma(jax.random.key(0), logsnr_max="a"), "logsnr_max is the str 'a', not a number"),
        (lambda: VE(sigma_min=2.0, sigma_max=1.0), "sigma_min 2.0 and sigma_max 1.0"),
        (lambda: EDM(sigma_min=0.0), "sigma_min 0.0"),
        (lambda: Discrete("liner"), "did you mean 'linear'"),
        (lambda: Discrete([0.1, 1.5]), r"betas\[1\] = 1.5 is not in"),
        (lambda: Discrete([0.1, 0.2], beta_start=0.1), "go with the name of a table"),
        (lambda: Shifted(RectifiedFlow(), 0.0), "shift 0.0"),
        (lambda: Shifted(SubVP(), 2.0), "SubVP cannot be shifted"),
        (lambda: learned_gamma(jax.random.key(0), logsnr_max=30.0), "logsnr_max 30.0"),
        (lambda: denoiser(lambda *a: a, {}, EDM(), prediction="edm", sigma_data=0.0), "sigma_data 0.0"),
    ],
)
def test_bad_input_is_named(make, message, monkeypatch):
    # Off: the suite's own checks of types, which a user does not have.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UserError, match=message):
        make()
