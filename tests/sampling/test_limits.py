"""Limits to guidance: clipping, thresholding and the interval of noise levels, against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
from guided import BATCH, Conditional, close, same
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.process import EDM, Cosine
from diffusion_jax.sampling import (
    classifier_free,
    clip_x0,
    dynamic_threshold,
    interval,
)
from diffusion_jax.typing import Prediction


def test_infinite_limits_change_no_bit(parts):
    x, cond, _ = parts
    for schedule in (Cosine(), EDM()):
        denoise, t = Conditional(schedule), jnp.array([1e-4, 0.2, 0.6, 1.0])
        same(clip_x0(denoise, schedule, -np.inf, np.inf)(x, t, cond), denoise(x, t, cond))
        same(dynamic_threshold(denoise, schedule, 0.9, np.inf)(x, t, cond), denoise(x, t, cond))


@settings(max_examples=25, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.1, 3.0))
def test_dynamic_threshold_is_the_papers(percentile, limit):
    x0 = jax.random.normal(jax.random.key(0), (5, 40)) * jnp.array([0.1, 0.5, 1.0, 2.0, 8.0])[:, None]

    def model(xt, t, cond=None):
        return Prediction(x0, xt)

    got = dynamic_threshold(model, Cosine(), percentile, limit)(x0, jnp.float32(0.5)).x0
    s = np.maximum(np.quantile(np.abs(x0), percentile, axis=1, keepdims=True), limit)
    np.testing.assert_allclose(got, np.clip(x0, -s, s) / s * limit, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        clip_x0(model, Cosine(), -limit, limit)(x0, jnp.float32(0.5)).x0, np.clip(x0, -limit, limit)
    )


def test_an_interval_is_either_and_asks_only_whom_it_needs(parts):
    x, cond, null = parts
    schedule, calls = Cosine(), []

    def counted(xt, t, cond):
        jax.debug.callback(lambda: calls.append(xt.shape[0]))
        return Conditional(schedule)(xt, t, cond)

    guided = classifier_free(counted, null, 4.0)
    within = interval(guided, counted, schedule, 0.3, 2.0)
    ts = jnp.array([0.05, 0.5, 0.5, 0.95])  # tan(pi t / 2): .079, 1, 1, 12.7
    for t, sizes in ((0.05, [BATCH]), (0.5, [2 * BATCH]), (0.95, [BATCH]), (ts, [BATCH, 2 * BATCH])):
        calls.clear()
        got = jax.block_until_ready(within(x, jnp.asarray(t, jnp.float32), cond))
        jax.effects_barrier()
        assert sorted(calls) == sizes
        inside = np.broadcast_to((jnp.asarray(t) == 0.5), (BATCH,))
        wanted = [(guided if i else counted)(x, jnp.asarray(t, jnp.float32), cond) for i in (False, True)]
        close(got, jax.tree.map(lambda p, g: np.where(inside[:, None], g, p), *wanted))  # noqa: B023
    many = interval(guided, counted, schedule, jnp.array([0.0, 0.0, 1.5, 0.3]), jnp.array([0.5, np.inf, 2.0, 2.0]))
    got = many(x, jnp.float32(0.5), cond)
    plain, led = counted(x, jnp.float32(0.5), cond), guided(x, jnp.float32(0.5), cond)
    inside = np.array([False, True, False, True])[:, None]
    close(got, jax.tree.map(lambda p, g: np.where(inside, g, p), plain, led))
