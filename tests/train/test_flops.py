"""FLOPs as counted in a traced program: closed forms first, then XLA's own count of the same program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from diffusion_jax.nets import DiT, Network
from diffusion_jax.parallel.mesh import make_mesh
from diffusion_jax.train.flops import flops

A, B = jax.ShapeDtypeStruct((3, 5), jnp.float32), jax.ShapeDtypeStruct((5, 7), jnp.float32)
SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)
PICTURE, KERNEL = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 6), jnp.float32)


def convolved(x, kernel, stride=1, groups=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def scanned(x, w):
    return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=9)[0]


def halves(x, w):
    mesh = make_mesh()
    spec = PartitionSpec("data")
    return jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=spec, out_specs=spec)(jnp.tile(x @ w, (16, 1)))


@pytest.mark.parametrize(
    ("fn", "arguments", "count"),
    [
        (jnp.matmul, (A, B), 2 * 3 * 5 * 7),
        (lambda a, b: jnp.sin(a) + 1, (A, B), 0),
        (jax.jit(jnp.matmul), (A, B), 2 * 3 * 5 * 7),
        (jax.vmap(jnp.matmul, (None, 0)), (A, jax.ShapeDtypeStruct((4, 5, 7), jnp.float32)), 4 * 2 * 3 * 5 * 7),
        (scanned, (SQUARE, SQUARE), 9 * 2 * 4**3),
        # A gradient is two products of the same size beside the first, here times the scan's length.
        (jax.grad(lambda x, w: scanned(x, w).sum(), (0, 1)), (SQUARE, SQUARE), 3 * 9 * 2 * 4**3),
        (jax.checkpoint(lambda a, b: a @ b), (A, B), 2 * 3 * 5 * 7),
        (lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: a @ b @ b.T @ b), (A, B), 3 * 2 * 3 * 5 * 7),
        (convolved, (PICTURE, KERNEL), 2 * (2 * 6 * 6 * 6) * 3 * 3 * 3),
        (lambda x, k: convolved(x, k, 2), (PICTURE, KERNEL), 2 * (2 * 3 * 3 * 6) * 3 * 3 * 3),
        (
            lambda x, k: convolved(x, k[:, :, :1], groups=3),
            (PICTURE, KERNEL),
            2 * (2 * 6 * 6 * 6) * 3 * 3,
        ),
        (halves, (SQUARE, SQUARE), 2 * 4**3 + 8 * 2 * 8 * 8 * 4),
    ],
)  # fmt: skip
def test_closed_forms(fn, arguments, count):
    assert flops(fn, *arguments) == count


def test_a_network_is_as_xla_counts_it_and_scanning_it_changes_nothing():
    counts = []
    for scan in (False, True):
        made = Network(
            lambda rngs, scan=scan: DiT(rngs, image_size=8, channels=1, width=64, layers=3, heads=4, scan=scan)
        )
        x, t = jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.float32)
        params = jax.eval_shape(made.init, jax.random.key(0))
        counts.append(flops(made.apply, params, x, t))
        if not scan:
            xla = jax.jit(made.apply).lower(params, x, t).compile().cost_analysis()["flops"]
    assert counts[0] == counts[1]
    np.testing.assert_allclose(counts[0], xla, rtol=0.1)
