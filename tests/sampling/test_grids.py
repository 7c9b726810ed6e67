"""Grids: exact ends, equal steps, and errors that name the value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.process import EDM, Cosine, Discrete, RectifiedFlow, VPLinear
from diffusion_jax.process.truncated import Truncated
from diffusion_jax.sampling import logsnr_uniform, quadratic, uniform
from diffusion_jax.sampling.grids import check_grid
from diffusion_jax.typing import UserError, pytree_dataclass

SCHEDULES = [VPLinear(), Cosine(), RectifiedFlow(), Cosine(t_max=0.9), VPLinear(t_min=1e-3)]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


@pytree_dataclass
class NoisyEnd:
    """A schedule that never gets clean: sigma(0) = 0.1."""

    t_min: float = 0.0
    t_max: float = 1.0

    def alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return 0.1 + t

    def logsnr(self, t):
        return -2 * jnp.log(self.sigma(t))

    def t_from_logsnr(self, logsnr):
        return jnp.exp(-logsnr / 2) - 0.1


@every_schedule
@settings(max_examples=10, deadline=None)
@given(num_steps=st.integers(1, 300))
def test_grids_are_float64_fall_and_have_exact_ends(schedule, num_steps):
    for grid in (uniform(num_steps, schedule), logsnr_uniform(num_steps, schedule)):
        assert isinstance(grid, np.ndarray)
        assert grid.dtype == np.float64
        assert grid.shape == (num_steps + 1,)
        assert grid[0] == schedule.t_max
        assert grid[-1] == 0.0
        assert (np.diff(grid) < 0).all()
        check_grid(grid, schedule)
    np.testing.assert_allclose(np.diff(uniform(num_steps, schedule)), -schedule.t_max / num_steps, rtol=1e-9)


@pytest.mark.parametrize(
    "schedule", [VPLinear(t_min=0.01), Discrete(), Truncated(RectifiedFlow(), 0.02), EDM()], ids=repr
)
def test_steps_by_the_thousand_stay_above_t_min(schedule):
    for make in (uniform, quadratic):
        grid = make(4000, schedule)
        check_grid(grid, schedule)
        assert grid[0] == schedule.t_max and grid[-1] == 0.0 and (np.diff(grid) < 0).all()
        assert grid[-2] == pytest.approx(max(schedule.t_min, make(4000)[-2] if make is uniform else 1 / 4000**2))
    np.testing.assert_allclose(np.diff(uniform(4000, schedule), 2)[:-1], 0.0, atol=1e-12)


def test_without_a_schedule_the_grid_runs_from_one_to_zero():
    np.testing.assert_array_equal(uniform(4), [1.0, 0.75, 0.5, 0.25, 0.0])


def test_logsnr_steps_are_equal_to_float64():
    """Against the closed form of VPLinear's logsnr in NumPy, which float32 would miss by 1e-6."""
    ts = logsnr_uniform(50, VPLinear(), logsnr_max=8.0)[:-1]
    integral = 0.1 * ts + 19.9 * ts**2 / 2
    logsnr = -integral - np.log(-np.expm1(-integral))
    np.testing.assert_allclose(np.diff(logsnr), (8.0 - logsnr[0]) / 49, rtol=1e-9)
    assert abs(logsnr[-1] - 8.0) < 1e-9


def test_pure_noise_has_its_steps_counted_from_logsnr_min():
    ts = logsnr_uniform(5, RectifiedFlow(), logsnr_max=8.0, logsnr_min=-8.0)
    np.testing.assert_allclose(2 * np.log((1 - ts[1:-1]) / ts[1:-1]), [-4, 0, 4, 8], atol=1e-9)


def test_a_grid_may_be_made_while_tracing():
    wanted = logsnr_uniform(7, VPLinear())
    found = []
    jax.jit(lambda x: found.append(logsnr_uniform(7, VPLinear())) or x)(1.0)
    np.testing.assert_array_equal(found[0], wanted)


def test_a_schedule_that_never_gets_clean_ends_at_its_t_min():
    schedule = NoisyEnd(0.05, 1.0)
    assert uniform(3, schedule)[-1] == logsnr_uniform(3, schedule, logsnr_max=2.0)[-1] == 0.05
    with pytest.raises(UserError, match=r"ts\[1\] = 0 is not in \[0.05, 1\]"):
        check_grid(np.array([1.0, 0.0]), schedule)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: uniform(0), "num_steps 0"),
        (lambda: uniform(-3, Cosine()), "num_steps -3"),
        (lambda: logsnr_uniform(0, Cosine()), "num_steps 0"),
        (lambda: logsnr_uniform(4, VPLinear(), logsnr_max=-11.0), "logsnr_max -11"),
        (lambda: check_grid(np.array([1.0]), Cosine()), "at least 2 times"),
        (lambda: check_grid(np.array([0.0, 0.5, 1.0]), Cosine()), r"ts\[1\] = 0.5 is not below ts\[0\] = 0"),
        (lambda: check_grid(np.array([1.0, 0.5, 0.5, 0.0]), Cosine()), r"ts\[2\] = 0.5 is not below"),
        (lambda: check_grid(np.array([1.0, np.nan, 0.0]), Cosine()), r"ts\[1\] = nan"),
        (lambda: check_grid(np.array([1000.0, 500.0, 0.0]), Cosine()), r"ts\[0\] = 1000 is not in \[0, 1\]"),
        (lambda: check_grid(np.array([1.0, 0.0]), Cosine(t_max=0.9)), r"not in \[0, 0.9\]"),
        (lambda: check_grid(np.array([1.0, 1e-5, 0.0]), VPLinear()), r"ts\[1\] = 1e-05 is not in \[0.0001, 1\]"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
