"""InfoNCE against closed forms, and over a sharded batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from diffusion_jax.contrastive import infonce
from diffusion_jax.parallel.mesh import batch_sharding, make_mesh


def pairs(seed, batch, embed):
    x = np.random.default_rng(seed).normal(size=(2, batch, embed)).astype(np.float32)
    return jnp.array(x / np.linalg.norm(x, axis=-1, keepdims=True))


def test_orthogonal_pairs_have_a_closed_form():
    """Unit vectors e_i for both towers: logits s on the diagonal, 0 elsewhere, loss log(1 + (B - 1) exp(-s))."""
    for scale in (0.0, 1.0, 1 / 0.07):
        got = infonce(jnp.eye(6), jnp.eye(6), jnp.array(scale))
        np.testing.assert_allclose(got, np.full(6, np.log1p(5 * np.exp(-scale))), atol=1e-6)


def test_a_batch_of_one_has_no_negative():
    np.testing.assert_allclose(infonce(jnp.eye(1), jnp.eye(1), jnp.array(10.0)), [0.0], atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_the_mean_is_the_mean_of_two_cross_entropies(seed, batch):
    image, text = pairs(seed, batch, 4)
    scores = 7.0 * np.asarray(image, np.float64) @ np.asarray(text, np.float64).T
    rows = np.log(np.exp(scores).sum(1)) - np.diag(scores)
    columns = np.log(np.exp(scores).sum(0)) - np.diag(scores)
    assert float(infonce(image, text, jnp.array(7.0)).mean()) == pytest.approx(
        (rows.mean() + columns.mean()) / 2, abs=1e-5
    )
    swapped = infonce(text, image, jnp.array(7.0))
    np.testing.assert_allclose(swapped, infonce(image, text, jnp.array(7.0)), atol=1e-5)


def test_eight_devices_see_the_negatives_of_the_whole_batch():
    image, text = pairs(0, 32, 8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def total(image, text, scale):
        return infonce(image, text, scale).mean()

    step = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
    single = step(image, text, jnp.array(5.0))
    sharded = step(jax.device_put(image, sharding), jax.device_put(text, sharding), jnp.array(5.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), single, sharded)


@pytest.mark.parametrize("chunk", [None, 2])
def test_devices_that_see_the_same_examples_count_them_once(chunk):
    """A mesh whose third axis splits channels: value and gradients are those of one device."""
    image, text = pairs(1, 16, 8)
    mesh = make_mesh(4, 1, 2)

    def total(image, text, scale, mesh=None, chunk=None):
        return infonce(image, text, scale, mesh=mesh, chunk=chunk).mean()

    single = jax.value_and_grad(total, (0, 1, 2))(image, text, jnp.array(5.0))
    split = functools.partial(total, mesh=mesh, chunk=chunk)
    placed = jax.device_put((image, text), batch_sharding(mesh))
    found = jax.jit(jax.value_and_grad(split, (0, 1, 2)))(*placed, jnp.array(5.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), single, found)
