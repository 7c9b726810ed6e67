"""Layers against closed forms and against JAX's own differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.nets.attention import attend
from diffusion_jax.nets.functional import Network, Rngs, Stack
from diffusion_jax.nets.layers import (
    LayerNorm,
    Linear,
    Patchify,
    dropout,
    gelu,
    normalize,
    quick_gelu,
    sincos_positions,
    time_features,
    unpatchify,
)


def plain_norm(x: jax.Array, eps: float) -> jax.Array:
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + eps)


def test_normalize_has_the_value_and_the_gradient_of_the_formula(key):
    x, g = jax.random.normal(key, (2, 5, 7, 16)) * 3 + 1
    value, pull = jax.vjp(lambda x: normalize(x, 1e-5), x)
    wanted, wanted_pull = jax.vjp(lambda x: plain_norm(x, 1e-5), x)
    np.testing.assert_allclose(value, wanted, atol=1e-5)
    np.testing.assert_allclose(pull(g)[0], wanted_pull(g)[0], atol=1e-5)
    _, tangent = jax.jvp(lambda x: normalize(x, 1e-5), (x,), (g,))
    np.testing.assert_allclose(tangent, jax.jvp(lambda x: plain_norm(x, 1e-5), (x,), (g,))[1], atol=1e-5)


def test_normalize_keeps_its_result_for_the_backward_pass_and_not_its_input(key):
    """Two arrays of residuals: the result, and one number a row."""
    x = jax.random.normal(key, (5, 16))
    _, pull = jax.vjp(lambda x: normalize(x, 1e-5), x)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(pull) if hasattr(leaf, "size") and leaf.size > 1)
    assert sizes == [5, 80]


def test_layer_norm_forms_agree_and_pass_forward_mode(key):
    x = jax.random.normal(key, (4, 8))
    saved = Network(lambda rngs: Wrapped(LayerNorm(8, norm="saved")))
    plain = Network(lambda rngs: Wrapped(LayerNorm(8, norm="plain")))
    params = saved.init(key)
    np.testing.assert_allclose(saved.apply(params, x), plain.apply(params, x), atol=1e-6)
    for network in (saved, plain):
        _, tangent = jax.jvp(lambda x: network.apply(params, x), (x,), (jnp.ones_like(x),))  # noqa: B023
        np.testing.assert_allclose(tangent, jnp.zeros_like(x), atol=1e-5)  # adding a constant changes nothing


class Wrapped(nnx.Module):
    """A module without `key` and `train`, given them."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x, *, key=None, train=False):
        return self.inner(x)


class Affine(nnx.Module):
    """x -> tanh(x W) + noise of the layer's own key."""

    def __init__(self, rngs):
        self.linear = Linear(6, 6, rngs)

    def __call__(self, x, shift, *, key=None, train=False):
        y = jnp.tanh(self.linear(x)) + shift
        return y if key is None else y + jax.random.normal(key, y.shape)


@pytest.mark.parametrize("remat", [None, "nothing_saveable"])
def test_scanned_equals_unrolled_in_value_gradient_and_noise(key, remat):
    def network(scan, remat=None):
        return Network(lambda rngs: Stack(Affine, 3, rngs, scan=scan, remat=remat))

    unrolled, scanned = network(False), network(True, remat)
    params = unrolled.init(key)
    x, shift = jnp.ones((2, 6)), jnp.full((2, 6), 0.1)

    def total(net, params, key):
        return jnp.sum(net.apply(params, x, shift, key=key) ** 2)

    for k in (None, key):
        a = jax.value_and_grad(lambda p: total(unrolled, p, k))(params)  # noqa: B023
        b = jax.value_and_grad(lambda p: total(scanned, p, k))(params)  # noqa: B023
        jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-5, atol=1e-5), a, b)


def test_stacked_layers_start_different_and_by_their_index(key):
    three = Network(lambda rngs: Stack(Affine, 3, rngs)).init(key)["layers"]["linear"]["kernel"]
    five = Network(lambda rngs: Stack(Affine, 5, rngs)).init(key)["layers"]["linear"]["kernel"]
    assert three.shape == (3, 6, 6)
    np.testing.assert_array_equal(three, five[:3])
    assert np.abs(np.asarray(three[0] - three[1])).max() > 1e-2


