"""A learned uncertainty: its minimiser is the logarithm of the expected loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.process import uncertainty
from diffusion_jax.typing import UserError

LOGSNR = jnp.linspace(-12, 12, 40)


def test_it_begins_as_the_plain_loss():
    params = uncertainty.init(16)
    u = uncertainty.log_variance(params, LOGSNR)
    np.testing.assert_array_equal(u, np.zeros(40))
    np.testing.assert_array_equal(uncertainty.uncertain(LOGSNR**2, u), LOGSNR**2)


def test_the_minimiser_is_the_logarithm_of_the_mean_loss():
    """In closed form: the gradient in u vanishes at log E[L], and the loss there is 1 + log E[L], lower than nearby."""
    losses = jnp.array([0.3, 2.0, 0.1, 1.2])

    def mean(u):
        return uncertainty.uncertain(losses, jnp.full(4, u)).mean()

    best = jnp.log(losses.mean())
    assert abs(float(jax.grad(mean)(best))) < 1e-6
    np.testing.assert_allclose(mean(best), 1 + best, rtol=1e-6)
    assert min(float(mean(best - 0.1)), float(mean(best + 0.1))) > float(mean(best)) + 1e-3


def test_a_level_of_the_networks_gradient_is_that_of_a_loss_of_one():
    """Where u = log E[L], the gradient of a parameter that scales L is that of log E[L]."""
    losses = jnp.array([0.3, 2.0, 0.1, 1.2])
    u = jnp.full(4, jnp.log(losses.mean()))
    for scale in (1.0, 50.0):
        shifted = u + jnp.log(scale)
        got = jax.grad(lambda w: uncertainty.uncertain(w * scale * losses, shifted).mean())(1.0)  # noqa: B023
        assert float(got) == pytest.approx(1.0, rel=1e-5)


def test_optimisation_reaches_it():
    """For a loss that varies with the noise level by three decades, from draws around its mean."""
    params, tx = uncertainty.init(32), optax.adam(0.05)
    level = jnp.exp(0.3 * LOGSNR - 0.02 * LOGSNR**2)

    def step(carry, key):
        params, state = carry
        losses = level * jax.random.exponential(key, (40,))

        def total(params):
            return uncertainty.uncertain(losses, uncertainty.log_variance(params, LOGSNR)).mean()

        updates, state = tx.update(jax.grad(total)(params), state)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    keys = jax.random.split(jax.random.key(0), 3000)
    _, path = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), keys))()
    learned = jax.tree.map(lambda leaf: leaf[1000:].mean(0), path)
    u = uncertainty.log_variance(learned, LOGSNR)
    assert float(jnp.abs(u - jnp.log(level)).mean()) < 0.15
    assert float(jnp.abs(jnp.log(level)).mean()) > 1.5


def test_features_tell_noise_levels_apart():
    """Unit mean square over the levels and the features, and rank enough for any smooth curve."""
    channels = 64
    eye = jnp.eye(channels)
    params = [{"weight": row, "bias": jnp.zeros(())} for row in eye[::4]]
    features = np.array([uncertainty.log_variance(p, LOGSNR) for p in params]) * np.sqrt(channels)
    assert np.mean(features**2) == pytest.approx(1.0, abs=0.25)
    assert np.linalg.matrix_rank(features, tol=1e-3) >= 12


def test_no_channels_are_refused():
    with pytest.raises(UserError, match="channels 0"):
        uncertainty.init(0)
