import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax.metrics import energy_distance, energy_test
from diffusion_jax.typing import UserError


def rows(*values):
    return np.array(values, np.float32)[:, None]


def test_the_distance_of_points_is_twice_their_distance():
    assert energy_distance(rows(1.0), rows(4.0)) == pytest.approx(6.0)
    # 2 E|X - Y| - E|X - X'| = 2 * 1 - 1 for {0, 2} against {1}
    assert energy_distance(rows(0.0, 2.0), rows(1.0)) == pytest.approx(1.0)


def test_normal_samples_have_the_closed_form():
    """E|X - Y| = sqrt(2 (1 + s^2) / pi) in one dimension for N(0, 1) against N(0, s^2)."""
    rng, s = np.random.default_rng(0), 2.0
    x, y = rng.normal(size=(3000, 1)), s * rng.normal(size=(3000, 1))
    wanted = 2 * np.sqrt(2 * (1 + s**2) / np.pi) - 2 / np.sqrt(np.pi) * (1 + s)
    assert energy_distance(x.astype(np.float32), y.astype(np.float32)) == pytest.approx(wanted, abs=0.02)


@given(st.integers(1, 8), st.integers(1, 8), st.floats(-3, 3, width=32))
def test_it_is_symmetric_not_negative_and_blind_to_a_shift_of_both(m, n, shift):
    rng = np.random.default_rng(m * 10 + n)
    x, y = rng.normal(size=(m, 3)).astype(np.float32), rng.normal(size=(n, 3)).astype(np.float32)
    found = energy_distance(x, y)
    assert found >= 0 and energy_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert energy_distance(y, x) == pytest.approx(found, abs=1e-6)
    assert energy_distance(x + np.float32(shift), y + np.float32(shift)) == pytest.approx(found, abs=1e-5)


def test_its_level_is_kept_and_a_shift_is_found():
    """Of 60 pairs from one distribution about a tenth is below .1: at most 13 but for one chance in 200."""
    rng = np.random.default_rng(1)
    below = 0
    for seed in range(60):
        x, y = rng.normal(size=(2, 40, 2)).astype(np.float32)
        below += energy_test(x, y, 99, seed).p_value <= 0.1
    assert 1 <= below <= 13
    x, y = rng.normal(size=(2, 200, 2)).astype(np.float32)
    assert energy_test(x, y + np.float32(0.5), 199).p_value == 1 / 200
    assert energy_test(x, 1.5 * y, 199).p_value == 1 / 200


def test_bad_input_is_one_line():
    x = rows(0.0, 1.0)
    with pytest.raises(UserError, match="permutations 0 is not at least 1"):
        energy_test(x, x, 0)
    with pytest.raises(UserError, match=r"samples of shape \(2, 1\) and \(1, 2\) cannot be compared"):
        energy_distance(x, np.zeros((1, 2), np.float32))
