"""EDM2's layers keep magnitudes: each by itself, and the network through its depth, at the start and while it is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from called import Layer
from compiled import Compiled

from diffusion_jax.nets import EDM2UNet, Network, unit_filters
from diffusion_jax.nets.unet import edm2
from diffusion_jax.typing import UserError

SIZES = {
    "image_size": 16,
    "in_channels": 3,
    "width": 32,
    "channels": (1, 2),
    "layers": 2,
    "attention": (8,),
    "head_dim": 32,
}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def magnitude(x):
    return jnp.sqrt((x * x).mean())


def test_every_operation_keeps_the_magnitude():
    a, b = normal(0, 64, 4, 4, 48), normal(1, 64, 4, 4, 16)
    assert magnitude(edm2.magnitude_silu(a)) == pytest.approx(1, abs=0.01)
    assert magnitude(edm2.magnitude_sum(a, normal(2, *a.shape), 0.3)) == pytest.approx(1, abs=0.01)
    joined = edm2.magnitude_join(a, b)
    assert magnitude(joined) == pytest.approx(1, abs=0.01)
    # Each brings half of it, though one is three times as wide.
    assert float((joined[..., :48] ** 2).sum()) == pytest.approx(float((joined[..., 48:] ** 2).sum()), rel=0.02)
    assert magnitude(edm2.pixel_norm(7 * a)) == pytest.approx(1, abs=1e-3)
    for size in (0, 1, 3):
        layer = Layer(lambda rngs: edm2.UnitLayer(48, 64, size, rngs, dtype=jnp.float32))  # noqa: B023
        x = a[:, 0, 0] if size == 0 else a
        y = layer.apply(layer.init(jax.random.key(size)), x)
        inner = y if size < 3 else y[:, 1:-1, 1:-1]
        assert magnitude(inner) == pytest.approx(1, abs=0.05)


def test_a_layer_does_not_depend_on_the_length_of_its_filters():
    layer = Layer(lambda rngs: edm2.UnitLayer(4, 5, 3, rngs, dtype=jnp.float32))
    params, x = layer.init(jax.random.key(0)), normal(1, 2, 4, 4, 4)
    longer = {"unit_kernel": params["unit_kernel"] * jnp.array([1.0, 2.0, 5.0, 10.0, 100.0])[None, None, None]}
    np.testing.assert_allclose(layer.apply(longer, x), layer.apply(params, x), rtol=1e-3)


def blocks(network, params, x, c, cond):
    """The magnitude of what every block gives."""
    before = edm2.EDM2Block.__call__

    @jax.jit
    def watched(params):
        seen = []

        def call(self, *inputs, **options):
            y = before(self, *inputs, **options)
            seen.append(magnitude(y))
            return y

        edm2.EDM2Block.__call__ = call
        try:
            network.apply(params, x, c, cond)
        finally:
            edm2.EDM2Block.__call__ = before
        return seen

    return [float(value) for value in watched(params)]


def trained(network, params, steps):
    """Adam with the recipe's rate and ramp (0.01 after 10 million images, 2048 a step), and the norms after each step."""
    tx = optax.adam(optax.linear_schedule(0.0, 0.01, 10_000_000 // 2048), b2=0.99)

    @jax.jit
    def step(params, state, seed):
        keys = jax.random.split(jax.random.key(seed), 3)
        x, c = jax.random.normal(keys[0], (8, 16, 16, 3)), jax.random.normal(keys[1], (8,)) / 4
        label = jax.random.randint(keys[2], (8,), 0, 4)

        def loss(params):
            return ((network.apply(params, x, c, {"label": label}) - jnp.roll(x, 1, 2)) ** 2).mean()

        gradients = jax.grad(loss)(params)
        updates, state = tx.update(gradients, state, params)
        return unit_filters(optax.apply_updates(params, updates)), state

    state = tx.init(params)
    for seed in range(steps):
        params, state = step(params, state, seed)
    return params


@pytest.mark.parametrize("steps", [0, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("attention", "lowest"), [((), 0.8), ((8,), 0.7)])
def test_activations_are_of_magnitude_1_through_the_depth(steps, attention, lowest):
    """Within 20%, and within 30% where blocks attend.

    At the start attention is a mean over values that hardly depend on one another, of a magnitude near 0, so that the sum
    of it and x has sqrt(0.49 / 0.58) = 0.92 of x's. Where every block attends, joins of x and skips of that magnitude
    settle at x^2 = 0.845 (x^2 + 0.845) / 2, which is 0.79, and zeros beyond the edges take some more.
    """
    network = Network(lambda rngs: EDM2UNet(rngs, **SIZES | {"attention": attention}, classes=5))
    params = trained(network, network.init(jax.random.key(0)), steps)
    x, c, cond = normal(1, 16, 16, 16, 3), normal(2, 16) / 4, {"label": jnp.arange(16) % 4}
    found = blocks(network, params, x, c, cond)
    assert len(found) == 14
    assert lowest < min(found) and max(found) < 1.2


def test_filters_have_their_norm_after_a_step_to_the_last_bit_that_float32_has():
    network = Compiled(lambda rngs: EDM2UNet(rngs, **SIZES))
    params = jax.tree.map(lambda leaf: 3 * leaf, network.init(jax.random.key(0)))
    forced = unit_filters(params)
    checked = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(forced):
        if path[-1].key == "unit_kernel":
            norms = np.sqrt((np.asarray(leaf, np.float64) ** 2).sum(tuple(range(leaf.ndim - 1))))
            np.testing.assert_allclose(norms, np.sqrt(np.prod(leaf.shape[:-1])), rtol=1e-6)
            checked += 1
        else:
            before = params
            for part in path:
                before = before[part.key]
            np.testing.assert_array_equal(leaf, before)
    assert checked > 30


def test_no_label_is_the_one_without_a_direction():
    network = Compiled(lambda rngs: EDM2UNet(rngs, **SIZES, classes=5))
    params = network.init(jax.random.key(0)) | {"gain_out": jnp.float32(1.0)}
    params["down"] = {name: block | {"embed_gain": jnp.float32(1.0)} for name, block in params["down"].items()}
    x, c = normal(1, 2, 16, 16, 3), jnp.zeros(2)
    told, untold = (network.apply(params, x, c, {"label": jnp.array(labels)}) for labels in ([0, 1], [4, 4]))
    assert np.abs(told - untold).max() > 1e-3
    table = params["label"] | {"unit_kernel": -params["label"]["unit_kernel"]}
    again = network.apply(params | {"label": table}, x, c, {"label": jnp.array([4, 4])})
    np.testing.assert_array_equal(again, untold)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image_size": 18, "channels": (1, 2, 2)}, "image_size 18 is not halved 2 times"),
        ({"head_dim": 48}, "head_dim 48 does not divide the 64 channels"),
    ],
)
def test_what_cannot_be_is_one_line(wrong, said):
    with pytest.raises(UserError, match=said):
        Network(lambda rngs: EDM2UNet(rngs, **SIZES | wrong))
