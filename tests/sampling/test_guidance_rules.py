"""Every kind of guidance: its identities, its closed form on Gaussians and mixtures, and that its settings are data."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.process import EDM, VE, Cosine, RectifiedFlow, VPLinear, exact, from_pair
from diffusion_jax.process.sde import expand
from diffusion_jax.sampling import (
    DDIM,
    AdaptiveODE,
    Heun,
    UniPC,
    apg,
    autoguidance,
    cfg_plus_plus,
    cfg_zero,
    classifier_free,
    classifier_guidance,
    clip_guidance,
    clip_x0,
    compose,
    dynamic_threshold,
    interval,
    rescale,
    sample,
    trace,
    uniform,
)
from diffusion_jax.sampling.guidance.contrast import predict_both
from diffusion_jax.sampling.sample import _sample
from diffusion_jax.typing import Prediction, UserError, pytree_dataclass

BATCH, DIM, STD = 4, 3, 0.6
SCHEDULES = [VPLinear(), Cosine(), RectifiedFlow(), VE(), EDM()]


@pytree_dataclass
class Conditional:
    """The exact denoiser of N(cond, STD^2 I): what a perfect network of conditions would say."""

    schedule: Any

    def __call__(self, xt, t, cond=None):
        alpha, sigma = (expand(f(jnp.asarray(t)), xt) for f in (self.schedule.alpha, self.schedule.sigma))
        residual = (xt - alpha * cond) / (alpha**2 * STD**2 + sigma**2)
        return Prediction(cond + alpha * STD**2 * residual, sigma * residual)


def close(got, wanted, rtol=2e-5, atol=2e-6):
    np.testing.assert_allclose(got.x0, wanted.x0, rtol=rtol, atol=atol)
    np.testing.assert_allclose(got.eps, wanted.eps, rtol=rtol, atol=atol)


def same(got, wanted):
    np.testing.assert_array_equal(got.x0, wanted.x0)
    np.testing.assert_array_equal(got.eps, wanted.eps)


def adds_up(pair, x, t, schedule):
    alpha, sigma = (expand(f(jnp.asarray(t)), x) for f in (schedule.alpha, schedule.sigma))
    scale = float(jnp.max(jnp.abs(x)) + jnp.max(jnp.abs(alpha * pair.x0)))
    np.testing.assert_allclose(alpha * pair.x0 + sigma * pair.eps, x, atol=2e-6 * scale)


@pytest.fixture
def parts():
    keys = jax.random.split(jax.random.key(3), 3)
    cond, x = (jax.random.normal(k, (BATCH, DIM)) for k in keys[:2])
    return x, cond, jnp.full((1, DIM), 0.2)


# name: (denoise, null, scale, schedule) -> guided; all but CFG++ keep the pair, all but it are the identity at scale 1
METHODS = {
    "classifier_free": lambda d, n, w, s: classifier_free(d, n, w),
    "rescale": lambda d, n, w, s: rescale(classifier_free(d, n, w), s, "v", 0.7),
    "apg": lambda d, n, w, s: apg(d, n, w, schedule=s, eta=0.2, momentum=-0.5, norm_threshold=0.8),
    "cfg_zero": lambda d, n, w, s: cfg_zero(d, n, w, schedule=s),
    "autoguidance": lambda d, n, w, s: autoguidance(d, Shifted(d), w),
    "interval": lambda d, n, w, s: interval(classifier_free(d, n, w), d, s, 0.1, 5.0),
    "clip": lambda d, n, w, s: clip_x0(classifier_free(d, n, w), s, -0.9, 0.9),
    "threshold": lambda d, n, w, s: dynamic_threshold(classifier_free(d, n, w), s, 0.9, 0.5),
    "classifier": lambda d, n, w, s: classifier_guidance(d, energy, w, schedule=s),
    "classifier_x0": lambda d, n, w, s: classifier_guidance(d, energy, w, schedule=s, of="x0"),
    "clip_guidance": lambda d, n, w, s: clip_guidance(d, jnp.tanh, jnp.ones((1, DIM)), w, schedule=s),
    "cfg_plus_plus": lambda d, n, w, s: cfg_plus_plus(d, n, 0.1 * w),
}  # fmt: skip
IDENTITY = ("classifier_free", "rescale", "apg", "cfg_zero", "autoguidance", "interval")


@pytree_dataclass
class Shifted:
    """A weaker model: its condition is off."""

    base: Any

    def __call__(self, xt, t, cond=None):
        return self.base(xt, t, 0.5 * cond)


def energy(x, t, cond):
    return -0.5 * jnp.sum((x - cond) ** 2, axis=-1)


@pytest.mark.parametrize("name", IDENTITY)
@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow()], ids=repr)
def test_scale_one_is_no_guidance(name, schedule, parts):
    x, cond, null = parts
    denoise = Conditional(schedule)
    got = METHODS[name](denoise, null, 1.0, schedule)(x, jnp.float32(0.6), cond)
    close(got, denoise(x, jnp.float32(0.6), cond), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["classifier_free", "rescale", "apg", "cfg_zero", "interval", "cfg_plus_plus"])
def test_equal_conditions_are_not_guided(name, parts):
    x, cond, _ = parts
    schedule = Cosine()
    got = METHODS[name](Conditional(schedule), cond, 7.0, schedule)(x, jnp.float32(0.6), cond)
    close(got, Conditional(schedule)(x, jnp.float32(0.6), cond), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "cfg_plus_plus"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_pair_adds_up_to_xt(name, schedule, parts):
    x, cond, null = parts
    t = jnp.array([0.05, 0.4, 0.7, 0.98])
    adds_up(METHODS[name](Conditional(schedule), null, 3.0, schedule)(x, t, cond), x, t, schedule)


@pytest.mark.parametrize("name", METHODS)
def test_settings_of_one_batch_equal_separate_calls(name, parts):
    x, cond, null = parts
    schedule, scales, t = Cosine(), jnp.array([0.0, 0.5, 3.0, 7.5]), jnp.float32(0.6)
    denoise = Conditional(schedule)
    together = METHODS[name](denoise, null, scales, schedule)(x, t, cond)
    for i, scale in enumerate(scales):
        alone = METHODS[name](denoise, null, scale, schedule)(x[i : i + 1], t, cond[i : i + 1])
        close(jax.tree.map(lambda a: a[i : i + 1], together), alone)  # noqa: B023


@pytest.mark.parametrize("name", METHODS)
def test_another_scale_does_not_recompile(name, parts, key):
    x, cond, null = parts
    schedule = Cosine()

    def run(scale, null):
        guided = METHODS[name](Conditional(schedule), null, scale, schedule)
        return sample(guided, schedule, DDIM(), x, uniform(4), key, cond)

    first, before = run(3.0, null), _sample._cache_size()
    second = run(2, null + 0.5)
    assert _sample._cache_size() == before
    assert np.isfinite(second).all() and float(jnp.max(jnp.abs(first - second))) > 1e-4


def test_the_other_settings_are_data_too(parts, key):
    x, cond, null = parts
    schedule = Cosine()
    denoise = Conditional(schedule)

    def run(phi, eta, momentum, cap, low, high, percentile, limit, zero):
        made = [
            rescale(classifier_free(denoise, null, 3.0), schedule, "v", phi),
            apg(denoise, null, 3.0, schedule=schedule, eta=eta, momentum=momentum, norm_threshold=cap),
            interval(classifier_free(denoise, null, 3.0), denoise, schedule, low, high),
            dynamic_threshold(denoise, schedule, percentile, limit),
            clip_x0(denoise, schedule, -limit, limit),
            cfg_zero(denoise, null, 3.0, schedule=schedule, zero_above=zero),
            compose(denoise, null, [cond, cond + low], [eta, cap]),
        ]
        conds = [cond] * 6 + [None]
        return [sample(g, schedule, DDIM(), x, uniform(4), key, c) for g, c in zip(made, conds)]

    first, before = run(0.7, 0.0, -0.5, 1.0, 0.1, 2.0, 0.9, 0.5, 0.96), _sample._cache_size()
    second = run(0.2, 1, -0.2, 0.5, 0, 0.3, 0.5, 0.3, 0.5)
    assert _sample._cache_size() == before
    assert all(float(jnp.max(jnp.abs(a - b))) > 1e-4 for a, b in zip(first, second))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_guided_gaussians_of_equal_spread_are_the_gaussian_at_the_guided_mean(schedule, parts):
    x, cond, null = parts
    t = jnp.float32(0.5)
    got = classifier_free(Conditional(schedule), null, 3.0)(x, t, cond)
    close(got, Conditional(schedule)(x, t, null + 3.0 * (cond - null)), rtol=1e-4, atol=1e-4)
    others = [cond, cond[::-1], jnp.full((1, DIM), -1.0)]
    weights = jnp.array([2.0, 0.5, -1.5])
    mean = null + sum(w * (c - null) for w, c in zip(weights, others))
    got = compose(Conditional(schedule), null, others, weights)(x, t)
    close(got, Conditional(schedule)(x, t, jnp.broadcast_to(mean, x.shape)), rtol=1e-4, atol=1e-4)


@pytree_dataclass
class Either:
    """Exact denoisers of several distributions; the condition [batch, count] is one-hot, or all zeros for the first."""

    models: Any

    def __call__(self, xt, t, cond=None):
        pairs = [model(xt, t) for model in self.models]
        weights = jnp.concatenate([1 - jnp.sum(cond, axis=1, keepdims=True), cond], axis=1)
        x0, eps = (
            sum(weights[:, i : i + 1] * p for i, p in enumerate(ps)) for ps in zip(*((p.x0, p.eps) for p in pairs))
        )
        return Prediction(x0, eps)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_guidance_between_mixtures_is_the_gradient_of_the_guided_log_density(schedule, key):
    """-sigma grad [log u + sum_i w_i (log c_i - log u)] by automatic differentiation of exact densities."""
    means, stds = jax.random.normal(key, (5, 2)), jnp.array([0.3, 0.5, 0.4, 0.7, 0.6])
    u, c, d = (
        exact.mixture(schedule, means[i], stds[i]) for i in (jnp.arange(5), jnp.array([0, 3]), jnp.array([1, 3, 4]))
    )
    t = jnp.float32(0.4)
    spread = jnp.sqrt(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2)
    x = spread * jax.random.normal(jax.random.key(1), (BATCH, 2))
    first, second = jnp.eye(2)[:1], jnp.eye(2)[1:]

    def wanted(w_c, w_d):
        def log_p(y):
            base = u.log_density(y, t)
            return jnp.sum(base + w_c * (c.log_density(y, t) - base) + w_d * (d.log_density(y, t) - base))

        return -schedule.sigma(t) * jax.grad(log_p)(x)

    model, null = Either([u, c, d]), jnp.zeros((1, 2))
    got = classifier_free(model, null, 2.5)(x, t, jnp.repeat(first, BATCH, axis=0))
    np.testing.assert_allclose(got.eps, wanted(2.5, 0.0), rtol=1e-4, atol=1e-4)
    got = compose(model, null, [first, second], [1.5, -0.7])(x, t)
    np.testing.assert_allclose(got.eps, wanted(1.5, -0.7), rtol=1e-4, atol=1e-4)
    adds_up(got, x, t, schedule)


def test_guided_samples_have_the_guided_mean(parts, key):
    _, cond, null = parts
    schedule = VPLinear()
    x = jnp.zeros(
        (BATCH, DIM)
    )  # the prior's mean, which the affine flow takes to the mean of the data, but for alpha(1)
    got = sample(classifier_free(Conditional(schedule), null, 3.0), schedule, Heun(), x, uniform(400), key, cond)
    mean = null + 3.0 * (cond - null)
    alpha, sigma = schedule.alpha(1.0), schedule.sigma(1.0)
    np.testing.assert_allclose(got, mean - STD * alpha * mean / np.sqrt(alpha**2 * STD**2 + sigma**2), atol=2e-4)


def test_composition_of_one_prompt_is_classifier_free_and_scales_may_differ_by_example(parts):
    x, cond, null = parts
    schedule, t = Cosine(), jnp.float32(0.6)
    denoise = Conditional(schedule)
    close(compose(denoise, null, [cond], [3.0])(x, t), classifier_free(denoise, null, 3.0)(x, t, cond))
    scales = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0], [0.0, 0.0]])
    got = compose(denoise, null, [cond, cond[:1]], scales)(x, t)
    for i in range(BATCH):
        alone = compose(denoise, null, [cond[i : i + 1], cond[:1]], scales[i])(x[i : i + 1], t)
        close(jax.tree.map(lambda a: a[i : i + 1], got), alone)  # noqa: B023


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_perfect_classifier_turns_the_mixture_into_its_component(schedule, key):
    """Bayes' rule at every noise level: scale 1 on grad log p(k | xt)."""
    means, stds = jnp.array([[-1.0, 0.5], [0.8, -0.3], [0.2, 1.4]]), jnp.array([0.3, 0.5, 0.2])
    whole = exact.mixture(schedule, means, stds)
    classes = [exact.gaussian(schedule, m, s) for m, s in zip(means, stds)]

    def log_prob(x, t, cond):
        joint = jnp.stack([c.log_density(x, t) for c in classes], axis=-1)
        return jnp.take_along_axis(jax.nn.log_softmax(joint), cond[:, None], axis=-1)[:, 0]

    cond, t = jnp.arange(3), jnp.array([0.3, 0.5, 0.7])
    spread = jnp.sqrt(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2)[:, None]
    x = spread * jax.random.normal(key, (3, 2))
    got = classifier_guidance(whole, log_prob, schedule=schedule)(x, t, cond)
    for k, one in enumerate(classes):
        wanted = one(x[k : k + 1], t[k])
        close(jax.tree.map(lambda a: a[k : k + 1], got), wanted, rtol=1e-4, atol=2e-4)  # noqa: B023


