"""diffusers' schedulers and this library's plans of the same `scheduler_config.json`, on one cheap network.

The timesteps are equal, every one that the network is told included, and the final latents to 1e-5 of their largest value.
"""

import dataclasses
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))

from scheduler_cases import CASES, PICTURE, network, ours, sd
from scheduler_peer import theirs

from diffusion_jax.pipelines import read_scheduler
from diffusion_jax.process import denoiser
from diffusion_jax.sampling import invert

pytestmark = [
    pytest.mark.parity,
    # diffusers' own calls of functions that NumPy and PyTorch have deprecated
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

BOUND = 1e-5


def apply(params, x, time, cond=None, *, key=None, train=False):
    return network(x, time.reshape(-1, *(1 for _ in x.shape[1:])), jnp.sin)


def check(config, num_steps, strength=1.0, eta=0.0, bound=BOUND):
    mine, plan, told = ours(config, num_steps, strength, eta)
    peer, timesteps = theirs(config, num_steps, strength, eta)
    # Timesteps between the table's come from float32 square roots, which PyTorch rounds as its machine has them.
    slack = 0 if (timesteps == timesteps.round()).all() else 1e-6
    np.testing.assert_allclose(plan.timesteps.astype("f"), timesteps.astype("f"), rtol=slack, atol=slack)
    np.testing.assert_array_equal(told, plan.timesteps.astype("f"))
    error = np.abs(mine - peer).max() / np.abs(peer).max()
    assert error <= bound, f"{error:.2g}"


@pytest.mark.parametrize("num_steps", [12, 20])
@pytest.mark.parametrize("case", CASES)
def test_the_final_latents_are_the_peers(case, num_steps):
    check(CASES[case], num_steps)


def test_prk_and_eta_and_others_by_their_own_steps():
    for prediction in ("epsilon", "v_prediction"):
        check(sd("PNDMScheduler", prediction_type=prediction), 10)
        check(sd("PNDMScheduler", prediction_type=prediction), 20)
    for eta in (0.3, 1.0):
        check(CASES["ddim"], 20, eta=eta)
    for num_steps in (1, 4):
        check(CASES["lcm"], num_steps)
    check(CASES["pndm"], 1)


@pytest.mark.parametrize(("num_steps", "strength"), [(4, 0.5), (4, 0.8), (8, 0.3), (1, 0.1), (20, 1.0)])
def test_latent_consistency_from_a_picture_takes_its_own_timesteps(num_steps, strength):
    """As its pipeline asks its scheduler."""
    peer = pytest.importorskip("diffusers").LCMScheduler()
    peer.set_timesteps(num_steps, original_inference_steps=50, strength=strength)
    own = dataclasses.replace(read_scheduler({"_class_name": "LCMScheduler"}, "f"), shortens=True)
    assert own.plan(num_steps, strength=strength).timesteps.tolist() == peer.timesteps.tolist()


PICTURES = [name for name in CASES if not name.startswith("lms")]


@pytest.mark.parametrize("case", PICTURES)
def test_from_a_picture(case):
    for num_steps, strength in ((20, 0.6), (12, 0.75)):
        check(CASES[case], num_steps, strength=strength)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("DDIMScheduler", {"leading": (958, 925, 1), "linspace": (999, 965, 0), "trailing": (999, 966, 32)}),
        ("EulerDiscreteScheduler", {"leading": (958, 925, 1), "trailing": (999, 966, 32)}),
        (
            "DPMSolverMultistepScheduler",
            {"leading": (961, 929, 33), "linspace": (999, 966, 33), "trailing": (999, 966, 32)},
        ),
        (
            "UniPCMultistepScheduler",
            {"leading": (961, 929, 33), "linspace": (999, 966, 33), "trailing": (999, 966, 32)},
        ),
    ],
)
def test_the_grids_of_30_steps(name, table):
    for spacing, (first, second, last) in table.items():
        config = sd(name, timestep_spacing=spacing, clip_sample=False)
        check(config, 30)
        steps = read_scheduler(config, "a file").plan(30).timesteps
        assert (steps[0], steps[1], steps[-1]) == (first, second, last)


@pytest.mark.parametrize("case", ["ddim", "ddim trained", "ddim v zero snr", "ddim linspace"])
@pytest.mark.parametrize("num_steps", [10, 20])
def test_an_inversion_is_the_peers(case, num_steps):
    """DDIMInverseScheduler's, whose network is told the timestep that a step goes to."""
    import diffusers
    import torch

    config = dict(CASES[case])
    config |= {"timestep_spacing": "leading", "rescale_betas_zero_snr": False}
    scheduler = diffusers.DDIMInverseScheduler.from_config(config)
    scheduler.set_timesteps(num_steps)
    x = torch.tensor(PICTURE, dtype=torch.float64)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.to(torch.float32), torch.sin), t, x).prev_sample
    plan = read_scheduler(config, case).plan(num_steps)
    model = denoiser(apply, {}, plan.schedule, plan.prediction, plan.time)
    mine = invert(model, plan.schedule, jnp.asarray(PICTURE), plan.ts, asked="target")
    assert np.abs(np.asarray(mine) - x.numpy()).max() <= BOUND * np.abs(x.numpy()).max()
