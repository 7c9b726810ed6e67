"""Compositions and gradients against closed forms: guided Gaussians, mixtures, and a perfect classifier."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guided import BATCH, DIM, SCHEDULES, STD, Conditional, adds_up, close

from diffusion_jax.process import Cosine, exact
from diffusion_jax.sampling import (
    classifier_free,
    classifier_guidance,
    clip_guidance,
    compose,
)
from diffusion_jax.typing import Prediction, pytree_dataclass


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
