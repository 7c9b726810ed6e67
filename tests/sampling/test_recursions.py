"""Stochastic solvers by exact recursions of mean and variance: the denoiser of a Gaussian is affine, so no draws are needed.

Under it a sample is affine in x1 and in every draw on the way. One batch holds a probe for each: the first has mean
input and silent draws, the second a unit more of x1, the others a unit of one draw each. The differences to the first
are the gains, and the sum of their squares is the variance. Solvers with a memory are covered too.
"""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import EDM, VE, Cosine, RectifiedFlow, SubVP, VPLinear, exact, sde
from diffusion_jax.sampling import (
    DDPM,
    DPMSolverPP,
    EDMStochastic,
    EulerAncestral,
    EulerMaruyama,
    ExponentialEuler,
    PredictorCorrector,
    SASolver,
)
from diffusion_jax.typing import UserError

MEAN, STD, END = 0.7, 0.5, 2e-3


def variance(schedule, t):
    return schedule.alpha(t) ** 2 * STD**2 + schedule.sigma(t) ** 2


def grid(schedule, n):
    levels = np.linspace(float(schedule.logsnr(schedule.t_max)), float(schedule.logsnr(END)), n + 1)
    ts = np.array(schedule.t_from_logsnr(levels))
    ts[0], ts[-1] = schedule.t_max, END
    return ts


def moments(solver, schedule, ts, monkeypatch):
    """The exact mean and variance at ts[-1] of what begins as the marginal at ts[0]."""
    n, draws_a_step, draws, step_under_way = len(ts) - 1, 2, [], []

    def scripted(key, x):
        place = 2 + draws_a_step * step_under_way[-1] + len(draws)
        draws.append(place)
        return (jnp.arange(x.shape[0]) == place).astype(x.dtype)[:, None]

    for name, module in list(sys.modules.items()):
        if name.startswith("diffusion_jax.sampling.solvers.") and hasattr(module, "noise_like"):
            monkeypatch.setattr(module, "noise_like", scripted)
    model = exact.gaussian(schedule, jnp.full(1, MEAN), STD)
    if hasattr(solver, "over"):
        solver = solver.over(n)
    size = 2 + draws_a_step * n
    keys = jax.random.split(jax.random.key(0), size)

    def body(carry, inputs):
        (x, state), (index, t, s) = carry, inputs
        step_under_way.append(index)
        draws.clear()
        return solver.step(lambda x, t: model(x, t), schedule, x, t, s, keys, state), None

    x1 = jnp.full((size, 1), schedule.alpha(ts[0]) * MEAN).at[1].add(1.0)
    steps = (jnp.arange(n), jnp.asarray(ts[:-1]), jnp.asarray(ts[1:]))
    (x, _), _ = jax.lax.scan(body, (x1, solver.init(x1)), steps)
    gains = np.asarray(x[1:, 0] - x[0, 0])
    return float(x[0, 0]), float(gains[0] ** 2 * variance(schedule, ts[0]) + np.sum(gains[1:] ** 2))


SOLVERS = [
    (DDPM(), 1),
    (DDPM("beta"), 1),
    (EulerAncestral(), 1),
    (ExponentialEuler(0.7), 1),
    (ExponentialEuler(1.0), 1),
    (EulerMaruyama(), 1),
    (EulerMaruyama(0.5), 1),
    (DPMSolverPP(2, sde=True), 2),
    (DPMSolverPP(2, multistep=False, sde=True), 2),
    (SASolver(2, 2), 2),
    (EDMStochastic(s_churn=8.0, s_noise=1.0), 2),
]


@pytest.mark.parametrize(("solver", "order"), SOLVERS, ids=lambda p: repr(p))
def test_variance_converges_to_the_data(solver, order, monkeypatch):
    with jax.enable_x64(True):
        schedule = VPLinear()
        errors = []
        for n in (60, 240):
            mean, var = moments(solver, schedule, grid(schedule, n), monkeypatch)
            errors.append(abs(var / float(variance(schedule, END)) - 1))
        assert abs(mean - float(schedule.alpha(END)) * MEAN) < 0.02
    print(solver, errors)
    assert errors[1] < (0.06 if order == 1 else 2e-3)
    assert np.log(errors[0] / errors[1]) / np.log(4) > order - 0.15


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
        model = exact.gaussian(schedule, jnp.full(1, MEAN), STD)
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
    from diffusion_jax.typing import Prediction

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


def test_without_its_noise_ddpm_shrinks_by_the_product_of_its_means(monkeypatch):
    """At temperature 0 a step maps x to a s_hat x: the exact product of the gains; the spread falls far short of the data's."""
    with jax.enable_x64(True):
        schedule = VE(0.01, 10.0)
        ts = grid(schedule, 64)
        gain = 1.0
        for t, s in itertools.pairwise(ts.tolist()):
            noise, later = float(schedule.sigma(t)) ** 2, float(schedule.sigma(s)) ** 2
            gain *= later / noise + (1 - later / noise) * STD**2 / (STD**2 + noise)
        wanted = gain**2 * float(variance(schedule, ts[0]))
        mean, found = moments(DDPM(temperature=0.0), schedule, ts, monkeypatch)
        whole = moments(DDPM(), schedule, ts, monkeypatch)[1]
        half = moments(DDPM(temperature=0.5), schedule, ts, monkeypatch)[1]
    assert mean == pytest.approx(MEAN, abs=1e-6) and found == pytest.approx(wanted, rel=1e-6)
    assert half == pytest.approx(found + 0.25 * (whole - found), rel=1e-6)
    assert found < 0.2 * whole
    with pytest.raises(UserError, match=r"temperature 1\.5 is not in \[0, 1\]; nearest: 1\.0"):
        DDPM(temperature=1.5)
