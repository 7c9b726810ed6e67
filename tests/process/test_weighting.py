"""Weightings: the same loss in every space, and each paper's formula."""

import functools

import jax
import jax.numpy as jnp
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
    exact,
    learned_gamma,
    simple,
    weighting,
)
from diffusion_jax.process.loss import denoising_loss, loss_at
from diffusion_jax.process.prediction import KINDS
from diffusion_jax.typing import UserError

SCHEDULES = {
    "VPLinear": VPLinear,
    "Cosine": Cosine,
    "RectifiedFlow": RectifiedFlow,
    "VE": VE,
    "EDM": EDM,
    "SubVP": SubVP,
    "Discrete": functools.partial(Discrete, "linear"),
    "Shifted": lambda: Shifted(Cosine(), 3.0),
}
every_schedule = pytest.mark.parametrize("schedule", [make() for make in SCHEDULES.values()], ids=list(SCHEDULES))
WEIGHTINGS = {
    "eps_simple": weighting.eps_simple(),
    "flow_matching": weighting.flow_matching(),
    "vlb": weighting.vlb(),
    "vlb_discrete": weighting.vlb_discrete(50),
    "likelihood": weighting.likelihood(),
    "edm": weighting.edm(),
    "min_snr": weighting.min_snr(),
    "p2": weighting.p2(1.0, 0.5),
    "sigmoid": weighting.sigmoid(),
}


def times_between(schedule, limit, count, dtype):
    """`count` times whose logsnr is within +-limit and inside the schedule's range."""
    ends = schedule.logsnr(jnp.asarray([schedule.t_max, schedule.t_min], dtype))
    low, high = max(-limit, float(ends[0])), min(limit, float(ends[1]))
    t = schedule.t_from_logsnr(jnp.linspace(low, high, count, dtype=dtype))
    return jnp.clip(t, schedule.t_min, schedule.t_max)


def in_spaces(weight, schedule, t):
    return np.array([weight.in_space(space, schedule, t) for space in KINDS])


def spread(schedule, limit, dtype, chosen=WEIGHTINGS):
    """For each weighting, the largest relative difference of an example's loss between two spaces."""
    x0 = jax.random.normal(jax.random.key(1), (12, 4), dtype)
    eps = jax.random.normal(jax.random.key(2), x0.shape, dtype)
    model = exact.mixture(schedule, jnp.array([[1.0, -0.5, 0.3, 0], [-0.7, 0.2, 0.9, 0]], dtype), jnp.array([0.3, 0.6]))
    t = times_between(schedule, limit, 12, dtype)
    plain = np.array([loss_at(model, schedule, x0, eps, t, weight=simple, space=space) for space in KINDS])
    found = {}
    for name, weight in chosen.items():
        losses = in_spaces(weight, schedule, t) * plain
        # At the first step of a discrete bound s is t, and the weight 0.
        positive = losses[0] > 0
        assert positive.sum() >= 10
        found[name] = (np.ptp(losses, axis=0) / np.maximum(losses.min(0), 1e-300))[positive].max()
    return found


@every_schedule
def test_a_weighting_gives_one_loss_in_every_space(schedule):
    assert max(spread(schedule, 6.0, jnp.float32).values()) < 1e-5
    with jax.enable_x64(True):
        assert max(spread(schedule, 15.0, jnp.float64).values()) < 1e-9


@every_schedule
def test_weights_are_finite_at_both_ends(schedule):
    ends = jnp.array([schedule.t_min, schedule.t_max], jnp.float32)
    for weight in (weighting.simple(), *WEIGHTINGS.values()):
        weights = in_spaces(weight, schedule, ends)
        assert np.shape(weights) == (len(KINDS), 2)
        assert np.isfinite(weights).all(), weight
        assert np.min(weights) >= 0, weight


