"""Every kind of guidance: its identities, its closed form, and that its settings are data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guided import BATCH, DIM, IDENTITY, METHODS, SCHEDULES, STD, Conditional, adds_up, close, energy, same

from diffusion_jax.process import Cosine, RectifiedFlow, VPLinear, exact, from_pair
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
from diffusion_jax.typing import Prediction, UserError


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
]  # fmt: skip  # fmt: skip


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


def test_the_first_channels_alone_are_guided(parts):
    """u + w (c - u) in these, c in the others, of the exact pairs under both conditions."""
    x, cond, null = parts
    denoise, t = Conditional(VPLinear()), jnp.float32(0.6)
    got = classifier_free(denoise, null, 4.0, channels=2)(x, t, cond)
    c, u = predict_both(denoise, x, t, cond, null)
    for name in ("x0", "eps"):
        pair, towards, away = (np.asarray(getattr(one, name)) for one in (got, c, u))
        np.testing.assert_allclose(pair[..., :2], (away + 4.0 * (towards - away))[..., :2], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(pair[..., 2:], towards[..., 2:])
    adds_up(got, x, t, VPLinear())
    same(classifier_free(denoise, null, 4.0, channels=DIM)(x, t, cond), classifier_free(denoise, null, 4.0)(x, t, cond))
    for wrong, said in ((DIM + 1, f"nearest: {DIM}"), (0, "nearest: 1")):
        with pytest.raises(UserError, match=said):
            classifier_free(denoise, null, 4.0, channels=wrong)(x, t, cond)
