"""The losses and the generation of the systems, on networks small enough to know."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.nets.clip import CLIPOutput
from diffusion_jax.nets.vit import TowerOutput
from diffusion_jax.parallel.mesh import make_mesh, put_batch
from diffusion_jax.process import VE, Cosine, denoiser, simple, times
from diffusion_jax.sampling import DDIM, DDPM, classifier_free, uniform
from diffusion_jax.systems.clip.loss import clip_loss, in_batches, text_condition
from diffusion_jax.systems.diffusion.loss import diffusion_loss, drop_condition, example_keys, generate
from diffusion_jax.typing import Context

NULL = {"shift": jnp.zeros((1, 3))}


def towards(params, xt, t, cond, *, key=None, train=False):
    """A network of x0: the condition's shift, pulled a little towards xt."""
    return params["w"] * cond["shift"] + 0.1 * jnp.tanh(xt)


def test_dropping_replaces_a_share_of_the_examples_whole():
    cond = {"a": jnp.ones((4000, 2)), "b": jnp.full((4000,), 7)}
    null = {"a": jnp.zeros((1, 2)), "b": jnp.zeros((1,), int)}
    out = drop_condition(cond, null, 0.25, jax.random.key(0))
    dropped = np.asarray(out["b"] == 0)
    np.testing.assert_array_equal(np.asarray(out["a"]), np.where(dropped[:, None], 0.0, 1.0) * np.ones((1, 2)))
    assert abs(dropped.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)
    assert out["b"].dtype == cond["b"].dtype


@pytest.mark.parametrize(("drop", "matters"), [(0.0, True), (1.0, False)])
def test_the_loss_sees_the_condition_unless_it_is_dropped(drop, matters):
    loss_fn = diffusion_loss(towards, Cosine(), prediction="x0", weight=simple, sample_t=times.stratified, drop=drop)
    ctx = Context(frozen={"null": NULL})

    def loss(shift):
        batch = {"image": jnp.ones((4, 3)), "cond": {"shift": jnp.full((4, 3), shift)}}
        return loss_fn({"w": jnp.float32(1)}, ctx, batch, jax.random.key(0))[0]

    assert loss(0.5).shape == (4,)
    assert bool(jnp.abs(loss(0.5) - loss(1.5)).max() > 0.01) is matters


def draw(count, start=0, scale=2.0, negative=None, solver=None, place=lambda tree: tree):
    schedule = Cosine()
    model = denoiser(towards, {"w": jnp.float32(1)}, schedule, prediction="x0")
    keys = example_keys(3, start, count)
    cond = {"shift": jnp.linspace(-1, 1, 3)[None] * jnp.ones((count, 1))}
    placed = place({"keys": keys, "cond": cond})
    guided = model if scale is None else classifier_free(model, NULL, scale, negative)
    return generate(guided, schedule, solver or DDPM(), uniform(6), placed["keys"], (3,), placed["cond"])


def test_a_sample_is_a_function_of_its_index():
    whole = draw(16)
    np.testing.assert_allclose(draw(5, start=7), whole[7:12], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(draw(16), whole)
    assert jnp.abs(whole[0] - whole[1]).max() > 1e-3


def test_eight_devices_draw_the_same_samples():
    mesh = make_mesh()
    sharded = draw(16, place=lambda tree: put_batch(tree, mesh))
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_allclose(sharded, draw(16), rtol=1e-5, atol=1e-6)


def test_guidance_one_is_the_plain_model_and_a_negative_prompt_takes_nulls_place():
    plain = draw(4, scale=None, solver=DDIM())
    np.testing.assert_allclose(draw(4, scale=jnp.float32(1.0), solver=DDIM()), plain, atol=1e-5)
    np.testing.assert_allclose(draw(4, scale=3.0, negative=NULL), draw(4, scale=3.0), atol=1e-6)
    away = draw(4, scale=3.0, negative={"shift": jnp.full((1, 3), 0.4)}, solver=DDIM())
    # x0 = shift + ..., so guidance 3 moves the samples by -(3 - 1) x 0.4 on the whole
    assert float((away - draw(4, scale=3.0, solver=DDIM())).mean()) == pytest.approx(-0.8, abs=0.15)


def test_clip_loss_reports_who_finds_whom():
    def apply(params, images, tokens, *, key, train):
        return CLIPOutput(images, params["text"], params["scale"])

    params = {"text": jnp.eye(3)[jnp.array([0, 2, 1])], "scale": jnp.float32(10.0)}
    batch = {"image": jnp.eye(3), "tokens": jnp.zeros((3, 2), int)}
    loss, metrics, aux = clip_loss(apply)(params, Context(), batch, jax.random.key(0))
    np.testing.assert_array_equal(metrics["accuracy_image"], [1, 0, 0])
    np.testing.assert_array_equal(metrics["accuracy_text"], [1, 0, 0])
    assert float(metrics["logit_scale"]) == 10.0 and aux is None
    np.testing.assert_allclose(loss[0], np.log1p(2 * np.exp(-10.0)), atol=2e-6)
    np.testing.assert_allclose(loss[1], 10 + np.log1p(2 * np.exp(-10.0)), rtol=1e-5)


def test_the_text_condition_is_unit_and_silent_past_the_end():
    def encode(params, tokens):
        features = jnp.ones((*tokens.shape, 4))
        return TowerOutput(features, features[:, 0], jnp.full((tokens.shape[0], 2), 3.0), features)

    cond = text_condition(encode, {}, jnp.zeros((2, 5), int), jnp.array([2, 5]))
    np.testing.assert_allclose(cond["pooled"], np.full((2, 2), 0.5**0.5), rtol=1e-6)
    np.testing.assert_array_equal(cond["tokens"].sum((1, 2)), [8, 20])


def test_batches_of_one_shape_join_to_the_whole():
    shapes = []

    def double(x, y):
        shapes.append(x.shape)
        return {"sum": x + y[:, None], "y": y}

    x, y = np.arange(14.0).reshape(7, 2), np.arange(7.0)
    out = in_batches(double, x, y, size=3)
    np.testing.assert_array_equal(out["sum"], x + y[:, None])
    np.testing.assert_array_equal(out["y"], y)
    assert set(shapes) == {(3, 2)}


def test_the_loss_knows_the_spread_of_the_data():
    """EDM's network of a Gaussian with std s is 0 where c_skip x is already the posterior mean, at sigma_data = s."""
    schedule, std = VE(0.1, 10.0), 2.0

    def silent(params, xt, t, cond, *, key=None, train=False):
        return 0.0 * xt + params["w"]

    batch = {"image": std * jax.random.normal(jax.random.key(1), (20_000, 1))}
    t = 0.5

    def at(key, batch, *rest):
        return jnp.full((batch,), t)

    losses = {}
    for sigma_data in (0.5, std):
        loss_fn = diffusion_loss(
            silent,
            schedule,
            prediction="edm",
            time="c_noise",
            space="x0",
            weight=simple,
            sample_t=at,
            sigma_data=sigma_data,
        )
        losses[sigma_data] = float(loss_fn({"w": jnp.float32(0)}, Context(), batch, jax.random.key(0))[0].mean())
    noise = float(schedule.sigma(t))
    assert losses[std] == pytest.approx(std**2 * noise**2 / (std**2 + noise**2), rel=0.03)
    assert losses[0.5] > 1.5 * losses[std]
