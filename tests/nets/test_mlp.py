"""The network of points in the plane: what goes into it, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.nets import MLP, Network
from diffusion_jax.train.optim import adamw
from diffusion_jax.typing import UserError

X = jnp.array([[0.3, -1.2], [2.0, 0.5]], jnp.float32)
TIME = jnp.array([-3.0, 4.0], jnp.float32)


def stirred(params, key=3):
    """The parameters with the last layer no longer 0."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(key), len(leaves))
    return tree.unflatten([p + 0.1 * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)])


@pytest.mark.parametrize("features", [0, 5])
def test_it_is_its_layers_on_x_the_waves_and_the_phase_of_the_noise_level(features):
    """One hidden layer, written out: gelu([x, sin xB, cos xB, sin(t / 4), cos(t / 4), cond] W + b) V + c."""
    network = Network(lambda rngs: MLP(rngs, widths=(7,), features=features, classes=3))
    params = stirred(network.init(jax.random.key(0)))
    cond = jnp.eye(3)[:2]
    parts = [np.asarray(X)]
    if features:
        phase = np.asarray(X) @ np.asarray(params["frequencies"])
        parts += [np.sin(phase), np.cos(phase)]
    parts += [np.sin(TIME / 4)[:, None], np.cos(TIME / 4)[:, None], np.asarray(cond)]
    hidden, output = params["hidden"], params["output"]
    (layer,) = hidden.values() if isinstance(hidden, dict) else hidden
    inner = jax.nn.gelu(np.concatenate(parts, axis=1) @ layer["kernel"] + layer["bias"][None], approximate=False)
    np.testing.assert_allclose(
        network.apply(params, X, TIME, cond), inner @ output["kernel"] + output["bias"][None], rtol=1e-4, atol=1e-5
    )


def test_the_frequencies_are_drawn_by_std_and_stay():
    network = Network(lambda rngs: MLP(rngs, widths=(4,), features=2000, std=6.0))
    params = stirred(network.init(jax.random.key(0)))
    drawn = network.init(jax.random.key(0))["frequencies"]
    assert float(drawn.std()) == pytest.approx(6.0, rel=0.05) and abs(float(drawn.mean())) < 0.4
    tx = adamw(1.0, 0, 10, weight_decay=0.5)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert float(jnp.abs(updates["frequencies"]).max()) == 0
    assert float(jnp.abs(updates["output"]["kernel"]).max()) > 0


def test_what_it_refuses_is_one_line():
    plain = Network(lambda rngs: MLP(rngs, widths=(4,)))
    with pytest.raises(UserError, match=r"an MLP of 0 classes was given cond of shape \(2, 3\)"):
        plain.apply(plain.init(jax.random.key(0)), X, TIME, jnp.zeros((2, 3)))
    given = Network(lambda rngs: MLP(rngs, widths=(4,), classes=3))
    with pytest.raises(UserError, match="an MLP of 3 classes was given no cond"):
        given.apply(given.init(jax.random.key(0)), X, TIME, None)
    with pytest.raises(UserError, match="one hidden layer at least"):
        Network(lambda rngs: MLP(rngs, widths=()))
