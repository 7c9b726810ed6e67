"""The losses by blocks and over meshes: closed forms, then the full matrix in float64, then memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from diffusion_jax.contrastive import found, infonce, sigmoid_loss
from diffusion_jax.contrastive.blocks import labels, make_spread
from diffusion_jax.parallel.mesh import make_mesh
from diffusion_jax.typing import UserError

BATCH, EMBED = 24, 6
MESHES = {1: (1, 1), 2: (2, 1), 4: (2, 2), 8: (4, 2)}


def mesh_of(count):
    return make_mesh(*MESHES[count], devices=jax.devices()[:count])


def unit_rows(seed, batch=BATCH, embed=EMBED, dtype=np.float64):
    x = np.random.default_rng(seed).normal(size=(2, batch, embed))
    return [jnp.asarray(part, dtype) for part in x / np.linalg.norm(x, axis=-1, keepdims=True)]


def by_hand(name, image, text, scale, bias, identity):
    """The loss of each pair from the full matrix, in numpy and float64."""
    image, text = np.asarray(image, np.float64), np.asarray(text, np.float64)
    own = np.asarray(identity)[:, None] == np.asarray(identity)[None, :]
    z = float(scale) * image @ text.T
    if name == "sigmoid":
        return np.log1p(np.exp(-np.where(own, 1, -1) * (z + float(bias)))).sum(1)
    target = own / own.sum(1, keepdims=True)
    rows, columns = z - np.log(np.exp(z).sum(1, keepdims=True)), z - np.log(np.exp(z).sum(0, keepdims=True))
    return -0.5 * ((target * rows).sum(1) + (target.T * columns).sum(0))


def slopes_by_hand(name, image, text, scale, bias, identity, g):
    """The gradients of sum_i g_i loss_i, from the full matrix of dL/dz, in numpy and float64."""
    own = np.asarray(identity)[:, None] == np.asarray(identity)[None, :]
    inner = np.asarray(image) @ np.asarray(text).T
    z = float(scale) * inner
    if name == "sigmoid":
        sign = np.where(own, 1, -1)
        d = -g[:, None] * sign / (1 + np.exp(sign * (z + float(bias))))
    else:
        p, e = own / own.sum(1, keepdims=True), np.exp(z)
        d = 0.5 * (g[:, None] * (e / e.sum(1, keepdims=True) - p) + g[None, :] * (e / e.sum(0, keepdims=True) - p))
    return float(scale) * d @ np.asarray(text), float(scale) * d.T @ np.asarray(image), (d * inner).sum(), d.sum()


def loss_of(name, image, text, scale, bias, **options):
    if name == "sigmoid":
        return sigmoid_loss(image, text, scale, bias, **options)
    return infonce(image, text, scale, **options)


@pytest.mark.parametrize("options", [{}, {"chunk": 5}, {"mesh": 8}, {"mesh": 8, "chunk": 7}], ids=str)
def test_equal_and_orthonormal_embeddings_have_closed_forms(options):
    options = options | ({"mesh": mesh_of(8)} if "mesh" in options else {})
    same, one = jnp.eye(1, 16).repeat(16, axis=0), jnp.zeros(16, int)
    scale, bias = jnp.float32(5.0), jnp.float32(-3.0)
    losses = jax.jit(lambda u, w, i: infonce(u, w, scale, identity=i, **options))
    # all alike: a guess among the batch, whatever is a positive
    np.testing.assert_allclose(losses(same, same, jnp.arange(16)), np.full(16, np.log(16)), rtol=1e-6)
    np.testing.assert_allclose(losses(same, same, one), np.full(16, np.log(16)), rtol=1e-6)
    np.testing.assert_allclose(losses(jnp.eye(16), jnp.eye(16), jnp.arange(16)), np.log1p(15 * np.exp(-5)), rtol=1e-5)
    every = np.log(np.exp(5) + 15) - 5 / 16
    np.testing.assert_allclose(losses(jnp.eye(16), jnp.eye(16), one), np.full(16, every), rtol=1e-6)

    def softplus(x):
        return np.log1p(np.exp(x))

    losses = jax.jit(lambda u, w: sigmoid_loss(u, w, scale, bias, **options))
    np.testing.assert_allclose(losses(same, same), np.full(16, softplus(-2) + 15 * softplus(2)), rtol=1e-6)
    orthonormal = softplus(-2) + 15 * softplus(-3)
    np.testing.assert_allclose(losses(jnp.eye(16), jnp.eye(16)), np.full(16, orthonormal), rtol=1e-6)


CASES = [(None, None), (None, 1), (None, 7), (None, 99), (1, 7), (2, 7), (4, 7), (8, None), (8, 1), (8, 7), (8, 12)]


@pytest.mark.parametrize(("devices", "chunk"), CASES)
@pytest.mark.parametrize("name", ["infonce", "sigmoid"])
def test_values_and_gradients_are_those_of_the_full_matrix(name, devices, chunk):
    """In float64, for arbitrary cotangents, with and without repeated captions, and against finite differences."""
    with jax.enable_x64(True):
        mesh = None if devices is None else mesh_of(devices)
        rng = np.random.default_rng(1)
        g = rng.normal(size=BATCH)
        arrays = (*unit_rows(0), jnp.float64(6.0), jnp.float64(-2.5))

        def weighed(image, text, scale, bias, identity):
            losses = loss_of(name, image, text, scale, bias, identity=identity, mesh=mesh, chunk=chunk)
            return (losses * g).sum(), losses

        step = jax.jit(jax.value_and_grad(weighed, (0, 1, 2, 3), has_aux=True))
        for identity in (jnp.arange(BATCH), jnp.asarray(rng.integers(0, 9, BATCH))):
            (_, losses), grads = step(*arrays, identity)
            np.testing.assert_allclose(losses, by_hand(name, *arrays, identity), rtol=1e-12)
            wanted = slopes_by_hand(name, *arrays, identity, g)
            for got, want in zip(grads[: 3 if name == "infonce" else 4], wanted):
                np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
            along = [rng.normal(size=a.shape) for a in arrays]
            up, down = (
                (g * by_hand(name, *(a + sign * 1e-5 * d for a, d in zip(arrays, along)), identity)).sum()
                for sign in (1, -1)
            )
            slope = sum((np.asarray(a) * d).sum() for a, d in zip(grads, along))
            assert slope == pytest.approx((up - down) / 2e-5, rel=1e-7)


@functools.cache
def mean_and_slopes(name, chunk):
    def mean(image, text, scale, bias, identity):
        return loss_of(name, image, text, scale, bias, identity=identity, chunk=chunk).mean()

    return jax.jit(jax.value_and_grad(mean, (0, 1, 2)))


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 5, 8]),
    st.sampled_from([1, 3, 11]),
    st.sampled_from(["infonce", "sigmoid"]),
)
def test_any_batch_and_chunk_agree_with_the_plain_formula(seed, batch, chunk, name):
    image, text = unit_rows(seed, batch, 3, np.float32)
    identity = jnp.asarray(np.random.default_rng(seed).integers(0, 4, batch))
    args = (image, text, jnp.float32(4.0), jnp.float32(-1.0), identity)
    both = [mean_and_slopes(name, size)(*args) for size in (chunk, None)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), *both)


def test_without_an_identity_each_pair_is_its_own():
    image, text = unit_rows(3, dtype=np.float32)
    for name in ("infonce", "sigmoid"):
        call = functools.partial(loss_of, name, image, text, jnp.float32(9.0), jnp.float32(-4.0))
        for options in ({}, {"chunk": 10}):
            np.testing.assert_allclose(call(**options), call(identity=jnp.arange(BATCH), **options), rtol=1e-6)


def test_sharp_logits_neither_overflow_nor_vanish():
    """s = 1000 puts logits at +-1000: exp overflows in float32, the streaming logsumexp must not."""
    image, text = unit_rows(4, dtype=np.float32)
    for sign in (1, -1):

        def mean(image, text, scale, sign=sign):
            return infonce(image, sign * text, scale, chunk=5).mean()

        value, grads = jax.jit(jax.value_and_grad(mean, (0, 1, 2)))(image, text, jnp.float32(1000.0))
        exact = infonce(image, sign * text, jnp.float32(1000.0)).mean()
        np.testing.assert_allclose(value, exact, rtol=1e-6)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))


def test_bfloat16_embeddings_are_summed_in_float32():
    image, text = (x.astype(jnp.bfloat16) for x in unit_rows(5, dtype=np.float32))
    exact = [x.astype(jnp.float32) for x in (image, text)]
    for name in ("infonce", "sigmoid"):

        def mean(image, text, name=name):
            return loss_of(name, image, text, jnp.float32(8.0), jnp.float32(-5.0), chunk=7, mesh=mesh_of(4)).mean()

        step = jax.jit(jax.value_and_grad(mean, (0, 1)))
        (value, grads), (wanted, wanted_grads) = step(image, text), step(*exact)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, wanted, rtol=1e-6)
        for got, want in zip(grads, wanted_grads):
            assert got.dtype == jnp.bfloat16
            np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2**-8, atol=1e-6)


def test_the_batch_may_be_spread_over_some_axes_alone():
    """Over "fsdp" alone, or over both axes in the other order: what the rest of the mesh holds are copies."""
    image, text = unit_rows(6, dtype=np.float32)
    wanted = infonce(image, text, jnp.float32(5.0))
    for axes in (("fsdp",), ("fsdp", "data")):
        losses = jax.jit(functools.partial(infonce, mesh=mesh_of(8), axes=axes, chunk=5))
        rows = jax.device_put(image, NamedSharding(mesh_of(8), PartitionSpec(axes)))
        np.testing.assert_allclose(losses(rows, text, jnp.float32(5.0)), wanted, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"chunk": 7}, {"mesh": 8}, {"mesh": 4, "chunk": 7}], ids=str)
def test_who_finds_whom(options):
    options = options | ({"mesh": mesh_of(options["mesh"])} if "mesh" in options else {})
    image, text = unit_rows(7, dtype=np.float32)
    text = jnp.where(jnp.arange(BATCH)[:, None] % 3 == 0, image, text)
    call = jax.jit(lambda u, w, i: found(u, w, identity=i, **options))
    for identity in (np.arange(BATCH), np.arange(BATCH) // 4):
        z = np.asarray(image) @ np.asarray(text).T
        own = np.where(identity[:, None] == identity[None, :], z, -np.inf)
        by_image, by_text = call(image, text, jnp.asarray(identity))
        np.testing.assert_array_equal(by_image, own.max(1) >= z.max(1))
        np.testing.assert_array_equal(by_text, own.max(0) >= z.max(0))
        assert 0 < by_image.sum() < BATCH and 0 < by_text.sum() < BATCH
    alike = jnp.ones((8, 2))
    assert all(bool(side.all()) for side in found(alike, alike, chunk=3)), "a tie counts as found"


NAMES = ("infonce", "sigmoid", "found")


def compiled(name, batch, devices=8, **options):
    mesh = mesh_of(devices)

    def step(image, text, scale, bias):
        if name == "found":
            return found(image, text, mesh=mesh, **options)
        return jax.grad(lambda *args: loss_of(name, *args, mesh=mesh, **options).mean(), (0, 1, 2, 3))(
            image, text, scale, bias
        )

    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    embedding = jax.ShapeDtypeStruct((batch, 8), jnp.float32, sharding=rows)
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    return jax.jit(step).lower(embedding, embedding, scalar, scalar).compile()


@pytest.mark.parametrize("name", NAMES)
def test_the_compiled_program_holds_a_block_and_no_matrix(name):
    """Twice the batch is twice the memory, and no array of the program is [local, batch] or larger."""
    small, large = (compiled(name, batch, chunk=32) for batch in (1024, 2048))
    sizes = [program.memory_analysis().temp_size_in_bytes for program in (small, large)]
    assert sizes[1] < 2.1 * sizes[0]
    assert sizes[1] < 256 * 2048 * 4, "less than one float32 array [local, batch]"

    def widest(program):
        shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", program.as_text())
        return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)

    assert widest(large) == 2048 * 8, "the gathered embeddings"
    assert widest(compiled(name, 2048)) == 256 * 2048, "without a chunk the rows are whole: the test can see it"


def test_forward_mode_is_refused_rather_than_wrong():
    image, text = unit_rows(8, dtype=np.float32)

    def mean(scale, **options):
        return infonce(image, text, scale, **options).mean()

    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(functools.partial(mean, chunk=4), (jnp.float32(3.0),), (jnp.float32(1.0),))
    slope = jax.jvp(mean, (jnp.float32(3.0),), (jnp.float32(1.0),))[1]
    np.testing.assert_allclose(slope, jax.grad(functools.partial(mean, chunk=4))(jnp.float32(3.0)), rtol=1e-4)


@pytest.mark.parametrize(
    ("batch", "options", "says"),
    [
        (8, {"chunk": 0}, r"chunk 0 is not a number of columns, 1 or more; nearest: 8"),
        (12, {"mesh": 8}, r"batch 12 is not divided by the 8 devices of the mesh axes data, fsdp; nearest: 8 or 16"),
        (8, {"mesh": 8, "axes": ("dta",)}, r"mesh axis 'dta' is not known; did you mean 'data'\?"),
    ],
)
def test_what_cannot_be_is_named(batch, options, says):
    options = options | ({"mesh": mesh_of(options["mesh"])} if "mesh" in options else {})
    image, text = unit_rows(0, batch, 3, np.float32)
    scalar = jnp.float32(1.0)
    for name in ("infonce", "sigmoid"):
        with pytest.raises(UserError, match=says):
            loss_of(name, image, text, scalar, scalar, **options)
    with pytest.raises(UserError, match=says):
        found(image, text, **options)


def test_what_the_type_checker_of_the_tests_would_refuse_is_refused_without_it():
    with pytest.raises(UserError, match=r"identity is float32\[8\]; it is one integer a pair, \[8\]"):
        labels(jnp.zeros(8), 8)
    with pytest.raises(UserError, match=r"embeddings \(8, 3\) and \(6, 3\) are not pairs"):
        make_spread(jnp.zeros((8, 3)), jnp.zeros((6, 3)), None, (), None)
