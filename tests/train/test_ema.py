import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.train.ema import Ema
from diffusion_jax.typing import UserError


@settings(max_examples=20, deadline=None)
@given(decay=st.floats(0.0, 0.999), count=st.integers(1, 12))
def test_without_warmup_it_is_the_geometric_sum(decay, count):
    values = np.random.default_rng(count).normal(size=count + 1)
    ema, average = Ema(decay, warmup=False), {"w": jnp.float32(values[0])}
    for n in range(count):
        average = ema.update(average, {"w": jnp.float32(values[n + 1])}, n)
    powers = decay ** np.arange(count - 1, -1, -1)
    expected = decay**count * values[0] + (1 - decay) * np.sum(powers * values[1:])
    np.testing.assert_allclose(average["w"], expected, atol=1e-5)


def test_warmup_decay_by_hand():
    ema = Ema(0.5)
    np.testing.assert_allclose([ema.decay_at(n) for n in (0, 1, 7, 8, 100)], [0.1, 2 / 11, 8 / 17, 0.5, 0.5], rtol=1e-6)


def test_warmup_has_the_product_form():
    # For a constant target 1 from 0, 1 - ema is the product of the decays: prod (1 + n)/(10 + n) = N! 9! / (N + 9)!.
    average = {"w": jnp.zeros(())}
    for n in range(5):
        average = Ema(0.999).update(average, {"w": jnp.ones(())}, n)
    np.testing.assert_allclose(1 - average["w"], 1 / 2002, rtol=1e-4)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decay_outside_is_refused(decay):
    with pytest.raises(UserError, match=f"ema decay {decay}"):
        Ema(decay)