def test_patchify_is_a_strided_convolution_and_unpatchify_inverts_the_cut(key):
    images = jax.random.normal(key, (2, 8, 8, 3))
    network = Network(lambda rngs: Wrapped(Patchify(4, 3, 5, rngs)))
    params = network.init(key)
    kernel = params["inner"]["proj"]["kernel"].reshape(4, 4, 3, 5)
    wanted = jax.lax.conv_general_dilated(images, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(network.apply(params, images), wanted.reshape(2, 4, 5), atol=1e-5)
    identity = {"inner": {"proj": {"kernel": jnp.eye(48), "bias": jnp.zeros(48)}}}
    cut = Network(lambda rngs: Wrapped(Patchify(4, 3, 48, rngs))).apply(identity, images)
    np.testing.assert_allclose(unpatchify(cut, 4, 8, 8), images, atol=1e-6)


def softmax_attention(q, k, v, visible):
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
    scores = np.where(visible[None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, v)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 5), st.booleans(), st.integers(0, 2**31 - 1))
def test_attention_is_the_formula_under_every_mask(length, causal, seed):
    q, k, v = np.random.default_rng(seed).normal(size=(3, 5, 2, 4)).astype(np.float32)
    visible = np.broadcast_to(np.arange(5)[None] < length, (5, 5))
    if causal:
        visible = visible & np.tril(np.ones((5, 5), bool))
    got = attend(jnp.array(q)[None], jnp.array(k)[None], jnp.array(v)[None], length=jnp.array([length]), causal=causal)
    np.testing.assert_allclose(got[0], softmax_attention(q, k, v, visible), atol=1e-5)


def test_activations_and_features():
    x = jnp.linspace(-3, 3, 7)
    np.testing.assert_allclose(quick_gelu(x), x / (1 + np.exp(-1.702 * x)), atol=1e-6)
    np.testing.assert_allclose(gelu(jnp.array([1.0])), [0.8413447], atol=1e-6)  # x Phi(x)
    features = time_features(jnp.array([0.0, 2.0]), 8)
    np.testing.assert_allclose(features[0], [1, 1, 1, 1, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(features[1, :2], np.cos([2.0, 2.0 / 10]), atol=1e-6)


def test_positions_put_the_column_first():
    table = sincos_positions(2, 3, 8)
    assert table.shape == (6, 8)
    np.testing.assert_allclose(
        table[2, :2], np.sin([2.0, 2.0 / 100]), atol=1e-6
    )  # row 0, column 2: the first half is x
    np.testing.assert_allclose(table[3, 4:6], np.sin([1.0, 1.0 / 100]), atol=1e-6)  # row 1, column 0: the second is y


def test_dropout_keeps_the_mean_and_needs_a_key(key):
    x = jnp.ones((1000, 10))
    y = dropout(x, 0.25, key, True)
    assert set(np.unique(np.asarray(y)).round(4)) == {0.0, np.float32(1 / 0.75).round(4)}
    assert abs(float(y.mean()) - 1) < 4 * np.sqrt(0.25 / 0.75 / x.size)
    assert dropout(x, 0.25, None, False) is x
    with pytest.raises(ValueError, match="needs a key"):
        dropout(x, 0.25, None, True)


def test_random_keys_are_those_of_flax_traced_or_not():
    """By every way in which a module of flax asks for one."""

    def asked(rngs):
        keys = [rngs.params(), rngs(), rngs.dropout(), rngs.dropout.fork()(), rngs["params"](), rngs.params()]
        return [jax.random.key_data(key) for key in keys]

    key = jax.random.key(3)
    wanted = asked(nnx.Rngs(key))
    assert len({tuple(np.asarray(data)) for data in wanted}) == 6
    for found in (asked(Rngs(key)), jax.jit(lambda key: asked(Rngs(key)))(key)):
        np.testing.assert_array_equal(found, wanted)
    assert isinstance(Rngs(0), nnx.Rngs)
