"""Denoisers, exact ones, training times and the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.process import (
    Cosine,
    RectifiedFlow,
    VPLinear,
    denoiser,
    denoising_loss,
    exact,
    from_pair,
    from_x0,
    times,
)
from diffusion_jax.process.sde import expand
from diffusion_jax.typing import DenoiseFn, UserError

SCHEDULES = [VPLinear(), Cosine(), RectifiedFlow()]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


def two_blobs(schedule):
    means = jnp.array([[1.0, -0.5, 0.3], [-0.7, 0.2, 0.9]])
    return exact.mixture(schedule, means, jnp.array([0.3, 0.6]), jnp.array([1.0, 3.0]))


@every_schedule
@pytest.mark.parametrize("t", [0.05, 0.4, 0.95])
def test_the_exact_denoiser_is_tweedies_formula(schedule, t, key):
    """score = -eps_hat / sigma is the gradient of the log density, and alpha x0_hat + sigma eps_hat = xt."""
    model = two_blobs(schedule)
    xt = jax.random.normal(key, (5, 3))
    pair = model(xt, jnp.float32(t))
    score = jax.grad(lambda x: model.log_density(x, jnp.float32(t)).sum())(xt)
    np.testing.assert_allclose(-pair.eps / schedule.sigma(t), score, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(schedule.alpha(t) * pair.x0 + schedule.sigma(t) * pair.eps, xt, rtol=1e-5, atol=1e-5)


def test_one_gaussian_has_the_closed_form(key):
    schedule, mean, std, t = VPLinear(), 0.7, 0.5, jnp.array([0.1, 0.6, 0.9, 1.0])
    alpha, sigma = (f(t)[:, None] for f in (schedule.alpha, schedule.sigma))
    xt = jax.random.normal(key, (4, 2))
    variance = alpha**2 * std**2 + sigma**2
    pair = exact.gaussian(schedule, jnp.full(2, mean), std)(xt, t)
    np.testing.assert_allclose(pair.x0, mean + alpha * std**2 * (xt - alpha * mean) / variance, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pair.eps, sigma * (xt - alpha * mean) / variance, rtol=1e-5, atol=1e-6)


def test_a_point_set_is_a_softmax_over_its_points(key):
    points, t, schedule = jax.random.normal(key, (6, 2)), 0.5, Cosine()
    xt = jax.random.normal(jax.random.fold_in(key, 1), (4, 2))
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    distances = np.sum((np.asarray(xt)[:, None] - alpha * np.asarray(points)[None]) ** 2, -1)
    weights = np.exp(-distances / (2 * sigma**2))
    wanted = weights @ np.asarray(points) / weights.sum(1, keepdims=True)
    np.testing.assert_allclose(exact.point_set(schedule, points)(xt, jnp.float32(t)).x0, wanted, rtol=1e-4, atol=1e-5)


def test_a_network_is_read_as_its_prediction_and_sees_the_time_asked_for(key):
    """A network that gives the true target, whatever it is called, gives the exact pair."""
    x0, eps = jax.random.normal(key, (2, 3, 4))
    schedule, t = VPLinear(), jnp.float32(0.4)
    xt = schedule.alpha(t) * x0 + schedule.sigma(t) * eps
    for kind in ("x0", "eps", "v", "score", "velocity"):
        for name, seen in {
            "t": 0.4,
            "t1000": 400.0,
            "logsnr": schedule.logsnr(t),
            "c_noise": -schedule.logsnr(t) / 8,
        }.items():

            def apply(params, x, time, cond, *, key, train):
                np.testing.assert_allclose(time, np.full(3, seen), rtol=1e-5)  # noqa: B023
                return params["target"]

            target = from_pair(kind, x0, eps, t, schedule)
            model = denoiser(apply, {"target": target}, schedule, prediction=kind, time=name)
            assert isinstance(model, DenoiseFn)
            pair = model(xt, t)
            np.testing.assert_allclose(pair.x0, x0, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(pair.eps, eps, rtol=1e-4, atol=1e-5)


def test_a_denoiser_is_a_pytree_whose_leaves_are_its_weights():
    model = denoiser(lambda *a, **k: a[1], {"w": jnp.ones(3)}, Cosine())
    assert [leaf.shape for leaf in jax.tree.leaves(model)] == [(3,)]
    doubled = jax.tree.map(lambda w: 2 * w, model)
    assert float(doubled.params["w"][0]) == 2.0
    assert doubled.apply is model.apply


def test_from_x0_completes_the_pair():
    model = from_x0(lambda xt, t, cond: 0.5 * xt, RectifiedFlow())
    pair = model(jnp.ones((2, 3)), jnp.float32(0.5))
    np.testing.assert_allclose(pair.eps, np.full((2, 3), (1 - 0.25) / 0.5), rtol=1e-6)


def test_a_prediction_that_the_schedule_cannot_represent_is_refused():
    for schedule in (Cosine(), RectifiedFlow()):
        for kind in ("eps", "score"):
            with pytest.raises(UserError, match=f"{kind}.*t = 1.0 under {type(schedule).__name__}"):
                denoiser(lambda *a, **k: a[1], {}, schedule, prediction=kind)
    denoiser(lambda *a, **k: a[1], {}, Cosine(t_max=0.99), prediction="eps")
    denoiser(lambda *a, **k: a[1], {}, VPLinear(), prediction="eps")
    with pytest.raises(UserError, match="did you mean 'logsnr'"):
        denoiser(lambda *a, **k: a[1], {}, Cosine(), time="log_snr")


@settings(max_examples=20, deadline=None)
@given(n=st.sampled_from([1, 2, 7, 49, 98, 103, 256]), seed=st.integers(0, 2**31 - 1))
def test_stratified_times_fill_every_stratum_once(n, seed):
    t = np.asarray(times.stratified(jax.random.key(seed), n, Cosine()))
    assert t.shape == (n,)
    # float32 may round a time onto the edge of its stratum: compare the sorted offsets from an even spacing
    offsets = np.sort(t) - np.arange(n) / n
    assert np.ptp(offsets) < 1e-5
    assert (t >= 0).all()
    assert (t <= 1).all()


@pytest.mark.parametrize("sample_t", [times.uniform, times.stratified, times.logit_normal])
def test_times_stay_in_the_schedules_range_and_have_their_mean(sample_t):
    schedule = VPLinear(t_min=0.2, t_max=0.8)
    t = np.asarray(sample_t(jax.random.key(0), 20_000, schedule))
    assert t.min() >= 0.2
    assert t.max() <= 0.8
    assert abs(t.mean() - 0.5) < 4 * 0.2 / np.sqrt(20_000)


def test_logit_normal_has_its_quantiles():
    t = np.asarray(times.logit_normal(jax.random.key(0), 40_000, Cosine(), 0.5, 2.0))
    logit = np.log(t / (1 - t))
    assert abs(logit.mean() - 0.5) < 4 * 2 / np.sqrt(40_000)
    assert abs(logit.std() - 2.0) < 4 * 2 / np.sqrt(80_000)


@every_schedule
def test_the_spaces_of_the_loss_differ_by_their_known_factors(schedule, key):
    """With w(logsnr) chosen to undo the factor, eps, x0, v and velocity losses are equal example by example."""
    x0 = jax.random.normal(key, (16, 4))
    model = two_blobs(schedule)
    x0 = x0[:, :3]

    def middle(key, n, schedule):
        return jnp.linspace(0.1, 0.9, n)

    def loss(space, weight):
        return denoising_loss(model, schedule, x0, None, key, sample_t=middle, weight=weight, space=space)

    t = jnp.linspace(0.1, 0.9, 16)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    rates = [jax.jvp(f, (t,), (jnp.ones_like(t),))[1] for f in (schedule.alpha, schedule.sigma)]
    eps = loss("eps", jnp.ones_like)
    np.testing.assert_allclose(loss("x0", lambda logsnr: jnp.exp(logsnr)), eps, rtol=1e-4)
    np.testing.assert_allclose(loss("v", lambda _: (alpha / (alpha**2 + sigma**2)) ** 2), eps, rtol=1e-4)
    # dvelocity = alpha' dx0 + sigma' deps with dx0 = -(sigma / alpha) deps
    factor = rates[1] - rates[0] * sigma / alpha
    np.testing.assert_allclose(loss("velocity", lambda _: factor**-2), eps, rtol=1e-4)
    np.testing.assert_allclose(loss("score", lambda _: sigma**2), eps, rtol=1e-4)


def test_the_loss_of_the_exact_denoiser_is_its_bayes_error():
    """For N(m, s^2), E|eps - eps_hat|^2 = alpha^2 s^2 / V in every coordinate."""
    schedule, std = Cosine(), 0.5
    model = exact.gaussian(schedule, jnp.full(8, 0.7), std)
    x0 = 0.7 + std * jax.random.normal(jax.random.key(1), (20_000, 8))
    t = jnp.float32(0.3)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    loss = denoising_loss(
        model, schedule, x0, None, jax.random.key(2), sample_t=lambda k, n, s: jnp.full(n, t), space="eps"
    )
    wanted = alpha**2 * std**2 / (alpha**2 * std**2 + sigma**2)
    assert abs(float(loss.mean() - wanted)) < 5 * float(loss.std()) / np.sqrt(20_000)


def test_the_gradient_flows_to_the_weights_and_cond_reaches_the_network(key):
    def apply(params, x, time, cond, *, key, train):
        return params["w"] * x + expand(cond["shift"], x)

    def total(w, shift):
        model = denoiser(apply, {"w": w}, Cosine())
        return denoising_loss(model, Cosine(), jnp.ones((4, 2)), {"shift": shift}, key).mean()

    gradients = jax.grad(total, (0, 1))(jnp.float32(0.3), jnp.ones(4))
    assert all(jnp.abs(g).min() > 1e-3 for g in gradients)


@pytest.mark.parametrize("n", [1, 3, 49, 98, 103, 107, 161, 256])
def test_stratified_times_put_one_in_each_bin(n):
    """Not n + 1 times, and none of the n bins empty; an edge may round to its neighbour by an ulp."""
    for seed in range(20):
        t = np.sort(np.asarray(times.stratified(jax.random.key(seed), n, Cosine()), np.float64))
        assert t.shape == (n,)
        inside = t * n - np.arange(n)
        assert inside.min() > -1e-4
        assert inside.max() < 1 + 1e-4


def test_a_stratified_time_is_uniform_by_itself():
    first = jax.vmap(lambda k: times.stratified(k, 7, Cosine())[0])(jax.random.split(jax.random.key(0), 20_000))
    counts, _ = np.histogram(np.asarray(first), 10, (0, 1))
    assert ((counts - 2000) ** 2 / 2000).sum() < 30  # chi-square of 9 degrees: above 30 once in 2,000


@every_schedule
def test_exact_denoisers_are_finite_from_end_to_end(schedule, key):
    """With all times in one batch, under jit and vmap, and in half precision."""
    points = jax.random.normal(key, (6, 3))
    for model in (exact.point_set(schedule, points), two_blobs(schedule)):
        ts = jnp.linspace(schedule.t_min, schedule.t_max, 9)
        xt = jax.random.normal(key, (9, 3))
        pair = jax.jit(lambda m, x, t: m(x, t))(model, xt, ts)
        assert jnp.isfinite(pair.x0).all()
        assert jnp.isfinite(pair.eps).all()
        for i in range(0, 9, 4):
            np.testing.assert_allclose(model(xt[i : i + 1], ts[i]).x0[0], pair.x0[i], rtol=1e-5, atol=1e-5)
        x0 = jax.vmap(lambda x, t: model(x[None], t).x0[0])(xt, ts)  # noqa: B023
        np.testing.assert_allclose(x0, pair.x0, rtol=1e-5, atol=1e-5)
        half = model(xt.astype(jnp.bfloat16), ts)
        assert half.x0.dtype == jnp.float32
        np.testing.assert_allclose(half.x0[5:], pair.x0[5:], atol=0.1)


def test_the_density_integrates_to_one():
    model = exact.mixture(VPLinear(), jnp.array([[-1.0], [0.5]]), jnp.array([0.2, 0.4]), jnp.array([3.0, 1.0]))
    x = jnp.linspace(-8, 8, 4001)
    for t in (0.01, 0.3, 1.0):
        np.testing.assert_allclose(jnp.exp(model.log_density(x[:, None], t)).sum() * (x[1] - x[0]), 1.0, rtol=1e-4)


def test_an_output_of_another_shape_is_refused():
    model = denoiser(lambda params, x, t, cond, **_: x[..., :2], {}, Cosine())
    with pytest.raises(UserError, match=r"shape \(4, 2\) for xt of shape \(4, 3\)"):
        model(jnp.ones((4, 3)), jnp.float32(0.5))
    with pytest.raises(UserError, match=r"shape \(3,\) does not fit a batch of 4"):
        from_x0(lambda xt, t, cond: xt, Cosine())(jnp.ones((4, 3)), jnp.ones(3))
    with pytest.raises(UserError, match="2 means"):
        exact.mixture(Cosine(), jnp.ones((2, 3)), jnp.ones(3))


def test_the_key_and_the_training_flag_reach_the_network(key):
    def apply(params, x, time, cond, *, key=None, train=False):
        assert train
        return x + jax.random.normal(key, x.shape)

    model = denoiser(apply, {}, Cosine(), key=key, train=True)
    got = model(jnp.zeros((2, 3)), jnp.float32(0.0)).eps
    np.testing.assert_allclose(got, jax.random.normal(key, (2, 3)), rtol=1e-6)


def test_a_denoiser_may_be_made_while_tracing():
    """As a training step does; the check of the prediction needs a value and has one, also then."""

    @jax.jit
    def say(w):
        model = denoiser(lambda p, x, *a, **k: p["w"] * x, {"w": w}, VPLinear(), prediction="eps")
        return model(jnp.ones((2, 3)), 0.5).eps

    np.testing.assert_allclose(say(0.5), np.full((2, 3), 0.5))
    with pytest.raises(UserError, match="cannot represent"):
        jax.jit(lambda w: denoiser(lambda p, x, *a, **k: x, {"w": w}, Cosine(), prediction="eps").params)(0.5)


def test_the_loss_is_one_number_an_example_and_takes_half_precision(key):
    model = two_blobs(Cosine())
    x0 = jax.random.normal(key, (6, 3))
    loss = denoising_loss(model, Cosine(), x0, None, key)
    assert loss.shape == (6,)
    assert denoising_loss(model, Cosine(), x0.astype(jnp.bfloat16), None, key).dtype == jnp.float32
    assert (denoising_loss(model, Cosine(), x0, None, jax.random.fold_in(key, 1)) != loss).all()
    doubled = denoising_loss(model, Cosine(), x0, None, key, weight=lambda logsnr: 2 * jnp.ones_like(logsnr))
    np.testing.assert_allclose(doubled, 2 * loss, rtol=1e-6)
    with pytest.raises(UserError, match="'w' is not known"):
        denoising_loss(model, Cosine(), x0, None, key, space="w")