def test_the_gradient_at_x0_goes_through_the_denoiser(parts):
    """For Gaussian data x0_hat is affine in xt with slope alpha STD^2 / V."""
    x, cond, _ = parts
    schedule, t = Cosine(), jnp.float32(0.4)
    denoise = Conditional(schedule)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    slope = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    plain, target = denoise(x, t, cond), jnp.ones((1, DIM))
    got = classifier_guidance(
        denoise, lambda y, t, c: -0.5 * jnp.sum((y - target) ** 2, axis=-1), 0.7, schedule=schedule, of="x0"
    )(x, t, cond)
    np.testing.assert_allclose(got.eps, plain.eps - 0.7 * sigma * slope * (target - plain.x0), rtol=1e-5, atol=1e-5)


def test_clip_guidance_is_the_gradient_of_the_cosine(parts):
    x, cond, _ = parts
    schedule, t = Cosine(), jnp.float32(0.4)
    wanted = jnp.array([[1.0, -2.0, 0.5]])
    got = clip_guidance(Conditional(schedule), lambda y: y, 5.0 * wanted, 0.3, schedule=schedule, of="xt")(x, t, cond)
    unit, w = x / jnp.linalg.norm(x, axis=-1, keepdims=True), wanted / jnp.linalg.norm(wanted)
    cosine = jnp.sum(unit * w, axis=-1, keepdims=True)
    gradient = (w - cosine * unit) / jnp.linalg.norm(x, axis=-1, keepdims=True)
    plain = Conditional(schedule)(x, t, cond)
    np.testing.assert_allclose(got.eps, plain.eps - 0.3 * schedule.sigma(t) * gradient, rtol=1e-5, atol=1e-5)


