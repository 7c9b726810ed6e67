import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.train.optim import adamw, clamp_params, decay_mask, learning_rate_at, muon
from diffusion_jax.typing import UserError

PARAMS = {
    "blocks": {
        "attn": {"kernel": jnp.ones((2, 3, 3)), "bias": jnp.ones((2, 3))},
        "norm_1": {"scale": jnp.ones((2, 3))},
    },
    "class_embedding": jnp.ones((3,)),
    "positional_embedding": jnp.ones((5, 3)),
    "token_embedding": jnp.ones((7, 3)),
    "logit_scale": jnp.ones(()),
}


def test_decay_goes_by_path_and_not_by_axes():
    assert decay_mask(PARAMS) == {
        "blocks": {"attn": {"kernel": True, "bias": False}, "norm_1": {"scale": False}},
        "class_embedding": False,
        "positional_embedding": False,
        "token_embedding": True,
        "logit_scale": False,
    }
    assert decay_mask(PARAMS, no_decay=["attn"])["blocks"]["attn"] == {"kernel": False, "bias": False}


def test_decay_alone_multiplies_by_one_minus_lr_wd():
    tx = adamw(0.1, 0, 10, "constant", weight_decay=0.5)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = tx.update(zero, tx.init(PARAMS), PARAMS)
    after = optax.apply_updates(PARAMS, updates)
    np.testing.assert_allclose(after["blocks"]["attn"]["kernel"], 0.95, rtol=1e-6)
    np.testing.assert_array_equal(after["blocks"]["attn"]["bias"], 1.0)


def test_learning_rate_closed_form():
    rate = learning_rate_at(0.1, 4, 12, "cosine", end_scale=0.2)
    expected = [0.025, 0.05, 0.075, 0.1, 0.1]  # (n + 1)/4 of it, then the cosine starts at its top
    np.testing.assert_allclose([rate(n) for n in range(5)], expected, rtol=1e-6)
    np.testing.assert_allclose(rate(8), 0.1 * (0.2 + 0.8 * 0.5), rtol=1e-6)
    np.testing.assert_allclose([rate(12), rate(100)], [0.02, 0.02], rtol=1e-5)
    constant = learning_rate_at(0.1, 2, 12, "constant")
    np.testing.assert_allclose([constant(n) for n in (0, 1, 5, 50)], [0.05, 0.1, 0.1, 0.1], rtol=1e-6)


def test_first_update_is_minus_lr_sign():
    # m_hat / sqrt(v_hat) = g / |g| after one step, whatever b1 and b2.
    params = {"w": jnp.array([1.0, -2.0])}
    tx = adamw(0.01, 0, 10, "constant", eps=0.0)
    updates, _ = tx.update({"w": jnp.array([3.0, -0.5])}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.01, 0.01], rtol=1e-5)


def test_clip_norm_bounds_the_second_moment():
    params = {"w": jnp.array([0.0, 0.0])}
    tx = adamw(0.01, 0, 10, "constant", b1=0.0, b2=0.0, eps=1.0, clip_norm=1.0)
    updates, _ = tx.update({"w": jnp.array([30.0, 40.0])}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.01 * 0.6 / 1.6, -0.01 * 0.8 / 1.8], rtol=1e-5)


@settings(max_examples=200, deadline=None)
@given(
    p=st.floats(-200, 200, width=32, allow_subnormal=False),
    u=st.floats(-1000, 1000, width=32, allow_subnormal=False),
    hi=st.sampled_from([float(np.log(100)), 1.0, 1e-3, 3.3, 0.0]),
    lo=st.sampled_from([0.0, -1.7, -1e-4]),
)
def test_clamp_holds_exactly(p, u, hi, lo):
    tx = clamp_params({"logit_scale": (lo, hi)})
    params = {"logit_scale": jnp.float32(p), "other": jnp.float32(p)}
    updates, _ = tx.update({"logit_scale": jnp.float32(u), "other": jnp.float32(u)}, tx.init(params), params)
    after = optax.apply_updates(params, updates)
    assert np.float32(lo) <= after["logit_scale"] <= np.float32(hi)
    np.testing.assert_allclose(
        after["logit_scale"], np.clip(np.float32(p) + np.float32(u), lo, hi), atol=2e-5, rtol=1e-6
    )
    assert updates["other"] == np.float32(u)


