"""Encoding by micro-batches: the same numbers, gradients and masks as at once, and less memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from diffusion_jax.contrastive import in_micro_batches, infonce
from diffusion_jax.parallel.mesh import make_mesh, put_batch
from diffusion_jax.typing import UserError

BATCH, WIDTH = 32, 16


def encode(params, x, *, key=None, train=False):
    """A small network with dropout as the networks have it: by one key, or by one key an example."""
    h = jnp.tanh(x @ params["a"])
    if train:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(x.shape[0])) if key.ndim == 0 else key
        h = h * jax.vmap(lambda k: jax.random.bernoulli(k, 0.6, (WIDTH,)))(keys)
    out = h @ params["b"]
    return out / jnp.linalg.norm(out, axis=-1, keepdims=True)


def parameters(width=WIDTH):
    a, b, c, d = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(8, width), (width, 6)] * 2))
    return {"image": {"a": a, "b": b}, "text": {"a": c, "b": d}, "logit_scale": jnp.float32(1.5)}


def inputs(batch=BATCH):
    x = np.random.default_rng(0).normal(size=(2, batch, 8)).astype(np.float32)
    return {"image": x[0], "text": x[1]}


def loss_by(encoder, **options):
    def loss(params, batch, key):
        sides = [encoder(params[side], batch[side], key=key, train=True) for side in ("image", "text")]
        return infonce(*sides, jnp.exp(params["logit_scale"]), **options).mean()

    return jax.jit(jax.value_and_grad(loss))


def close(got, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), got, wanted)


@pytest.mark.parametrize("count", [1, 8])
def test_gradients_are_those_of_the_whole_batch(count, key):
    """Of the temperature too, which the loss sees once however many parts there are."""
    wanted = loss_by(encode)(parameters(), inputs(), key)
    got = loss_by(in_micro_batches(encode, count), chunk=5)(parameters(), inputs(), key)
    close(got, wanted)
    assert abs(float(wanted[1]["logit_scale"])) > 1e-3, "a factor would show"


def test_micro_batches_on_eight_devices(key):
    mesh = make_mesh(4, 2)
    step = loss_by(in_micro_batches(encode, 4, mesh=mesh), mesh=mesh, chunk=5)
    close(step(parameters(), put_batch(inputs(), mesh), key), loss_by(encode)(parameters(), inputs(), key))


def test_the_loss_of_parts_alone_is_another_loss(key):
    """What the method is for: averaging the gradients of small batches sees fewer negatives."""
    whole = loss_by(encode)(parameters(), inputs(), key)[0]
    parts = [loss_by(encode)(parameters(), jax.tree.map(lambda x: x[k::8], inputs()), key)[0] for k in range(8)]  # noqa: B023
    assert float(whole) > np.mean(parts) + 1.0


def test_masks_are_those_of_the_undivided_run(key):
    """Bit for bit the same dropout from one key, from one key an example, and undivided; another key gives another."""

    def masks(params, x, *, key, train):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(x.shape[0])) if key.ndim == 0 else key
        return {"mask": jax.vmap(lambda k: jax.random.bernoulli(k, 0.5, (40,)))(keys), "x": x}

    x = jnp.arange(12.0)[:, None]
    wanted = masks({}, x, key=key, train=True)
    for given in (key, jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(12))):
        got = in_micro_batches(masks, 3)({}, x, key=given, train=True)
        jax.tree.map(np.testing.assert_array_equal, got, wanted)
    other = in_micro_batches(masks, 3)({}, x, key=jax.random.key(1), train=True)
    assert bool((other["mask"] != wanted["mask"]).any())


def program(count, batch=4096, mesh=None, backward=True):
    encoder = in_micro_batches(encode, count, mesh=mesh)

    def run(params, x, key):
        return encoder(params, x, key=key, train=True)

    def total(params, x, key):
        return (run(params, x, key) ** 3).sum()

    whole, rows = None, None
    if mesh is not None:
        whole, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), parameters()["image"])
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=whole)
    x = jax.ShapeDtypeStruct((batch, 8), jnp.float32, sharding=rows)
    return jax.jit(jax.grad(total) if backward else run).lower(params, x, key).compile()


def test_temporary_memory_falls_with_the_number_of_micro_batches():
    sizes = [program(count).memory_analysis().temp_size_in_bytes for count in (1, 2, 4, 8)]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4
    assert sizes[3] < 0.4 * sizes[0]


def test_dividing_moves_no_data_between_devices():
    mesh = make_mesh(4, 2)
    moves = r"(all-gather|all-to-all|collective-permute|all-reduce)(-start)?\("
    assert not re.search(moves, program(4, mesh=mesh, backward=False).as_text())
    backward = program(4, mesh=mesh).as_text()
    assert {name for name, _ in re.findall(moves, backward)} == {"all-reduce"}, "the parameters' gradient alone"
    local = 4096 // 8 // 4
    assert f"f32[{local},{WIDTH}]" in backward and f"f32[{8 * local},{WIDTH}]" not in backward


@pytest.mark.parametrize(
    ("count", "devices", "says"),
    [
        (0, 1, "micro_batches 0 is not a number of micro-batches, 1 or more; nearest: 1"),
        (5, 1, "micro_batches 5 does not divide a batch of 32; nearest: 4"),
        (8, 8, "micro_batches 8 does not divide a batch of 32 on 8 devices; nearest: 4"),
        (64, 1, "micro_batches 64 does not divide a batch of 32; nearest: 32"),
    ],
)
def test_counts_that_do_not_fit_are_named(count, devices, says, key):
    mesh = make_mesh() if devices == 8 else None
    with pytest.raises(UserError, match=says):
        in_micro_batches(encode, count, mesh=mesh)(parameters()["image"], inputs()["image"], key=key, train=True)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: jax.random.PRNGKey(0), r"key is uint32\[2\], an old-style key; make it with jax.random.key\(seed\)"),
        (
            lambda: jax.random.split(jax.random.key(0), 3),
            r"key has shape \[3\]; it is one key, or one an example, \[32\]",
        ),
    ],
)
def test_keys_that_do_not_fit_are_named(make, says):
    with pytest.raises(UserError, match=says):
        in_micro_batches(encode, 2)(parameters()["image"], inputs()["image"], key=make(), train=True)
