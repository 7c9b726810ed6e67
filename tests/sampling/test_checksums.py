"""Published checksums (diffusers' tests/schedulers/test_scheduler_*.py, test_full_loop_*) on one toy model.

The model says eps = x i / (i + 1) at step i of a linear table of 1000 betas; x starts as arange(768) / 768. Grid G: steps
999, 899, .. 100 (rounded), and a last one to the noise of step 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import EDM, Discrete
from diffusion_jax.sampling import DDIM, DEIS, PNDM, DPMSolverPP, Euler, UniPC, sample
from diffusion_jax.sampling.steps import exponential_step, renoised
from diffusion_jax.typing import Prediction

START = (np.arange(768) / 768).reshape(4, 192)
G = (np.round(np.linspace(0, 999, 11))[::-1][:-1].astype(int) + 1) / 1000


def toy(schedule, clip=False):
    def denoise(x, t, cond):
        i = jnp.round(schedule.num_steps * t) - 1
        eps = x * i / (i + 1)
        x0 = (x - schedule.sigma(t) * eps) / schedule.alpha(t)
        return Prediction(jnp.clip(x0, -1, 1) if clip else x0, eps)

    return denoise


def run(solver, ts, schedule, clip=False, x1=START):
    return sample(toy(schedule, clip), schedule, solver, jnp.asarray(x1), ts, jax.random.key(0))


@pytest.mark.parametrize(
    ("beta_start", "end", "total"), [(1e-4, 0.0, 172.0067), (1e-2, 0.0, 149.8295), (1e-2, None, 149.0784)]
)
def test_ddim_sums(beta_start, end, total):
    """set_alpha_to_one=False takes the last step to step 0's own noise: from step 0 that is no step, beside its clip."""
    with jax.enable_x64(True):
        schedule = Discrete(beta_start=beta_start)
        steps = (np.arange(900, -1, -100) + 1) / 1000
        if end is not None:
            x = run(DDIM(), np.append(steps, end), schedule, clip=True)
        else:
            x = run(DDIM(), steps, schedule, clip=True)
            pair = toy(schedule, clip=True)(x, 1 / 1000, None)
            x = schedule.alpha(1 / 1000) * pair.x0 + schedule.sigma(1 / 1000) * pair.eps
        assert abs(float(jnp.abs(x).sum()) - total) < (1e-3 if end is None else 5e-4)


def last_step_of_first_order(solver, schedule):
    """Nine steps of the solver, and the tenth as DDIM's from where the solver has got to."""
    x, state = jnp.asarray(START), solver.init(jnp.asarray(START))
    bound = lambda x, t: toy(schedule)(x, t, None)  # noqa: E731
    for t, s in zip(G, np.append(G[1:], 1 / 1000), strict=True):
        before = x
        x, state = solver.step(bound, schedule, x, jnp.float64(t), jnp.float64(s), jnp.zeros(()), state)
    t, s = jnp.float64(G[-1]), jnp.float64(1 / 1000)
    if isinstance(solver, UniPC):  # whose corrector still acts on the state, by the prediction made before it
        return exponential_step(schedule, renoised(schedule, state.before, state.history.values[0], t), t, s)
    return exponential_step(schedule, bound(before, t), t, s)


@pytest.mark.parametrize(
    ("solver", "mean", "lowered"),
    [(DPMSolverPP(2), 0.3301, False), (UniPC(2), 0.2464, True), (DEIS(2, "logrho"), 0.23916, True)],
    ids=["DPM++ 2M", "UniPC bh2", "DEIS log-rho"],
)
def test_means_on_grid_g(solver, mean, lowered):
    with jax.enable_x64(True):
        schedule = Discrete()
        x = last_step_of_first_order(solver, schedule) if lowered else run(solver, np.append(G, 1 / 1000), schedule)
        assert abs(float(jnp.abs(x).mean()) - mean) < 6e-5


def test_pndm_sum():
    with jax.enable_x64(True):
        schedule = Discrete()
        x = run(PNDM(), (np.arange(900, -1, -100) + 1) / 1000, schedule)
        assert abs(float(jnp.abs(x).sum()) - 198.1318) < 1e-3


def test_euler_sum():
    """1100 steps, 1099 .. 0 in 10; sigma / alpha between steps is interpolated; the toy sees x / sqrt(sigma^2 + 1)."""
    with jax.enable_x64(True):
        bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1100))
        table = np.sqrt((1 - bars) / bars)
        steps = np.linspace(0, 1099, 10)[::-1]
        sigmas = np.interp(steps, np.arange(1100), table)
        schedule = EDM(sigma_min=float(sigmas[-1]) * 0.5, sigma_max=float(sigmas[0]))
        x = START * sigmas[0]
        for index in range(10):
            sigma = sigmas[index]
            following = sigmas[index + 1] if index < 9 else 0.0
            # The published test overwrites the state by the scaled input.
            x = x / np.sqrt(sigma**2 + 1)
            eps = x * steps[index] / (steps[index] + 1)
            pair = Prediction(jnp.asarray(x - sigma * eps), jnp.asarray(eps))
            t, s = (jnp.float64(v / sigmas[0]) for v in (sigma, following))
            x = np.asarray(Euler().step(lambda x, t: pair, schedule, jnp.asarray(x), t, s, jnp.zeros(()), ())[0])  # noqa: B023
        assert abs(np.abs(x).sum() - 10.0807) < 1e-3
