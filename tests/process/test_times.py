"""How training draws t: distributions by their closed-form CDF, ranges and counts."""

import functools
import math

import jax
import numpy as np
import pytest
from jax.scipy.special import ndtr

from diffusion_jax.process import EDM, VE, Cosine, RectifiedFlow, SubVP, VPLinear, times
from diffusion_jax.typing import UserError

COUNT = 20_000
ALL = {
    "uniform": times.uniform,
    "stratified": times.stratified,
    "logit_normal": times.logit_normal,
    "log_normal": times.log_normal,
    "mode": times.mode,
    "cosmap": times.cosmap,
}
every_way = pytest.mark.parametrize("sample_t", ALL.values(), ids=list(ALL))
SCHEDULES = [VPLinear(), Cosine(), RectifiedFlow(), VE(), EDM(), SubVP(), Cosine(t_min=0.2, t_max=0.7)]


def distance(values):
    """Kolmogorov's distance of values in [0, 1] from the uniform distribution, times the root of their count."""
    ordered, n = np.sort(np.asarray(values, np.float64)), len(values)
    return max(np.max(np.arange(1, n + 1) / n - ordered), np.max(ordered - np.arange(n) / n)) * math.sqrt(n)


LIMIT = 1.95  # above it once in a thousand


@every_way
@pytest.mark.parametrize("n", [1, 49, 98, 103, 107])
def test_n_times_are_n(sample_t, n):
    t = sample_t(jax.random.key(n), n, Cosine())
    assert t.shape == (n,)
    assert len(np.unique(np.asarray(t))) == n


@every_way
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_times_stay_in_range(sample_t, schedule):
    t = np.asarray(sample_t(jax.random.key(0), 2000, schedule), np.float32)
    assert t.dtype == np.float32
    assert t.min() >= np.float32(schedule.t_min)
    assert t.max() <= np.float32(schedule.t_max)
    assert t.std() > 0.01 * (schedule.t_max - schedule.t_min)


@every_way
def test_other_keys_draw_other_times_and_the_same_key_the_same(sample_t, key):
    t = sample_t(key, 7, Cosine())
    np.testing.assert_array_equal(t, sample_t(key, 7, Cosine()))
    assert (sample_t(jax.random.fold_in(key, 1), 7, Cosine()) != t).all()
    jitted = jax.jit(sample_t, static_argnums=(1, 2))(key, 7, Cosine())
    np.testing.assert_allclose(jitted, t, rtol=1e-6)


def cosmap_cdf(t):
    return 2 / math.pi * np.arctan2(t, 1 - t)


def mode_cdf(t, scale):
    """The map falls in u, so P(t <= f(u)) = 1 - u, by interpolation of the exact map."""
    u = np.linspace(0, 1, 200_001)
    f = 1 - u - scale * (np.cos(np.pi * u / 2) ** 2 - 1 + u)
    assert (np.diff(f) < 0).all()
    return np.interp(t, f[::-1], (1 - u)[::-1])


@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.2, 0.7)])
@pytest.mark.parametrize(
    ("sample_t", "cdf"),
    [
        (times.uniform, lambda t: t),
        (times.cosmap, cosmap_cdf),
        (times.mode, functools.partial(mode_cdf, scale=1.29)),
        (functools.partial(times.mode, scale=-1.0 + 1e-3), functools.partial(mode_cdf, scale=-1.0 + 1e-3)),
        (functools.partial(times.mode, scale=0.0), lambda t: t),
        (functools.partial(times.mode, scale=1.75), functools.partial(mode_cdf, scale=1.75)),
        (
            functools.partial(times.logit_normal, location=0.5, scale=2.0),
            lambda t: np.asarray(ndtr((np.log(t) - np.log1p(-t) - 0.5) / 2.0)),
        ),
    ],
    ids=[
        "uniform",
        "cosmap",
        "mode",
        "mode at its low end",
        "mode without scale",
        "mode at its high end",
        "logit_normal",
    ],
)
def test_the_distribution_is_the_published_one(sample_t, cdf, ends):
    low, high = ends
    t = np.asarray(sample_t(jax.random.key(5), COUNT, RectifiedFlow(t_min=low, t_max=high)), np.float64)
    inside = np.clip((t - low) / (high - low), 1e-9, 1 - 1e-9)
    assert distance(cdf(inside)) < LIMIT


def test_the_test_of_distributions_can_fail():
    t = np.asarray(times.mode(jax.random.key(5), COUNT, RectifiedFlow()))
    assert distance(mode_cdf(t, 1.15)) > LIMIT


@pytest.mark.parametrize("schedule", [VPLinear(), Cosine(), VE(), EDM(), SubVP()], ids=lambda s: type(s).__name__)
def test_log_normal_is_normal_in_the_logarithm_of_the_noise_whatever_the_schedule(schedule):
    t = times.log_normal(jax.random.key(6), COUNT, schedule)
    assert distance(ndtr((-0.5 * schedule.logsnr(t) + 1.2) / 1.2)) < LIMIT


def test_log_normal_puts_what_is_outside_at_the_ends():
    schedule = VE(sigma_min=0.3, sigma_max=2.0)
    t = np.asarray(times.log_normal(jax.random.key(7), COUNT, schedule, -0.4, 1.0))
    for end, share in ((0.0, ndtr((math.log(0.3) + 0.4) / 1.0)), (1.0, 1 - ndtr(math.log(2.0) + 0.4))):
        assert abs((t == end).mean() - float(share)) < 4 * 0.5 / math.sqrt(COUNT)


@pytest.mark.parametrize("scale", [-1.0, -0.5, 0.0, 1.29, times.MODE_RANGE[1]])
def test_modes_map_is_monotone_in_its_range(scale):
    """In the order of the uniform numbers behind them the times never rise."""
    u = np.asarray(jax.random.uniform(jax.random.key(0), (500,)))
    t = np.asarray(times.mode(jax.random.key(0), 500, RectifiedFlow(), scale))
    assert (np.diff(t[np.argsort(u)]) <= 1e-6).all()


def test_a_scale_without_a_monotone_map_is_refused():
    for scale, near in ((1.8, "1.752"), (-1.5, "-1")):
        with pytest.raises(UserError, match=f"scale {scale} of times 'mode'.*nearest: {near}"):
            times.mode(jax.random.key(0), 4, Cosine(), scale)


def test_cosmap_gives_straight_lines_the_noise_levels_of_the_cosine_schedule():
    u = times.uniform(jax.random.key(9), 200, Cosine())
    t = times.cosmap(jax.random.key(9), 200, RectifiedFlow())
    np.testing.assert_allclose(RectifiedFlow().logsnr(t), Cosine().logsnr(u), atol=2e-3)


@pytest.mark.parametrize("n", [1, 49, 98, 103])
def test_strata_hold_one_each(n):
    u = np.sort(np.asarray(times.strata(jax.random.key(1), n), np.float64)) * n - np.arange(n)
    assert u.shape == (n,)
    assert u.min() > -1e-4
    assert u.max() < 1 + 1e-4
    assert np.ptp(u) < 1e-4
