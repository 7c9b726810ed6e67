"""Guidance: its identities, several scales in one batch, negative prompts, and errors that name the value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import Cosine, denoiser
from diffusion_jax.process.asking import CALLED
from diffusion_jax.sampling import DDIM, classifier_free, sample, uniform
from diffusion_jax.sampling.guidance.contrast import predict_both
from diffusion_jax.typing import Prediction, UserError

BATCH, T = 4, jnp.float32(0.6)


def network(params, x, time, cond, *, key=None, train=False):
    """Not linear in anything, so that a wrong pairing shows."""
    mixed = x @ params["w"] + jnp.sin(cond["text"] @ params["u"]) * jnp.mean(cond["tokens"], axis=(1, 2))[:, None]
    return jnp.tanh(mixed + 1e-3 * time[:, None])


@pytest.fixture
def parts():
    keys = jax.random.split(jax.random.key(1), 8)
    params = {"w": jax.random.normal(keys[0], (3, 3)), "u": jax.random.normal(keys[1], (5, 3))}
    model = denoiser(network, params, Cosine())

    def condition(key, size):
        return {"text": jax.random.normal(key, (size, 5)), "tokens": jnp.ones((size, 2, 2)) * size}

    x = jax.random.normal(keys[2], (BATCH, 3))
    return model, x, condition(keys[3], BATCH), condition(keys[4], 1), condition(keys[5], 1)


def repeat(cond):
    return jax.tree.map(lambda c: jnp.repeat(c, BATCH, axis=0), cond)


def close(got, wanted):
    for a, b in ((got.x0, wanted.x0), (got.eps, wanted.eps)):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_scale_one_is_no_guidance_and_scale_zero_no_condition(parts):
    model, x, cond, null, _ = parts
    close(classifier_free(model, null, 1.0)(x, T, cond), model(x, T, cond))
    close(classifier_free(model, null, 0.0)(x, T, cond), model(x, T, repeat(null)))


def test_guidance_is_the_identity_where_the_conditions_are_equal(parts):
    model, x, cond, _, _ = parts
    close(classifier_free(model, cond, 7.5)(x, T, cond), model(x, T, cond))


@pytest.mark.parametrize("scale", [-0.5, 0.5, 3.0, 7.5])
def test_it_is_the_formula_and_keeps_the_pair_consistent(parts, scale):
    """Scales below 1 and below 0 count as well."""
    model, x, cond, null, negative = parts
    got = classifier_free(model, null, scale, negative)(x, T, cond)
    c, u = model(x, T, cond), model(x, T, repeat(negative))
    close(got, jax.tree.map(lambda a, b: b + scale * (a - b), c, u))
    schedule = Cosine()
    np.testing.assert_allclose(schedule.alpha(T) * got.x0 + schedule.sigma(T) * got.eps, x, rtol=1e-4, atol=1e-5)


def test_a_negative_prompt_takes_the_place_of_the_null_condition(parts):
    model, x, cond, null, negative = parts
    close(classifier_free(model, null, 3.0, negative)(x, T, cond), classifier_free(model, negative, 3.0)(x, T, cond))
    close(
        classifier_free(model, null, 3.0, repeat(negative))(x, T, cond),
        classifier_free(model, null, 3.0, negative)(x, T, cond),
    )


def test_several_scales_in_one_batch_equal_separate_calls(parts):
    model, x, cond, null, _ = parts
    scales = jnp.array([0.0, 1.0, 3.0, 7.5])
    together = classifier_free(model, null, scales)(x, T, cond)
    for i, scale in enumerate(scales):
        alone = classifier_free(model, null, scale)(x, T, cond)
        close(jax.tree.map(lambda a: a[i], together), jax.tree.map(lambda a: a[i], alone))  # noqa: B023


def test_times_may_differ_within_the_batch(parts):
    model, x, cond, null, _ = parts
    ts = jnp.array([0.1, 0.4, 0.7, 1.0])
    got = classifier_free(model, null, 2.0)(x, ts, cond)
    c, u = model(x, ts, cond), model(x, ts, repeat(null))
    close(got, jax.tree.map(lambda a, b: b + 2.0 * (a - b), c, u))


def test_one_call_of_twice_the_batch_and_the_learned_variance_is_the_conditions(parts):
    _, x, cond, null, _ = parts
    sizes = []

    def model(xt, t, cond):
        sizes.append(xt.shape[0])
        return Prediction(xt, xt, variance=cond["text"][:, :3])

    got = classifier_free(model, null, 4.0)(x, T, cond)
    assert [size for size in sizes if size != CALLED] == [2 * BATCH]  # beside the trials by shapes alone
    np.testing.assert_array_equal(got.variance, cond["text"][:, :3])
    first, second = predict_both(model, x, T, cond, null)
    np.testing.assert_array_equal(second.variance, repeat(null)["text"][:, :3])
    np.testing.assert_array_equal(first.variance, cond["text"][:, :3])


def test_guided_samples_under_vmap_over_scales_equal_one_by_one(parts, key):
    model, x, cond, null, _ = parts

    def run(scale):
        return sample(classifier_free(model, null, scale), Cosine(), DDIM(), x, uniform(4), key, cond)

    scales = jnp.array([0.5, 2.0])
    np.testing.assert_allclose(jax.vmap(run)(scales), [run(s) for s in scales], rtol=1e-4, atol=1e-5)


def test_bad_input_is_named(parts):
    model, x, cond, null, _ = parts
    with pytest.raises(UserError, match="needs a condition"):
        classifier_free(model, null)(x, T)
    with pytest.raises(UserError, match="another structure"):
        classifier_free(model, null, negative={"text": null["text"]})
    with pytest.raises(UserError, match="same structure"):
        classifier_free(model, {"text": null["text"]})(x, T, cond)
    with pytest.raises(UserError, match=r"\(2, 5\) beside a condition of shape \(4, 5\)"):
        classifier_free(model, jax.tree.map(lambda c: jnp.repeat(c, 2, axis=0), null))(x, T, cond)
    with pytest.raises(UserError, match=r"\(2, 2\)"):
        classifier_free(model, null, jnp.ones((2, 2)))
    with pytest.raises(UserError, match=r"guidance_scale has shape \(3,\) for a batch of 4"):
        classifier_free(model, null, jnp.ones(3))(x, T, cond)
