"""What only a GPU can show: cuDNN's attention against the plain one, and a training step against the CPU's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.nets import attention

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("causal", "length"), [(False, None), (True, None), (False, (5, 16))])
def test_fused_attention_equals_the_plain_one(causal, length, monkeypatch):
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 16, 4, 64), jnp.bfloat16)
    lengths = None if length is None else jnp.array(length)
    assert attention._cudnn_takes(q)
    fused = attention.attend(q, k, v, causal=causal, length=lengths)
    monkeypatch.setattr(attention, "_cudnn_takes", lambda q: False)
    exact = attention.attend(*(x.astype(jnp.float32) for x in (q, k, v)), causal=causal, length=lengths)
    # bfloat16 has 8 bits of mantissa: one rounding of the weights and one of the sum
    np.testing.assert_allclose(fused.astype(jnp.float32), exact, atol=2**-7 * float(jnp.abs(v).max()))


def test_float32_falls_back_to_the_plain_one():
    assert not attention._cudnn_takes(jnp.ones((1, 2, 1, 64), jnp.float32))