def test_clamp_is_after_the_learning_rate():
    tx = adamw(10.0, 0, 10, "constant", weight_decay=0.1, clamp={"logit_scale": (0.0, 4.0)})
    updates, _ = tx.update(jax.tree.map(lambda p: -jnp.ones_like(p), PARAMS), tx.init(PARAMS), PARAMS)
    after = optax.apply_updates(PARAMS, updates)
    assert after["logit_scale"] == 4.0
    assert np.all(after["class_embedding"] > 10)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: adamw(0.1, 0, 10, "cosin"), "schedule 'cosin' is not known; did you mean 'cosine'"),
        (lambda: adamw(0.1, 10, 10), "warmup_steps 10 .* nearest: 9"),
        (lambda: adamw(0.1, 0, 10, clamp={"w": (2.0, 1.0)}), r"\(2.0, 1.0\) is no interval"),
        (lambda: adamw(0.1, 0, 10, clamp={"logitscale": (0.0, 1.0)}).init(PARAMS), "did you mean 'logit_scale'"),
        (lambda: decay_mask(PARAMS, ["("]), "no_decay pattern"),
        (lambda: muon(0.1, 0, 10, hidden=["("]), "hidden pattern"),
        (lambda: muon(0.1, 0, 10, hidden=["blocks/atn"]).init(PARAMS), "did you mean 'blocks/attn/"),
        (lambda: muon(0.1, 0, 10, hidden=["logit_scale"]).init(PARAMS), "'logit_scale' is no kernel: its shape is"),
    ],
)
def test_bad_settings(make, says):
    with pytest.raises(UserError, match=says):
        make()


@pytest.mark.parametrize("off", [None, 0.0])
def test_clip_norm_none_and_0_are_off(off):
    params, grads = {"w": jnp.ones(3)}, {"w": jnp.full(3, 5.0)}
    tx = adamw(0.1, 0, 10, "constant", clip_norm=off)
    updates, state = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(optax.tree_utils.tree_get(state, "mu")["w"], 0.1 * 5.0, rtol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip_norm": -1.0}, {"clip_norm": math.nan}, {"clip_norm": math.inf}, {"weight_decay": -0.1}, {"eps": -1.0},
        {"b1": 1.0}, {"b2": 1.0 - 1e-9}, {"b2": -0.1}, {"b1": math.nan}, {"learning_rate": -1e-3},
        {"learning_rate": math.nan}, {"end_scale": -1.0}, {"end_scale": 2.0}, {"warmup_steps": 10}, {"warmup_steps": -1},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_that_stand_still_or_go_uphill_are_refused(wrong):
    for make in (adamw, muon):
        with pytest.raises(UserError, match=next(iter(wrong))):
            make(**({"learning_rate": 0.1, "warmup_steps": 0, "total_steps": 10} | wrong))


def test_a_momentum_of_1_is_refused():
    with pytest.raises(UserError, match=r"momentum 1.0 .* usual: 0.95"):
        muon(0.1, 0, 10, momentum=1.0)


def _drawn(shape):
    return jax.random.normal(jax.random.key(sum(shape)), shape)


def _first_step(params, **options):
    tx = muon(1.0, 0, 10, "constant", **options)
    return tx.update(params, tx.init(params), params)[0]


@pytest.mark.parametrize("shape", [(12, 12), (8, 24), (24, 8)])
def test_muon_steps_along_the_nearest_orthogonal_matrix(shape):
    # At the first step the momentum is along the gradient, U S V^T; five iterations bring all of S near to 1 (Jordan 2024).
    gradient = _drawn(shape)
    step = _first_step({"blocks": {"kernel": gradient}})["blocks"]["kernel"]
    u, s, vt = np.linalg.svd(np.asarray(gradient), full_matrices=False)
    inner = -(u.T @ np.asarray(step) @ vt.T) / (0.2 * math.sqrt(max(shape)))
    np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-3)
    assert s.max() / s.min() > 1.5
    assert (np.diag(inner) > 0.65).all() and (np.diag(inner) < 1.25).all()
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(step))), 0.2, rtol=0.2)


