"""What every network keeps: one row a network (`network_rows`), one test a property.

Each property is tried on all rows; a class of `diffusion_jax.nets` without a row is a failure.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from network_rows import BATCH, ROWS, Own

from diffusion_jax import nets
from diffusion_jax.nets import VQ, ConfigUNet, Stack
from diffusion_jax.parallel.mesh import make_mesh, put_batch, replicated
from diffusion_jax.parallel.rules import path_of, shardings, split_over_mesh


def marked(name, *values, slow=False, **told):
    """A case of a row, slow where the row or the case is."""
    return pytest.param(name, *values, marks=[pytest.mark.slow] * (slow or ROWS[name].slow), **told)


@pytest.fixture(scope="module", params=[marked(name) for name in ROWS])
def row(request):
    return ROWS[request.param]


@functools.cache
def network(row, **how):
    """Built once: a U-Net's structure takes a second."""
    return row.network(**how)


@functools.cache
def fresh(row):
    """The parameters that a network begins with."""
    return jax.jit(network(row).init)(jax.random.key(0))


@functools.cache
def stirred(row):
    """The parameters away from their start, where whole layers are 0."""
    leaves, tree = jax.tree.flatten(fresh(row))
    rng = np.random.default_rng(1)
    return tree.unflatten([leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])


def split(inputs):
    """What goes in: the numbers, by path, which may be moved a little; and a function that puts all together again."""
    flat, tree = jax.tree_util.tree_flatten_with_path(inputs)
    names = [path_of(path) for path, _ in flat]
    floats = {name: leaf for name, (_, leaf) in zip(names, flat) if np.issubdtype(leaf.dtype, np.floating)}
    return floats, lambda floats: tree.unflatten([floats.get(name, leaf) for name, (_, leaf) in zip(names, flat)])


@functools.cache
def total(row, **how):
    """One number of everything in the answer, as a function of the parameters and the numbers that go in."""
    apply, (_, whole) = network(row, **how).apply, split(row.inputs(0))

    def value(params, floats):
        return sum(
            jnp.arctan(leaf.astype(jnp.float32)).mean() for leaf in jax.tree.leaves(apply(params, *whole(floats)))
        )

    return value


@functools.cache
def derived(row, **how):
    """(total, its gradients) as one compiled function."""
    return jax.jit(jax.value_and_grad(total(row, **how), argnums=(0, 1)))


@functools.cache
def at_start(row, **how):
    return derived(row, **how)(stirred(row), split(row.inputs(0))[0])


@functools.cache
def answers(row, **how):
    """The answer as arrays with a leading batch axis."""
    apply = network(row, **how).apply
    return jax.jit(lambda params, *inputs: jax.tree.leaves(row.answer(apply(params, *inputs))))


def close(a, b, **tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), a, b)


def test_every_network_of_the_package_has_a_row():
    classes = {
        value
        for value in map(nets.__dict__.get, nets.__all__)
        if isinstance(value, type) and issubclass(value, nnx.Module)
    }
    # A stack of layers, UNet by other keywords, and AutoencoderKL with a codebook, whose derivative is none of differences.
    same = {Stack, ConfigUNet, VQ}
    assert classes - same == {row.cls for row in ROWS.values()} - {Own}


def test_parameters_are_float32_in_plain_dicts_with_string_keys_whatever_computes_them(row):
    def check(tree):
        if isinstance(tree, dict):
            assert tree and all(isinstance(name, str) for name in tree)
            return [leaf for value in tree.values() for leaf in check(value)]
        assert isinstance(tree, jax.Array) and tree.dtype == jnp.float32
        return [tree]

    assert check(fresh(row))
    for other in ({"dtype": jnp.bfloat16}, *({"scan": True, "remat": "dots_saveable"},) * ("scan" in row.how)):
        made = jax.eval_shape(network(row, **other).init, jax.random.key(0))
        assert made == jax.eval_shape(lambda: fresh(row))


def test_what_a_network_reads_is_what_its_condition_holds(row):
    inputs = row.inputs(0)
    cond = next((part for part in inputs if isinstance(part, dict)), {})
    assert set(cond) == set(() if row.unconditional else row.cls.reads)
    for name in set(cond) - set(getattr(row.cls, "optional", ())):
        lacking = [{k: v for k, v in part.items() if k != name} if part is cond else part for part in inputs]
        with pytest.raises((KeyError, ValueError), match=name):
            jax.eval_shape(network(row).apply, fresh(row), *lacking)


