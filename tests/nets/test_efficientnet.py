"""EfficientNet's block, whose convolution by channel is a sum of shifts, against XLA's grouped convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.nets.efficientnet import Block
from diffusion_jax.nets.functional import Network

NORM = {"scale": jnp.ones(4), "bias": jnp.zeros(4), "mean": jnp.zeros(4), "var": jnp.full(4, 1 - 1e-3)}


@pytest.mark.parametrize(("size", "stride", "shape"), [(3, 1, (5, 6)), (3, 2, (6, 5)), (5, 2, (7, 2)), (5, 1, (1, 3))])
def test_a_block_is_the_grouped_convolution_between_maps_of_a_place(size, stride, shape):
    """With norms that do nothing, no widening and the identity for the last map: the clipped convolution, and the input."""
    kernel = jax.random.normal(jax.random.key(0), (size, size, 1, 4))
    x = jax.random.normal(jax.random.key(1), (2, *shape, 4))
    params = {
        "depthwise": {"kernel": kernel, "norm": NORM},
        "project": {"kernel": jnp.eye(4)[None, None], "norm": NORM},
    }
    found = Network(lambda rngs: Block(4, 4, size, 1, rngs, stride=stride)).apply(params, x)
    wanted = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
    )
    wanted = jnp.clip(wanted, 0, 6) + (x if stride == 1 else 0)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert float(jnp.abs(wanted).max()) > 1