def test_muon_turns_stacked_kernels_alone_and_convolutions_whole():
    stacked = _drawn((3, 8, 16))
    together = _first_step({"blocks": {"kernel": stacked}})["blocks"]["kernel"]
    for one, step in zip(stacked, together):
        np.testing.assert_allclose(step, _first_step({"blocks": {"kernel": one}})["blocks"]["kernel"], atol=1e-5)
    convolution = _drawn((2, 3, 4, 10))
    step = _first_step({"blocks": {"kernel": convolution}})["blocks"]["kernel"]
    flat = _first_step({"blocks": {"kernel": convolution.reshape(24, 10)}})["blocks"]["kernel"]
    np.testing.assert_allclose(step.reshape(24, 10), flat, atol=1e-5)
    pair = jnp.stack([convolution, 2 * convolution])  # a larger gradient makes no larger step
    np.testing.assert_allclose(_first_step({"blocks": {"kernel": pair}})["blocks"]["kernel"], [step, step], atol=1e-5)


def test_what_is_no_hidden_kernel_is_adamws():
    params = jax.tree.map(lambda leaf: leaf * 0.5, PARAMS)
    options = {"weight_decay": 0.1, "b2": 0.9, "clip_norm": 1.0, "clamp": {"logit_scale": (0.0, 0.7)}}
    found = {}
    for make in (adamw, muon):
        tx, after = make(0.1, 2, 10, **options), params
        state = tx.init(after)
        for step in range(3):
            gradients = jax.tree.map(lambda leaf, step=step: _drawn((*leaf.shape, 1 + step))[..., 0], after)
            updates, state = tx.update(gradients, state, after)
            after = optax.apply_updates(after, updates)
        found[make] = after
    assert np.abs(found[adamw]["blocks"]["attn"]["kernel"] - found[muon]["blocks"]["attn"]["kernel"]).max() > 0.01
    for after in found.values():
        after["blocks"]["attn"].pop("kernel")
    jax.tree.map(np.testing.assert_array_equal, found[adamw], found[muon])


def test_muon_has_no_second_moment_and_decays_its_kernels():
    tx = muon(0.1, 0, 10, "constant", weight_decay=0.5)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    state = tx.init(PARAMS)
    sizes = sum(leaf.size for leaf in jax.tree.leaves(state)) - sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    kernel = PARAMS["blocks"]["attn"]["kernel"].size
    assert sizes <= sum(leaf.size for leaf in jax.tree.leaves(PARAMS)) - kernel + 10
    updates, _ = tx.update(zero, state, PARAMS)
    np.testing.assert_allclose(optax.apply_updates(PARAMS, updates)["blocks"]["attn"]["kernel"], 0.95, rtol=1e-6)


def test_muons_momentum_is_nesterovs():
    # Gradients of one pair of bases: of U diag(s) V^T the step is U diag(sign) V^T, by the sign of each one's momentum.
    u, _, vt = np.linalg.svd(np.asarray(_drawn((8, 8))))
    gradients, beta, mu = (
        [np.array([1, 1, 1, 1, -1, -1, 1, -1.0]), np.array([-0.2, -0.5, -3, 2, 0.2, 0.5, 0.5, 3])],
        0.7,
        0,
    )
    tx = muon(1.0, 0, 10, "constant", momentum=beta)
    params = {"blocks": {"kernel": jnp.zeros((8, 8))}}
    state = tx.init(params)
    for n, s in enumerate(gradients, 1):
        mu = beta * mu + (1 - beta) * s
        ahead = beta * mu / (1 - beta ** (n + 1)) + (1 - beta) * s / (1 - beta**n)
        updates, state = tx.update({"blocks": {"kernel": jnp.asarray((u * s) @ vt, jnp.float32)}}, state, params)
        inner = u.T @ -np.asarray(updates["blocks"]["kernel"]) @ vt.T
        np.testing.assert_array_equal(np.sign(np.diag(inner)), np.sign(ahead))
    assert (np.sign(ahead) != np.sign(mu)).any() and (np.sign(ahead) != np.sign(s)).any()
