"""Importance sampling of times: the probabilities, unbiasedness, and the history as an exact recursion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.process import Cosine, VPLinear
from diffusion_jax.process.importance import Importance
from diffusion_jax.process.times import stratified
from diffusion_jax.typing import UserError


def full(importance, seed=0):
    history = np.random.default_rng(seed).exponential(size=(importance.bins, importance.history)) ** 2 + 0.01
    return {
        "history": jnp.asarray(history, jnp.float32),
        "count": jnp.full(importance.bins, importance.history, jnp.int32),
    }


def test_probabilities_follow_the_root_of_the_second_moment():
    importance = Importance(bins=7, history=4, uniform=0.1)
    state = full(importance)
    root = np.sqrt((np.asarray(state["history"], np.float64) ** 2).mean(1))
    wanted = 0.9 * root / root.sum() + 0.1 / 7
    np.testing.assert_allclose(importance.probabilities(state), wanted, rtol=1e-5)


def test_it_is_uniform_until_every_history_is_full():
    importance = Importance(bins=5, history=3)
    state = full(importance)
    state["count"] = state["count"].at[2].set(2)
    np.testing.assert_allclose(importance.probabilities(state), np.full(5, 0.2), rtol=1e-6)
    t, weight = importance.sample(state, jax.random.key(0), 11, Cosine())
    np.testing.assert_allclose(t, stratified(jax.random.key(0), 11, Cosine()), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weight, np.ones(11), rtol=1e-6)
    np.testing.assert_allclose(importance.probabilities(importance.init()), np.full(5, 0.2), rtol=1e-6)
    zero = {"history": jnp.zeros((5, 3)), "count": jnp.full(5, 3, jnp.int32)}
    np.testing.assert_allclose(importance.probabilities(zero), np.full(5, 0.2), rtol=1e-6)


@settings(max_examples=9, deadline=None)
@given(bins=st.sampled_from([1, 3, 12]), seed=st.integers(0, 1000))
def test_weights_make_every_loss_unbiased(bins, seed):
    """Exactly: E_p[w L] = sum_b p_b w_b L_b is the uniform mean, for any L; and the p_b sum to 1."""
    importance = Importance(bins=bins, history=2, uniform=0.05)
    state = full(importance, seed)
    p = np.asarray(importance.probabilities(state), np.float64)
    assert abs(p.sum() - 1) < 1e-5
    schedule = VPLinear(t_min=0.1, t_max=0.9)
    t, weight = importance.sample(state, jax.random.key(seed), 4000, schedule)
    chosen = np.asarray(importance.bin_of(t, schedule))
    # A time at an edge may round into the next bin.
    agree = np.abs(np.asarray(weight) * p[chosen] * bins - 1) < 1e-4
    assert agree.mean() > 0.98
    loss = np.random.default_rng(seed).normal(size=bins)
    weights = np.array([np.median(np.asarray(weight)[chosen == b]) for b in range(bins)])
    np.testing.assert_allclose((p * weights * loss).sum(), loss.mean(), rtol=1e-4, atol=1e-5)


def test_times_have_the_density_of_their_bins():
    """Stratified under p: a bin's count is off by at most one, and its times are evenly spread within it."""
    importance, schedule, n = Importance(bins=6, history=3), VPLinear(t_min=0.1, t_max=0.7), 3000
    state = full(importance)
    p = np.asarray(importance.probabilities(state), np.float64)
    t, weight = importance.sample(state, jax.random.key(1), n, schedule)
    t = np.asarray(t, np.float64)
    assert t.min() >= np.float32(0.1) and t.max() <= np.float32(0.7)
    counts, _ = np.histogram(t, 6, (0.1, 0.7))
    assert np.abs(counts - n * p).max() < 1.5
    for b in range(6):
        inside = np.sort((t[(t > 0.1 + 0.1 * b) & (t < 0.2 + 0.1 * b)] - 0.1 - 0.1 * b) / 0.1)
        even = (np.arange(len(inside)) + 0.5) / len(inside)
        assert np.abs(inside - even).max() < 1.5 / len(inside)
    # t itself as the loss: the weighted mean is the uniform mean
    assert abs((np.asarray(weight) * t).mean() - 0.4) < 2e-3
    assert abs(t.mean() - 0.4) > 0.01


def appended(importance, state, bins, losses):
    """The recursion as it is told: one loss after another, the oldest forgotten."""
    rows = [list(np.asarray(row)[:count]) for row, count in zip(state["history"], np.asarray(state["count"]))]
    for b, loss in zip(bins, losses):
        rows[b] = [*rows[b], np.float32(loss)][-importance.history :]
    return rows


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), batches=st.integers(1, 5), crowd=st.booleans())
def test_the_history_is_the_last_losses_in_order(seed, batches, crowd):
    """Also when one bin gets more than a whole history within a batch."""
    importance, rng = Importance(bins=4, history=3), np.random.default_rng(seed)
    schedule, state = VPLinear(t_min=0.2, t_max=0.6), importance.init()
    update = jax.jit(importance.update, static_argnames="schedule")
    for _ in range(batches):
        bins = rng.integers(0, 2 if crowd else 4, size=9)
        t = jnp.asarray(0.2 + 0.1 * (bins + rng.uniform(0.01, 0.99, 9)), jnp.float32)
        losses = rng.normal(size=9).astype(np.float32)
        wanted = appended(importance, state, bins, losses)
        state = update(state, t, jnp.asarray(losses), schedule=schedule)
        assert [len(row) for row in wanted] == list(np.asarray(state["count"]))
        for row, history in zip(wanted, np.asarray(state["history"])):
            np.testing.assert_array_equal(history[: len(row)], np.array(row, np.float32))
            assert (history[len(row) :] == 0).all()


def test_the_state_is_a_fixed_point_of_its_types_and_needs_no_gradient():
    importance = Importance(bins=4, history=2)

    def total(x):
        state = importance.update(importance.init(), jnp.linspace(0, 1, 5), x * jnp.ones(5), Cosine())
        return state["history"].sum()

    assert float(jax.grad(total)(2.0)) == 0.0
    state = importance.init()
    for step in range(4):
        t, _ = importance.sample(state, jax.random.key(step), 8, Cosine())
        after = importance.update(state, t, jnp.ones(8, jnp.bfloat16), Cosine())
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
        state = after
    assert (state["count"] == 2).all()


def test_variance_falls_when_the_loss_is_uneven():
    """With the loss of each bin known, the weighted losses are all alike."""
    importance, schedule = Importance(bins=20, history=1, uniform=1e-6), Cosine()
    level = jnp.exp(-0.4 * jnp.arange(20.0))
    state = {"history": level[:, None], "count": jnp.ones(20, jnp.int32)}
    t, weight = importance.sample(state, jax.random.key(0), 1000, schedule)
    losses = weight * level[importance.bin_of(t, schedule)]
    assert float(jnp.median(jnp.abs(losses / level.mean() - 1))) < 1e-3
    assert float(losses.mean()) == pytest.approx(float(level.mean()), rel=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"bins": 0}, "bins 0"), ({"history": 0}, "history 0"), ({"uniform": 0.0}, "uniform 0.0")],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        Importance(**options)
