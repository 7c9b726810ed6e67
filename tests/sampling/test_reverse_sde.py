"""What the stochastic solvers are made of: the reverse SDEs carry one marginal, Langevin's dynamics its stationary law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import MEAN, STD, gaussian, variance

from diffusion_jax.process import EDM, VE, Cosine, RectifiedFlow, SubVP, VPLinear, exact, sde
from diffusion_jax.sampling import DDPM, PredictorCorrector
from diffusion_jax.typing import Prediction, UserError


@pytest.mark.parametrize(
    "schedule",
    [VPLinear(), SubVP(), VE(), EDM(), Cosine(t_max=0.99), RectifiedFlow(t_max=0.99)],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.7])
def test_fokker_planck_the_whole_family_carries_one_marginal(schedule, eta):
    """With drift b x + c and noise eta g, mean and variance obey m' = b m + c and V' = 2 b V - eta^2 g^2 (time reversed).

    For every eta these are the derivatives of alpha m and alpha^2 s^2 + sigma^2; with the term halved they are not.
    """
    with jax.enable_x64(True):
        model = gaussian(schedule)
        for t in (0.2, 0.5, 0.9):
            t = jnp.float64(t)
            x = jnp.array([[0.0], [1.0]])
            c, end = sde.reverse_drift(schedule, model(x, t), t, eta)[:, 0]
            b, g2 = end - c, sde.squared_diffusion(schedule, t)
            one = jnp.ones_like(t)
            mean_rate = jax.jvp(lambda u: schedule.alpha(u) * MEAN, (t,), (one,))[1]
            variance_rate = jax.jvp(lambda u: variance(schedule, u), (t,), (one,))[1]
            np.testing.assert_allclose(b * schedule.alpha(t) * MEAN + c, mean_rate, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(2 * b * variance(schedule, t) - eta**2 * g2, variance_rate, rtol=1e-9, atol=1e-9)
            if eta:
                wrong = 2 * b * variance(schedule, t) - 0.5 * eta**2 * g2
                assert abs(float(wrong / variance_rate) - 1) > 0.01


def test_langevin_has_its_stationary_variance():
    """x + a s + sqrt(2 a) z on N(0, V): the variance goes to V / (1 - a / (2 V)), a = 2 (r sigma)^2."""
    with jax.enable_x64(True):
        schedule, t, ratio = VPLinear(), jnp.float64(0.4), 0.3
        model = exact.gaussian(schedule, jnp.zeros(1), STD)
        solver = PredictorCorrector(_Stay(), steps=1, snr=ratio)
        keys = jnp.broadcast_to(jax.random.key(7), (3,))
        x = jnp.array([[0.0], [1.0], [2.0]])
        moved, _ = solver.step(lambda x, t: model(x, t), schedule, x, t, t, keys, ())
        gain = moved[1, 0] - moved[0, 0]
        v, sigma = float(variance(schedule, t)), float(schedule.sigma(t))
        size = 2 * (ratio * sigma) ** 2
        np.testing.assert_allclose(gain, 1 - size / v, rtol=1e-9)
        np.testing.assert_allclose(moved[2, 0] - moved[1, 0], gain, rtol=1e-9)
        draw = jax.random.normal(jax.random.fold_in(keys[0], 1), (1,), jnp.float64)[0]
        noise = float(moved[0, 0] / draw)
        np.testing.assert_allclose(noise**2, 2 * size, rtol=1e-9)
        stationary = noise**2 / (1 - float(gain) ** 2)
        np.testing.assert_allclose(stationary, v / (1 - size / (2 * v)), rtol=1e-9)


class _Stay:
    def init(self, x):
        return ()

    def step(self, denoise, schedule, x, t, t_next, key, state):
        return x, state


def test_learned_range_lies_between_its_ends():
    schedule, t, s = VPLinear(), jnp.float32(0.6), jnp.float32(0.4)
    key, x = jax.random.split(jax.random.key(0), 4), jnp.zeros((4, 1))

    def with_variance(place):
        return lambda x, t: Prediction(x, x, None if place is None else jnp.full_like(x, place))

    def spread(solver, place=None):
        return solver.step(with_variance(place), schedule, x, t, s, key, ())[0]

    learned = DDPM("learned_range")
    np.testing.assert_allclose(spread(learned, -1.0), spread(DDPM()), rtol=1e-5)
    np.testing.assert_allclose(spread(learned, 1.0), spread(DDPM("beta")), rtol=1e-5)
    middle = np.sqrt(np.abs(np.asarray(spread(DDPM())) * np.asarray(spread(DDPM("beta")))))
    np.testing.assert_allclose(np.abs(spread(learned, 0.0)), middle, rtol=1e-5)
    with pytest.raises(UserError, match="learned_variance=True"):
        spread(learned)