@every_schedule
def test_likelihood_is_twice_the_bound(schedule):
    t = times_between(schedule, 12.0, 9, jnp.float32)
    # A sigmoid whose bias lies above every logsnr is 1.
    three = (weighting.vlb(), weighting.likelihood(), weighting.sigmoid(30.0))
    once, likelihood, flat = (in_spaces(weight, schedule, t) for weight in three)
    np.testing.assert_allclose(likelihood, 2 * once, rtol=1e-5)
    np.testing.assert_allclose(flat, 2 * once, rtol=2e-5)


@every_schedule
def test_the_bounds_weight_is_the_rate_of_logsnr(schedule):
    t = times_between(schedule, 10.0, 9, jnp.float32)[1:-1]
    rate = jax.jvp(schedule.logsnr, (t,), (jnp.ones_like(t),))[1]
    np.testing.assert_allclose(weighting.vlb().in_space("eps", schedule, t), -0.5 * rate, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(t=st.floats(0.01, 1.0))
def test_vp_linears_likelihood_weight_is_beta(t):
    got = weighting.likelihood().in_space("score", VPLinear(), jnp.float32(t))
    np.testing.assert_allclose(got, 0.1 + 19.9 * t, rtol=1e-4)


@pytest.mark.parametrize("schedule", [VPLinear(), Cosine(t_min=0.01), VE(), SubVP()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("steps", [3, 20])
def test_the_discrete_bounds_weights_telescope(schedule, steps):
    """On x0, T / 2 (SNR(s) - SNR(t)) over all steps is T / 2 times the difference of the ends."""
    with jax.enable_x64(True):
        t = jnp.arange(1, steps + 1, dtype=jnp.float64) / steps
        total = weighting.vlb_discrete(steps).in_space("x0", schedule, t).mean()
        ends = np.exp(np.asarray(schedule.logsnr(jnp.array([schedule.t_min, schedule.t_max], jnp.float64))))
        # Where alpha(1) is 0 its logsnr is clipped at -20.
        np.testing.assert_allclose(total, 0.5 * (ends[0] - ends[1]), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(SCHEDULES.keys() - {"Discrete"}))  # whose rates jump between two steps
def test_the_discrete_bound_becomes_the_continuous_one(name):
    schedule = SCHEDULES[name]()
    with jax.enable_x64(True):
        t = times_between(schedule, 5.0, 7, jnp.float64)[:-1]
        wanted = weighting.vlb().in_space("eps", schedule, t)
        errors = [
            float(jnp.abs(weighting.vlb_discrete(steps).in_space("eps", schedule, t) / wanted - 1).max())
            for steps in (10**5, 10**6)
        ]
    assert errors[1] < 1e-3
    assert errors[1] / errors[0] == pytest.approx(0.1, rel=0.05)  # first order


@every_schedule
def test_published_forms(schedule):
    t = times_between(schedule, 8.0, 9, jnp.float32)
    alpha, sigma, snr = schedule.alpha(t), schedule.sigma(t), jnp.exp(schedule.logsnr(t))
    rate = 2 * weighting.vlb().in_space("eps", schedule, t)
    ratio, sd = sigma / alpha, 0.3
    close = functools.partial(np.testing.assert_allclose, rtol=3e-5)
    close(weighting.edm(sd).in_space("x0", schedule, t), (ratio**2 + sd**2) / (ratio * sd) ** 2)
    close(weighting.min_snr(3.0).in_space("x0", schedule, t), jnp.minimum(snr, 3.0))
    close(weighting.min_snr(3.0).in_space("eps", schedule, t), jnp.minimum(snr, 3.0) / snr)
    close(
        weighting.min_snr(3.0).in_space("v", schedule, t),
        jnp.minimum(snr, 3.0) / ((snr + 1) * (alpha**2 + sigma**2)),
    )
    close(weighting.p2(2.0, 0.7).in_space("eps", schedule, t), 1 / (2.0 + snr) ** 0.7)
    close(weighting.sigmoid(-1.0).in_space("eps", schedule, t), rate * jax.nn.sigmoid(-1.0 - schedule.logsnr(t)))
    close(weighting.eps_simple().in_space("x0", schedule, t), snr)
    if isinstance(schedule, RectifiedFlow):  # eps - eps_hat = alpha (u - u_hat) on straight lines
        close(weighting.flow_matching().in_space("eps", schedule, t), (1 - t) ** -2.0)


def test_simple_is_one_wherever_the_loss_is_measured(key):
    schedule, x0 = Cosine(), jax.random.normal(key, (8, 3))
    model = exact.gaussian(schedule, jnp.zeros(3), 0.5)
    for space in KINDS:
        got = denoising_loss(model, schedule, x0, None, key, weight=weighting.simple(), space=space)
        np.testing.assert_array_equal(got, denoising_loss(model, schedule, x0, None, key, weight=simple, space=space))


@pytest.mark.parametrize("space", KINDS)
def test_the_loss_is_the_plain_one_times_the_weight_of_its_space(space, key):
    schedule, t = VPLinear(), jnp.array([0.1, 0.5, 0.9])
    x0, eps = jax.random.normal(key, (2, 3, 4))
    model, weight = exact.gaussian(schedule, jnp.zeros(4), 0.5), weighting.min_snr()
    got = loss_at(model, schedule, x0, eps, t, weight=weight, space=space)
    plain = loss_at(model, schedule, x0, eps, t, space=space)
    np.testing.assert_allclose(got, plain * weight.in_space(space, schedule, t), rtol=1e-6)

    def drawn(weight):
        return denoising_loss(
            model, schedule, x0, None, key, sample_t=lambda key, n, schedule: t, weight=weight, space=space
        )

    np.testing.assert_allclose(drawn(weight), drawn(simple) * weight.in_space(space, schedule, t), rtol=1e-6)


def test_a_plain_function_weighs_the_loss_space_as_it_is(key):
    schedule, x0 = Cosine(), jax.random.normal(key, (8, 3))
    model = exact.gaussian(schedule, jnp.zeros(3), 0.5)
    plain = denoising_loss(model, schedule, x0, None, key, space="eps")
    got = denoising_loss(model, schedule, x0, None, key, weight=lambda logsnr: jnp.exp(-logsnr / 9), space="eps")
    assert float(jnp.abs(got / plain - 1).max()) > 0.1
    by_eps = denoising_loss(model, schedule, x0, None, key, weight=weighting.eps_simple(), space="eps")
    np.testing.assert_array_equal(by_eps, plain)


def test_weightings_are_values():
    assert weighting.min_snr() == weighting.min_snr(5.0)
    assert weighting.min_snr() != weighting.min_snr(4.0)
    assert len({weighting.vlb(), weighting.vlb(), weighting.likelihood()}) == 2
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def weights(weight, t):
        traced.append(weight.name)
        return weight.in_space("v", Cosine(), t)

    weights(weighting.p2(), jnp.ones(2) / 2)
    weights(weighting.p2(1.0), jnp.ones(2) / 3)
    assert traced == ["p2"]
    assert "min_snr" in repr(weighting.min_snr())


def test_a_learned_schedule_learns_from_its_weight():
    schedule = learned_gamma(jax.random.key(0), hidden=4)
    assert spread(schedule, 4.0, jnp.float32, {"vlb": weighting.vlb()})["vlb"] < 1e-5

    def total(schedule):
        return weighting.vlb().in_space("eps", schedule, jnp.linspace(0, 1, 5)).sum()

    gradient = jax.grad(total)(schedule)
    leaves = jax.tree.leaves(gradient)
    assert all(jnp.isfinite(leaf).all() for leaf in leaves)
    assert max(float(jnp.abs(leaf).max()) for leaf in leaves) > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: weighting.min_snr(0.0), "gamma 0.0 of weighting 'min_snr' is not above 0"),
        (lambda: weighting.vlb_discrete(0), "num_steps 0"),
        (lambda: weighting.edm(-1.0), "sigma_data -1.0"),
        (lambda: weighting.Weighting("mine", "epsilon", weighting.vlb().function), "did you mean 'eps'"),
        (lambda: weighting.vlb().in_space("velocty", Cosine(), jnp.ones(2)), "did you mean 'velocity'"),
    ],
)
def test_bad_weightings_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