def test_autoguidance_goes_away_from_the_weaker_model(parts):
    """Two Gaussians about 0: a line of their slopes; the condition may be None."""
    x, _, _ = parts
    schedule, t = RectifiedFlow(), jnp.float32(0.5)
    good, weak = (exact.gaussian(schedule, jnp.zeros(DIM), s) for s in (0.5, 0.9))
    got = autoguidance(good, weak, 2.5)(x, t)
    slopes = [0.5 * s**2 / (0.25 * s**2 + 0.25) for s in (0.5, 0.9)]
    np.testing.assert_allclose(got.x0, (slopes[1] + 2.5 * (slopes[0] - slopes[1])) * x, rtol=1e-5)
    close(autoguidance(good, good, 4.0)(x, t), good(x, t))


def test_rescale_restores_the_spread_in_the_space_of_the_prediction(parts):
    x, cond, null = parts
    schedule, t = Cosine(), jnp.float32(0.6)
    denoise = Conditional(schedule)
    guided = classifier_free(denoise, null, 6.0)
    same(rescale(guided, schedule, "v", 0.0)(x, t, cond), guided(x, t, cond))
    for kind in ("v", "eps", "x0", "velocity"):
        full, half = (rescale(guided, schedule, kind, phi)(x, t, cond) for phi in (1.0, 0.5))
        plain, raw = denoise(x, t, cond), guided(x, t, cond)
        wanted = jnp.std(from_pair(kind, plain.x0, plain.eps, t, schedule), axis=1)
        np.testing.assert_allclose(jnp.std(from_pair(kind, full.x0, full.eps, t, schedule), axis=1), wanted, rtol=1e-4)
        close(half, jax.tree.map(lambda a, b: 0.5 * (a + b), full, raw), rtol=1e-4, atol=1e-5)


