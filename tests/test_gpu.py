"""What only a GPU can show: cuDNN's attention against the plain one, value and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.nets import DiT, Network, attention
from diffusion_jax.process import VPLinear, denoiser
from diffusion_jax.sampling import log_likelihood

pytestmark = pytest.mark.gpu


SIZES = {"image_size": 8, "channels": 1, "patch": 2, "width": 64, "layers": 2, "heads": 4}
CASES = [
    # queries, keys, causal, length
    (16, 16, False, None),
    (16, 16, True, None),
    (16, 16, False, (5, 16)),
    (17, 17, False, None),
    (17, 17, True, None),
    (17, 17, True, (5, 17)),
    (64, 77, False, None),
    (64, 77, False, (5, 77)),
]


@pytest.mark.parametrize(("queries", "keys", "causal", "length"), CASES)
def test_fused_attention_equals_the_plain_one(queries, keys, causal, length, monkeypatch):
    """Of any length, even and odd: 77 is a text's, 17 that of 16 patches and a class token."""
    parts = jax.random.split(jax.random.key(0), 4)
    q, k, v, along = (
        jax.random.normal(key, (2, n, 4, 64), jnp.bfloat16)
        for key, n in zip(parts, (queries, keys, keys, queries), strict=True)
    )
    lengths = None if length is None else jnp.array(length)

    def both(*given):
        y, pull = jax.vjp(lambda *x: attention.attend(*x, causal=causal, length=lengths), *given)
        return y, *pull(along.astype(y.dtype))

    assert attention._cudnn_takes(q)
    fused = jax.jit(both)(q, k, v)
    monkeypatch.setattr(attention, "_cudnn_takes", lambda q: False)
    exact = jax.jit(lambda *x: both(*x))(*(x.astype(jnp.float32) for x in (q, k, v)))
    # bfloat16 has 8 bits of mantissa: one rounding of the weights and one of the sum
    np.testing.assert_allclose(fused[0].astype(jnp.float32), exact[0], atol=2**-7 * float(jnp.abs(v).max()))
    for found, wanted in zip(fused[1:], exact[1:], strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found.astype(jnp.float32), wanted, atol=2**-7 * float(jnp.abs(wanted).max() + 1))


def test_float32_falls_back_to_the_plain_one():
    assert not attention._cudnn_takes(jnp.ones((1, 2, 1, 64), jnp.float32))


def test_a_likelihood_goes_through_fused_attention():
    """In bfloat16 what float32 says, to a per cent."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    found = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        network = Network(lambda rngs, dtype=dtype: DiT(rngs, **SIZES, dtype=dtype))
        params = jax.tree.map(
            lambda p: p + 0.02 * jax.random.normal(jax.random.key(1), p.shape), network.init(jax.random.key(0))
        )
        model = denoiser(network.apply, params, VPLinear())
        found[dtype] = log_likelihood(
            model, VPLinear(), x, key=jax.random.key(2), divergence="rademacher", rtol=1e-3, atol=1e-3
        )
    exact, rough = (np.asarray(value.log_prob) for value in found.values())
    np.testing.assert_allclose(rough, exact, rtol=0.01)
