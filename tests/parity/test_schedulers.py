"""Step by step beside diffusers' schedulers, in float64, on one smooth denoiser: the states agree to 1e-5.

Both run on the same table of betas and the same times. The toy model says eps = x t / (1 + t). DPM-Solver++ of order 3 is
left out on purpose: diffusers' multi-step form drops a factor of 2 before the second derivative and is of second order.
SA-Solver is compared at order 1: the peer replaces the exact integrals of order 2, also on the way to order 3.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import Discrete
from diffusion_jax.sampling import DDIM, DEIS, PNDM, DPMSolverPP, SASolver, UniPC, discrete
from diffusion_jax.typing import Prediction

pytestmark = [
    pytest.mark.parity,
    # diffusers' own calls of functions that NumPy and PyTorch have deprecated
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

STEPS = 10
START = np.random.default_rng(0).normal(size=(2, 4, 4, 3))


def ours(solver, ts, steps):
    with jax.enable_x64(True):
        schedule = Discrete()

        def bound(x, t):
            index = jnp.round(1000 * t) - 1
            eps = x * index / (1000 + index)
            return Prediction((x - schedule.sigma(t) * eps) / schedule.alpha(t), eps)

        x = jnp.asarray(START)
        state, path = solver.init(x), []
        key = jax.random.split(jax.random.key(0), 2)
        for t, s in itertools.pairwise(ts[: steps + 1]):
            x, state = solver.step(bound, schedule, x, jnp.float64(t), jnp.float64(s), key, state)
            path.append(np.asarray(x))
        return path


def theirs(name, steps, **options):
    import diffusers
    import torch

    scheduler = getattr(diffusers, name)(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        timestep_spacing="trailing",
        **options,
    )
    scheduler.set_timesteps(STEPS)
    x, path = torch.tensor(START), []
    for t in list(scheduler.timesteps)[:steps]:
        index = t.to(torch.float64)
        out = scheduler.step(x * index / (1000 + index), t, x)
        x = out.prev_sample
        path.append(x.numpy().copy())
    return path


# The last step of the multi-step ones is of lower order there, by a rule of theirs on the number of steps.
CASES = [
    (DDIM(), "DDIMScheduler", {"clip_sample": False}, STEPS),
    (DPMSolverPP(1), "DPMSolverMultistepScheduler", {"solver_order": 1}, STEPS),
    (DPMSolverPP(2), "DPMSolverMultistepScheduler", {"solver_order": 2}, STEPS),
    (UniPC(1), "UniPCMultistepScheduler", {"solver_order": 1, "solver_type": "bh2"}, STEPS - 1),
    (UniPC(2), "UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2"}, STEPS - 1),
    (UniPC(2, "bh1"), "UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh1"}, STEPS - 1),
    (UniPC(3), "UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh2"}, STEPS - 2),
    (DEIS(2, "logrho"), "DEISMultistepScheduler", {"solver_order": 2}, STEPS - 1),
    (DEIS(3, "logrho"), "DEISMultistepScheduler", {"solver_order": 3}, STEPS - 2),
    (
        SASolver(1, 1, tau=0.0),
        "SASolverScheduler",
        {"predictor_order": 1, "corrector_order": 1, "tau_func": lambda t: 0.0},
        8,
    ),
]


@pytest.mark.parametrize(("solver", "name", "options", "steps"), CASES, ids=[repr(c[0]) for c in CASES])
def test_every_state_is_the_peers(solver, name, options, steps):
    ts = discrete(STEPS, Discrete(), "trailing")
    for index, (a, b) in enumerate(zip(ours(solver, ts, steps), theirs(name, steps, **options), strict=True)):
        assert np.abs(a - b).max() <= 1e-5 * max(1.0, np.abs(b).max()), index


def test_pndm_with_its_runge_kutta_start():
    import diffusers
    import torch

    scheduler = diffusers.PNDMScheduler(num_train_timesteps=1000, beta_schedule="linear", timestep_spacing="leading")
    scheduler.set_timesteps(10)
    x = torch.tensor(START)
    for t in scheduler.timesteps:
        index = t.to(torch.float64)
        x = scheduler.step(x * index / (1000 + index), t, x).prev_sample
    ts = (np.arange(900, -1, -100) + 1) / 1000
    mine = ours(PNDM(), ts, 9)[-1]
    np.testing.assert_allclose(mine, x.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize("zero", [False, True])
def test_tables_are_the_peers(name, zero):
    import diffusers

    theirs = {"cosine": "squaredcos_cap_v2"}.get(name, name)
    ends = {"scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012}}.get(name, {})
    scheduler = diffusers.DDIMScheduler(beta_schedule=theirs, rescale_betas_zero_snr=zero, **ends)
    bars = scheduler.alphas_cumprod.numpy().astype(np.float64)
    with jax.enable_x64(True):
        t = (jnp.arange(1000, dtype=jnp.float64) + 1) / 1000
        alpha = np.asarray(Discrete(name, zero_terminal_snr=zero).alpha(t))
    np.testing.assert_allclose(alpha**2, bars, atol=2e-6)