def test_apg_without_its_parts_is_classifier_free_and_without_the_part_along_it_is_orthogonal(parts):
    x, cond, null = parts
    schedule, t = Cosine(), jnp.float32(0.6)
    denoise = Conditional(schedule)
    c = denoise(x, t, cond)
    close(
        apg(denoise, null, 4.0, schedule=schedule, eta=1.0, momentum=0.0)(x, t, cond),
        classifier_free(denoise, null, 4.0)(x, t, cond),
    )
    across = apg(denoise, null, 4.0, schedule=schedule)(x, t, cond).x0 - c.x0
    np.testing.assert_allclose(jnp.sum(across * c.x0, axis=1), 0.0, atol=1e-5)
    assert float(jnp.min(jnp.linalg.norm(across, axis=1))) > 0.1
    capped = apg(denoise, null, 4.0, schedule=schedule, eta=1.0, norm_threshold=0.05)(x, t, cond).x0 - c.x0
    np.testing.assert_allclose(jnp.linalg.norm(capped, axis=1), 3 * 0.05, rtol=1e-4)


@pytest.mark.parametrize("solver", [DDIM(), Heun(), UniPC(2), AdaptiveODE()], ids=repr)
@pytest.mark.parametrize("wrap", [lambda g, d, s: g, lambda g, d, s: interval(clip_x0(g, s, -9.0, 9.0), d, s)])
def test_momentum_is_carried_from_step_to_step(solver, wrap, parts, key):
    """Where the predictions differ by a constant, the n-th step sees (1 + b + ... + b^n) of it, also within others."""
    x, _, _ = parts
    schedule, beta = RectifiedFlow(), -0.6

    def denoise(xt, t, cond):
        x0 = jnp.broadcast_to(cond, xt.shape)
        sigma = expand(schedule.sigma(t), xt)
        return Prediction(x0, (xt - (1 - sigma) * x0) / jnp.maximum(sigma, 1e-6))

    cond, null = jnp.ones((BATCH, DIM)), jnp.zeros((1, DIM))
    guided = wrap(apg(denoise, null, 3.0, schedule=schedule, eta=1.0, momentum=beta), denoise, schedule)
    ts = np.linspace(1.0, 0.2, 5)
    path = trace(guided, schedule, solver, x, ts, key, cond)
    seen = [sum(beta**k for k in range(n + 1)) for n in range(4)]
    np.testing.assert_allclose(path.x0_hats[:, 0, 0], [1 + 2 * s for s in seen], rtol=1e-5)
    np.testing.assert_array_equal(sample(guided, schedule, solver, x, ts, key, cond), path.x0)


