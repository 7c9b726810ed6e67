"""The grid that goes with a schedule, and the line about one that cannot be right: against samples of Gaussian data."""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.process import (
    EDM,
    VE,
    Cosine,
    Discrete,
    RectifiedFlow,
    Shifted,
    SubVP,
    VPLinear,
    exact,
    learned_gamma,
)
from diffusion_jax.process.truncated import Truncated
from diffusion_jax.sampling import DDIM, initial_noise, karras, logsnr_uniform, natural, sample, uniform
from diffusion_jax.sampling.natural import doubt, natural_name, spread_kept
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.typing import pytree_dataclass

ROOT = Path(__file__).parents[2]
NATURAL = [
    (VPLinear(), "uniform"),
    (SubVP(), "uniform"),
    (Cosine(), "uniform"),
    (RectifiedFlow(), "uniform"),
    (VE(), "uniform"),
    (EDM(), "karras"),
    (EDM(sigma_max=1.0), "uniform"),
    (Discrete(), "discrete"),
    (Shifted(RectifiedFlow(), 3.0), "uniform"),
    (Shifted(Discrete(), 2.0), "discrete"),
    (Shifted(EDM(), 0.5), "karras"),
    (Truncated(EDM(), 0.001), "karras"),
    (Truncated(Discrete(), 0.05), "uniform"),  # whose first steps are cut away
]


LEARNED = pytest.param(learned_gamma(jax.random.key(0)), "uniform", marks=pytest.mark.slow)


@pytest.mark.parametrize(("schedule", "name"), [*NATURAL, LEARNED], ids=lambda p: repr(p)[:40])
def test_each_schedule_has_its_grid(schedule, name):
    """That grid is not doubted, whatever its length, and keeps most of what the best grid does."""
    assert natural_name(schedule) == name
    ts = natural(20, schedule)
    assert ts.shape == (21,) and ts[0] == schedule.t_max
    kept = spread_kept(ts, schedule)
    assert kept > 0.7
    assert kept > 0.8 * max(spread_kept(make(20, schedule), schedule) for make in (uniform, karras, logsnr_uniform))
    assert doubt(natural(3, schedule), schedule) is None


@pytest.mark.parametrize("make", [uniform, karras], ids=lambda f: f.__name__)
def test_the_share_is_that_of_samples(make):
    """EDM's uniform grid draws points of standard deviation .06 where the data have .5; Karras's, .43."""
    schedule, ts = EDM(), make(20, EDM())
    model = exact.gaussian(schedule, jnp.zeros(1), 0.5)
    x1 = initial_noise(jax.random.key(0), (4000, 1), schedule)
    x0 = sample(model, schedule, DDIM(), x1, ts, jax.random.key(0))
    spread = float(jnp.std(x0) / jnp.std(x1)) * 80.0
    assert spread == pytest.approx(0.5 * spread_kept(ts, schedule), rel=1e-3)
    assert spread == pytest.approx(0.0619 if make is uniform else 0.4305, abs=1e-4)


GOOD = [uniform, karras, logsnr_uniform]


@pytest.mark.parametrize("steps", [20, *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 10, 250))])
def test_no_pair_that_serves_is_doubted(steps):
    for schedule, name in NATURAL if steps != 20 else NATURAL[:6]:
        for make in GOOD[name == "karras" :]:
            assert doubt(make(steps, schedule), schedule) is None, (schedule, make)


def test_a_grid_that_cannot_be_right_is_told_in_a_line():
    line = doubt(uniform(20, EDM()), EDM())
    assert line == (
        "this grid of 20 steps does not fit EDM (its last noise levels are 8, 4 and the end): of the spread of data of "
        "standard deviation 0.5 it keeps 0.12, the grid 'karras' 0.86"
    )
    for schedule in (Shifted(EDM(), 0.5), Truncated(EDM(), 0.001), EDM(sigma_max=500.0)):
        assert "does not fit" in doubt(uniform(10, schedule), schedule)
    assert doubt(uniform(1000, EDM()), EDM()) is None  # whose steps are short enough


@pytree_dataclass
class Own:
    """EDM's process written by a user."""

    t_min: float = 1e-4
    t_max: float = 1.0

    def alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return 50.0 * t

    def logsnr(self, t):
        return -2 * jnp.log(jnp.maximum(self.sigma(t), 1e-9))

    def t_from_logsnr(self, logsnr):
        return jnp.exp(-logsnr / 2) / 50.0


def test_a_schedule_of_ones_own_is_measured():
    assert natural_name(Own()) == "karras"
    assert "does not fit Own" in doubt(uniform(20, Own()), Own())


def run_of(schedule, **sampler):
    config = ConfigDict({"sampler": {"solver": "ddim", "num_steps": 20, "guidance_scale": 3.0, **sampler}})
    # Of a run only what chooses a sampler: no weights.
    run = object.__new__(DiffusionRun)
    for name, value in {"path": Path("run"), "config": config, "schedule": schedule}.items():
        object.__setattr__(run, name, value)
    return run


def test_a_run_of_before_warns_once_and_samples_as_it_was_asked():
    run = run_of(EDM(), grid="uniform")
    with pytest.warns(UserWarning, match="grid 'uniform': this grid of 20 steps does not fit EDM") as caught:
        _, ts, _ = run.sampler()
    np.testing.assert_array_equal(ts, uniform(20, EDM()))
    assert len(caught) == 1 and "\n" not in str(caught[0].message)


def test_a_run_without_a_grid_takes_that_of_its_schedule():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for schedule, name in ((EDM(), "karras"), (Cosine(), "uniform"), (Discrete(), "discrete")):
            for run in (run_of(schedule), run_of(schedule, grid="natural")):
                np.testing.assert_array_equal(run.sampler()[1], build.grid(name, 20, schedule))
                assert run.grid_name() == name
        # An adaptive solver's steps are its own.
        run_of(EDM(), grid="uniform").sampler(solver="adaptive_ode", num_steps=4)


def test_the_table_of_the_docs_is_computed():
    from experiments.solvers import which_grid

    assert "\n".join(which_grid()) in (ROOT / "docs" / "solvers.md").read_text()
