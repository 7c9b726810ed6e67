"""Locked parameters: no gradient, no update, no decay, no state; and one line for patterns that are wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.train.lock import locked_loss, locked_optimizer, locked_tree
from diffusion_jax.train.optim import adamw
from diffusion_jax.train.state import init_state
from diffusion_jax.train.step import make_train_step
from diffusion_jax.typing import Context, UserError

PARAMS = {"visual": {"a": jnp.ones((3, 3)), "b": jnp.ones(3)}, "text": {"c": jnp.full((3,), 2.0)}}


def loss_fn(params, ctx, batch, key):
    y = batch["x"] @ params["visual"]["a"] + params["visual"]["b"][None] - params["text"]["c"][None]
    return jnp.sum(y**2, axis=-1), {}, ctx.aux


def test_a_locked_tower_stands_still_and_the_rest_trains_as_alone():
    tx = adamw(1e-2, 0, 10, weight_decay=0.1, clip_norm=1.0)
    batch, key = {"x": jnp.ones((4, 3))}, jax.random.key(0)
    locked = locked_optimizer(tx, ("^visual/",))
    step = make_train_step(locked_loss(loss_fn, ("^visual/",)), locked, None)
    state = init_state(PARAMS, locked, None)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if getattr(leaf, "shape", ()) == (3, 3)]
    assert not moments
    alone = optax.with_extra_args_support(tx)
    other, opt = {"text": PARAMS["text"]}, alone.init({"text": PARAMS["text"]})
    for _ in range(3):
        state, metrics = step(state, batch, key)

        def mean(part):
            return jnp.mean(loss_fn(PARAMS | part, Context(0, None, None, None), batch, key)[0])

        updates, opt = alone.update(jax.grad(mean)(other), opt, other)
        other = optax.apply_updates(other, updates)
    assert float(metrics["grad_norm"]) > 0
    np.testing.assert_array_equal(state.params["visual"]["a"], PARAMS["visual"]["a"])
    np.testing.assert_array_equal(state.params["visual"]["b"], PARAMS["visual"]["b"])
    np.testing.assert_allclose(state.params["text"]["c"], other["text"]["c"], rtol=1e-6)
    assert np.abs(np.asarray(state.params["text"]["c"] - 2)).min() > 1e-3


def test_gradients_of_locked_parameters_are_zero():
    loss = locked_loss(loss_fn, ("b$",))
    grads = jax.grad(
        lambda p: jnp.mean(loss(p, Context(0, None, None, None), {"x": jnp.ones((2, 3))}, jax.random.key(0))[0])
    )(PARAMS)
    assert not np.asarray(grads["visual"]["b"]).any() and np.asarray(grads["visual"]["a"]).any()
    assert locked_loss(loss_fn, ()) is loss_fn


def test_wrong_patterns_are_told():
    with pytest.raises(
        UserError, match="locked '\\^vision/' is found in no parameter; their paths begin with text, visual"
    ):
        locked_tree(PARAMS, ("^vision/",))
    with pytest.raises(UserError, match="is not a regular expression"):
        locked_tree(PARAMS, ("(",))
    with pytest.raises(UserError, match="leaves no parameter to train"):
        locked_tree(PARAMS, (".",))