def test_cfg_plus_plus_is_a_step_of_classifier_free_guidance_at_another_scale(parts, key):
    """A DDIM step from t to s at scale l is one of CFG at w = l alpha_s / (alpha_s - sigma_s alpha_t / sigma_t)."""
    x, cond, null = parts
    schedule, ts = Cosine(), np.array([0.7, 0.5])
    denoise, scale = Conditional(schedule), 0.4
    alpha, sigma = schedule.alpha(jnp.float32(ts)), schedule.sigma(jnp.float32(ts))
    w = scale * alpha[1] / (alpha[1] - sigma[1] * alpha[0] / sigma[0])
    got = sample(cfg_plus_plus(denoise, null, scale), schedule, DDIM(), x, ts, key, cond)
    wanted = sample(classifier_free(denoise, null, w), schedule, DDIM(), x, ts, key, cond)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    c, u = predict_both(denoise, x, jnp.float32(0.7), cond, null)
    end = cfg_plus_plus(denoise, null, 1.0)(x, jnp.float32(0.7), cond)
    close(end, Prediction(c.x0, u.eps))


def test_cfg_zero_takes_the_best_length_and_stands_still_at_first(parts, key):
    x, cond, null = parts
    schedule, t = RectifiedFlow(), jnp.float32(0.6)
    denoise = Conditional(schedule)
    c, u = (from_pair("velocity", p.x0, p.eps, t, schedule) for p in predict_both(denoise, x, t, cond, null))
    s = jnp.sum(c * u, axis=1, keepdims=True) / jnp.sum(u * u, axis=1, keepdims=True)
    pair = cfg_zero(denoise, null, 3.0, schedule=schedule)(x, t, cond)
    got = from_pair("velocity", pair.x0, pair.eps, t, schedule)
    np.testing.assert_allclose(got, s * u + 3.0 * (c - s * u), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jnp.sum((c - s * u) * u, axis=1), 0.0, atol=1e-5)
    path = trace(
        cfg_zero(denoise, null, 3.0, schedule=schedule, zero_above=0.89), schedule, DDIM(), x, uniform(10), key, cond
    )
    moved = np.abs(np.diff(path.xs, axis=0)).max(axis=(1, 2))
    assert (moved[:2] < 1e-6).all() and (moved[2:] > 1e-3).all()


