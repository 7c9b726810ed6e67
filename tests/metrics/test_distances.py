"""Distances between sets and within one, against closed forms and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.metrics import frechet_distance, mean_pairwise_distance, nearest_distance
from diffusion_jax.typing import UserError


def exactly(mean, covariance, count, seed=0):
    """Rows whose sample mean and unbiased covariance are exactly these."""
    rows = np.random.default_rng(seed).normal(size=(count, len(mean)))
    rows -= rows.mean(0)
    rows = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False))).T
    return rows @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_has_the_closed_form_of_gaussians():
    """Commuting covariances: |m|^2 + sum (sqrt a - sqrt b)^2; a rotation of both changes nothing."""
    a, b = np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 4.0, 1.0])
    shift = np.array([1.0, -2.0, 0.5])
    wanted = shift @ shift + (1 - 2) ** 2 + 0 + (3 - 1) ** 2
    first, second = exactly(np.zeros(3), a, 40), exactly(shift, b, 60, 1)
    assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(wanted, rel=1e-9)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_what_does_not_commute():
    """tr sqrt of a 2 x 2 product in closed form: sqrt(tr + 2 sqrt(det))."""
    a, b = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    product = a @ b
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    got = frechet_distance(exactly(np.zeros(2), a, 30), exactly(np.zeros(2), b, 30, 1))
    assert got == pytest.approx(np.trace(a) + np.trace(b) - 2 * root, rel=1e-9)


def test_constant_pixels_do_not_trouble_it():
    rows = np.random.default_rng(0).normal(size=(50, 4))
    rows[:, 2] = -1
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-7)
    moved = rows.copy()
    moved[:, 2] = 1
    assert frechet_distance(rows, moved) == pytest.approx(4, abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_distances_are_the_brute_force_ones(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(6, 3)), rng.normal(size=(4, 3))
    pairs = [np.linalg.norm(a[i] - a[j]) for i in range(6) for j in range(6) if i != j]
    assert mean_pairwise_distance(a) == pytest.approx(np.mean(pairs))
    wanted = [min(np.linalg.norm(x - y) for y in b) for x in a]
    np.testing.assert_allclose(nearest_distance(a, b), wanted)
    # the distance is a root of a difference: equal rows are at 0 within the root of float64's rounding
    np.testing.assert_allclose(nearest_distance(a, a), np.zeros(6), atol=1e-7)


def test_too_few_rows_are_refused():
    with pytest.raises(UserError, match="two rows"):
        frechet_distance(np.ones((1, 2)), np.ones((5, 2)))
    with pytest.raises(UserError, match="3 features against 2"):
        frechet_distance(np.ones((5, 3)), np.ones((5, 2)))
    with pytest.raises(UserError, match="given 1"):
        mean_pairwise_distance(np.ones((1, 2)))
