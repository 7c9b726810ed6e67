import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.train.ema import Ema
from diffusion_jax.train.optim import adamw
from diffusion_jax.train.state import checkpointed, init_state
from diffusion_jax.train.step import make_eval_step, make_train_step
from diffusion_jax.typing import UserError

TARGET = np.array([1.0, -2.0, 0.5], np.float32)
BATCH = {"y": np.stack([TARGET, TARGET + 1, TARGET - 1, TARGET])}


def quadratic(params, ctx, batch, key):
    per_example = 0.5 * jnp.sum((params["w"][None] - batch["y"]) ** 2, axis=-1)
    return per_example, {"half": per_example / 2, "one": jnp.ones(())}, ctx.aux


def test_sgd_on_a_quadratic_is_geometric():
    # w - target shrinks by 1 - lr each step; the mean of the batch is the target.
    tx, ema = optax.sgd(0.1), Ema(0.9, warmup=False)
    state = init_state({"w": jnp.zeros(3)}, tx, ema)
    step = jax.jit(make_train_step(quadratic, tx, ema))
    expected_ema = np.zeros(3)
    for n in range(5):
        before = TARGET * (1 - 0.9**n)
        state, metrics = step(state, BATCH, jax.random.key(0))
        loss = 0.5 * np.mean(np.sum((before - BATCH["y"]) ** 2, axis=-1))
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(metrics["half"], loss / 2, rtol=1e-5)
        np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(before - TARGET), rtol=1e-5)
        assert set(metrics) == {"loss", "half", "one", "grad_norm"}
        assert all(m.shape == () and m.dtype == jnp.float32 for m in metrics.values())
        expected_ema = 0.9 * expected_ema + 0.1 * TARGET * (1 - 0.9 ** (n + 1))
    np.testing.assert_allclose(state.params["w"], TARGET * (1 - 0.9**5), rtol=1e-5)
    np.testing.assert_allclose(state.ema["w"], expected_ema, rtol=1e-5)
    assert int(state.step) == 5


def test_adamw_by_hand():
    lr, wd, b1, b2, eps = 0.1, 0.01, 0.9, 0.99, 1e-6
    tx = adamw(lr, 0, 100, "constant", b1=b1, b2=b2, eps=eps, weight_decay=wd)
    state = init_state({"w": jnp.ones(3)}, tx)
    step = jax.jit(make_train_step(quadratic, tx))
    w, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    for n in range(1, 8):
        g = w - TARGET
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        w = w - lr * (m / (1 - b1**n) / (np.sqrt(v / (1 - b2**n)) + eps) + wd * w)
        state, _ = step(state, BATCH, jax.random.key(0))
    np.testing.assert_allclose(state.params["w"], w, atol=1e-5)
    assert state.ema is None


def test_context_and_key_of_each_step():
    def loss_fn(params, ctx, batch, key):
        noise = jax.random.normal(key, (4,))
        seen = {"noise": noise[0], "step": ctx.step, "frozen": ctx.frozen["f"], "aux": ctx.aux}
        return noise * params["w"], seen, ctx.aux + 2

    tx = optax.sgd(0.0)
    state = init_state({"w": jnp.ones(())}, tx, frozen={"f": jnp.float32(7)}, aux=jnp.float32(1))
    step = make_train_step(loss_fn, tx)
    key = jax.random.key(3)
    for n in range(3):
        state, metrics = step(state, BATCH, key)
        expected = jax.random.normal(jax.random.fold_in(key, n), (4,))
        np.testing.assert_allclose(metrics["noise"], expected[0], rtol=1e-6)
        np.testing.assert_allclose(metrics["loss"], expected.mean(), rtol=1e-5)
        assert (metrics["step"], metrics["frozen"], metrics["aux"]) == (n, 7, 1 + 2 * n)
    assert state.frozen["f"] == 7
    assert "frozen" not in checkpointed(state)


def test_eval_measures_both_parameters():
    state = init_state({"w": jnp.zeros(3)}, optax.sgd(0.1), Ema())
    state = jax.tree.map(lambda x: x, state)
    state = type(state)(state.step, {"w": jnp.asarray(TARGET)}, state.ema, state.opt_state)
    metrics = make_eval_step(quadratic)(state, BATCH, jax.random.key(0))
    np.testing.assert_allclose(metrics["loss"], 0.75, rtol=1e-6)  # 0, 1.5, 1.5, 0 on average
    np.testing.assert_allclose(metrics["ema_loss"], 0.75 + 0.5 * np.sum(TARGET**2), rtol=1e-6)
    assert set(metrics) == {"loss", "half", "one", "ema_loss", "ema_half", "ema_one"}


@pytest.mark.parametrize(
    ("loss_fn", "says"),
    [
        (lambda p, c, b, k: (jnp.sum(p["w"]), {}, None), "one number an example"),
        (lambda p, c, b, k: (p["w"], {"loss": p["w"]}, None), "the metric 'loss'"),
    ],
)
def test_loss_contract(loss_fn, says):
    tx = optax.sgd(0.1)
    with pytest.raises(ValueError, match=says):
        make_train_step(loss_fn, tx)(init_state({"w": jnp.ones(4)}, tx), BATCH, jax.random.key(0))


def test_state_copies_its_parameters():
    params = {"w": jnp.ones(3)}
    state = init_state(params, optax.sgd(0.1), Ema())
    pointers = {tree["w"].unsafe_buffer_pointer() for tree in (params, state.params, state.ema)}
    assert len(pointers) == 3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32])
def test_parameters_that_would_not_train(dtype):
    with pytest.raises(UserError, match=f"parameter 'a/w' is {jnp.dtype(dtype).name}"):
        init_state({"a": {"w": jnp.ones(3, dtype)}}, optax.sgd(0.1))