def test_infinite_limits_change_no_bit(parts):
    x, cond, _ = parts
    for schedule in (Cosine(), EDM()):
        denoise, t = Conditional(schedule), jnp.array([1e-4, 0.2, 0.6, 1.0])
        same(clip_x0(denoise, schedule, -np.inf, np.inf)(x, t, cond), denoise(x, t, cond))
        same(dynamic_threshold(denoise, schedule, 0.9, np.inf)(x, t, cond), denoise(x, t, cond))


@settings(max_examples=25, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.1, 3.0))
def test_dynamic_threshold_is_the_papers(percentile, limit):
    x0 = jax.random.normal(jax.random.key(0), (5, 40)) * jnp.array([0.1, 0.5, 1.0, 2.0, 8.0])[:, None]

    def model(xt, t, cond=None):
        return Prediction(x0, xt)

    got = dynamic_threshold(model, Cosine(), percentile, limit)(x0, jnp.float32(0.5)).x0
    s = np.maximum(np.quantile(np.abs(x0), percentile, axis=1, keepdims=True), limit)
    np.testing.assert_allclose(got, np.clip(x0, -s, s) / s * limit, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        clip_x0(model, Cosine(), -limit, limit)(x0, jnp.float32(0.5)).x0, np.clip(x0, -limit, limit)
    )


def test_an_interval_is_either_and_asks_only_whom_it_needs(parts):
    x, cond, null = parts
    schedule, calls = Cosine(), []

    def counted(xt, t, cond):
        jax.debug.callback(lambda: calls.append(xt.shape[0]))
        return Conditional(schedule)(xt, t, cond)

    guided = classifier_free(counted, null, 4.0)
    within = interval(guided, counted, schedule, 0.3, 2.0)
    ts = jnp.array([0.05, 0.5, 0.5, 0.95])  # tan(pi t / 2): .079, 1, 1, 12.7
    for t, sizes in ((0.05, [BATCH]), (0.5, [2 * BATCH]), (0.95, [BATCH]), (ts, [BATCH, 2 * BATCH])):
        calls.clear()
        got = jax.block_until_ready(within(x, jnp.asarray(t, jnp.float32), cond))
        jax.effects_barrier()
        assert sorted(calls) == sizes
        inside = np.broadcast_to((jnp.asarray(t) == 0.5), (BATCH,))
        wanted = [(guided if i else counted)(x, jnp.asarray(t, jnp.float32), cond) for i in (False, True)]
        close(got, jax.tree.map(lambda p, g: np.where(inside[:, None], g, p), *wanted))  # noqa: B023
    many = interval(guided, counted, schedule, jnp.array([0.0, 0.0, 1.5, 0.3]), jnp.array([0.5, np.inf, 2.0, 2.0]))
    got = many(x, jnp.float32(0.5), cond)
    plain, led = counted(x, jnp.float32(0.5), cond), guided(x, jnp.float32(0.5), cond)
    inside = np.array([False, True, False, True])[:, None]
    close(got, jax.tree.map(lambda p, g: np.where(inside, g, p), plain, led))


def test_guidance_may_be_guided_again(parts, key):
    """Autoguidance of two guided models, clipped, within an interval, by a solver of several stages."""
    x, cond, null = parts
    schedule = VPLinear()
    denoise = Conditional(schedule)
    inner = autoguidance(classifier_free(denoise, null, 2.0), apg(denoise, null, 1.5, schedule=schedule), 2.0)
    whole = interval(clip_x0(inner, schedule, -2.0, 2.0), denoise, schedule, 0.1, 10.0)
    got = sample(whole, schedule, Heun(), x, uniform(6), key, cond)
    assert np.isfinite(got).all() and got.shape == x.shape


