import jax
import jax.numpy as jnp
import pytest
from guided import BATCH, DIM


@pytest.fixture
def parts():
    """(xt, condition, null condition) of `guided.Conditional`."""
    cond, x = (jax.random.normal(k, (BATCH, DIM)) for k in jax.random.split(jax.random.key(3), 3)[:2])
    return x, cond, jnp.full((1, DIM), 0.2)