def test_an_answer_belongs_to_its_example_alone(row):
    """Whatever else is in the batch, and however many there are."""
    params, inputs, others = stirred(row), row.inputs(0), row.inputs(50)
    whole = answers(row)(params, *inputs)
    for leaf in whole:
        assert leaf.shape[0] == BATCH and np.abs(np.diff(leaf.reshape(BATCH, -1), axis=0)).max(axis=1).min() > 1e-4
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([b[:5], a[5:6], b[6:]]), inputs, others)
    alone = jax.tree.map(lambda a: a[5:6], inputs)
    close([leaf[5:6] for leaf in answers(row)(params, *mixed)], [leaf[5:6] for leaf in whole], atol=2e-6)
    close(answers(row)(params, *alone), [leaf[5:6] for leaf in whole], atol=1e-5)


def test_it_begins_with_the_answer_zero_or_not(row):
    for leaf in answers(row)(fresh(row), *row.inputs(0)):
        assert (np.abs(leaf).reshape(BATCH, -1).max(axis=1) == 0).tolist() == [row.zero] * BATCH


def test_every_input_is_used_by_every_example(row):
    for name, gradient in at_start(row)[1][1].items():
        assert np.abs(gradient).reshape(BATCH, -1).max(axis=1).min() > 0, name


def test_no_gradient_reaches_what_is_frozen_and_one_reaches_all_else(row):
    for path, gradient in jax.tree_util.tree_leaves_with_path(at_start(row)[1][0]):
        assert np.any(gradient) != bool(re.search(row.frozen, path_of(path))), path_of(path)


def test_derivatives_are_those_of_differences(row):
    """Forward mode equals reverse mode, and both the slope of the total along one direction of everything that moves."""
    params, (floats, _) = stirred(row), split(row.inputs(0))
    rng = np.random.default_rng(2)

    def direction(path, leaf):
        moved = not re.search(row.frozen, path_of(path[1:]))
        return moved * 0.1 * rng.normal(size=leaf.shape).astype(np.float32)

    point = (params, floats)
    along = jax.tree_util.tree_map_with_path(direction, point)
    _, slope = jax.jit(functools.partial(jax.jvp, total(row)))(point, along)
    gradients = at_start(row)[1]
    backward = sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(along)))
    assert float(slope) == pytest.approx(float(backward), rel=1e-4)

    def difference(h):
        ahead, behind = (derived(row)(*jax.tree.map(lambda p, d: p + s * h * d, point, along))[0] for s in (1, -1))  # noqa: B023
        return (float(ahead) - float(behind)) / (2 * h)

    h = row.step
    assert float(slope) == pytest.approx((4 * difference(h / 2) - difference(h)) / 3, rel=3e-3)


WAYS = ({"scan": True}, {"scan": True, "remat": "nothing_saveable"}, {"remat": "dots_saveable"}, {"norm": "plain"})


@pytest.mark.parametrize(
    ("row", "how"),
    [
        # Scanned and thought over again at once is the hardest: scanned alone, and each alone of a U-Net, are slow ones.
        marked(
            name, how, id=f"{name}-{'-'.join(how)}", slow=how == {"scan": True} or (name == "UNet" and len(how) == 1)
        )
        for name, one in ROWS.items()
        for how in WAYS
        if set(how) <= set(one.how)
    ],
    indirect=["row"],
)
def test_however_it_is_computed_value_and_gradient_are_the_same(row, how):
    close(at_start(row, **how), at_start(row), rtol=1e-4, atol=1e-6)


def test_bfloat16_computes_from_float32_parameters_what_float32_does(row):
    inputs = row.inputs(0)
    for exact, rough in zip(
        answers(row)(stirred(row), *inputs), answers(row, dtype=jnp.bfloat16)(stirred(row), *inputs)
    ):
        assert exact.dtype == rough.dtype == jnp.float32
        assert 1e-6 < np.abs(exact - rough).max() / np.abs(exact).max() < 0.05


@pytest.mark.parametrize("sizes", [(4, 2), pytest.param((4, 1, 2), marks=pytest.mark.slow)], ids=["fsdp", "tensor"])
def test_eight_devices_give_what_one_gives(row, sizes):
    """The batch over all of them, and parameters split over two; or the batch over four pairs, and channels over a pair's."""
    mesh, (floats, _) = make_mesh(*sizes), split(row.inputs(0))
    params = stirred(row)
    placed = jax.device_put(params, shardings(params, split_over_mesh(params, mesh, least=32), mesh))
    assert not all(leaf.sharding == replicated(mesh) for leaf in jax.tree.leaves(placed))
    close(derived(row)(placed, put_batch(floats, mesh)), at_start(row), rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives(row):
    """Value and gradients, with products in float32 throughout on both."""
    point = stirred(row), split(row.inputs(0))[0]
    with jax.default_matmul_precision("highest"):
        there, here = (derived(row)(*jax.device_put(point, jax.devices(kind)[0])) for kind in ("gpu", "cpu"))
    assert {leaf.device.platform for leaf in jax.tree.leaves(there)} == {"gpu"}
    close(there, here, rtol=1e-4, atol=1e-5)