BAD = [
    (lambda d, n, s: classifier_free(d, n, -0.5), "guidance_scale -0.5 is negative without a negative prompt"),
    (lambda d, n, s: classifier_free(d, n, 2.0, negative="thin"), r"'thin' is text: encode it first, as run.encode_text"),
    (lambda d, n, s: apg(d, n, jnp.array([1.0, -2.0]), schedule=s), "guidance_scale -2 is negative"),
    (lambda d, n, s: cfg_plus_plus(d, n, 1.5), "guidance_scale of CFG\\+\\+ 1.5 is not from 0 to 1; nearest: 1"),
    (lambda d, n, s: interval(d, d, s, 2.0, 0.5), r"interval \[2, 0.5\] is upside down; nearest: \[0.5, 2\]"),
    (lambda d, n, s: interval(d, d, s, jnp.array([0.1, 3.0]), 2.0), r"interval \[3, 2\] is upside down"),
    (lambda d, n, s: interval(d, d, s, -1.0), "low -1 is not from 0 to inf; nearest: 0"),
    (lambda d, n, s: clip_x0(d, s, 1.0, -1.0), "from 1 to -1 is upside down"),
    (lambda d, n, s: dynamic_threshold(d, s, 99.5), "percentile 99.5 is not from 0 to 1; nearest: 1"),
    (lambda d, n, s: dynamic_threshold(d, s, 0.9, float("nan")), "limit nan is not from 0 to inf"),
    (lambda d, n, s: rescale(classifier_free(d, n), s, "v", 1.2), "rescale 1.2 is not from 0 to 1; nearest: 1"),
    (lambda d, n, s: rescale(classifier_free(d, n), s, "vv"), "prediction 'vv' is not known; did you mean 'v'"),
    (lambda d, n, s: rescale(d, s, "v"), "rescale acts on a guided denoiser.*not on Conditional"),
    (lambda d, n, s: cfg_zero(d, n, 2.0, schedule=s, zero_above=4), "zero_above 4 is not from 0 to 1; nearest: 1"),
    (lambda d, n, s: compose(d, n, [], []), "at least one prompt"),
    (lambda d, n, s: compose(d, n, [n, n], [1.0]), r"scales have shape \(1,\) for 2 prompts"),
    (lambda d, n, s: classifier_guidance(d, energy, schedule=s, of="x"), "of 'x' is not known; did you mean 'xt'"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), BAD, ids=range(len(BAD)))
def test_bad_settings_are_one_line(make, message, parts):
    with pytest.raises(UserError, match=message) as caught:
        make(Conditional(Cosine()), parts[2], Cosine())
    assert "\n" not in str(caught.value)


def test_bad_calls_are_one_line(parts):
    x, cond, null = parts
    schedule, t = Cosine(), jnp.float32(0.5)
    denoise = Conditional(schedule)
    with pytest.raises(UserError, match="cond=None"):
        compose(denoise, null, [cond], [1.0])(x, t, cond)
    with pytest.raises(UserError, match=r"scales have shape \(2, 1\) for a batch of 4"):
        compose(denoise, null, [cond], jnp.ones((2, 1)))(x, t)
    with pytest.raises(UserError, match=r"log_prob gave the shape \(4, 3\) for a batch of 4"):
        classifier_guidance(denoise, lambda x, t, c: x, schedule=schedule)(x, t, cond)
    with pytest.raises(UserError, match=r"embedding of shape \(1, 5\) does not fit"):
        clip_guidance(denoise, lambda y: y, jnp.ones((1, 5)), 1.0, schedule=schedule)(x, t, cond)
    with pytest.raises(UserError, match=r"low has shape \(3,\) for a batch of 4"):
        interval(denoise, denoise, schedule, jnp.zeros(3))(x, t, cond)


def test_the_learned_variance_stays_the_conditions(parts):
    x, cond, null = parts
    schedule = Cosine()

    def model(xt, t, cond):
        return dataclasses.replace(Conditional(schedule)(xt, t, cond), variance=cond)

    for name, make in METHODS.items():
        if name != "autoguidance":
            np.testing.assert_array_equal(make(model, null, 2.0, schedule)(x, jnp.float32(0.5), cond).variance, cond)
