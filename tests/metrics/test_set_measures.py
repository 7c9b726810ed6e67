"""Precision, recall, density, coverage, the kernel distance, nearest rows and PSNR, against closed forms and brute force."""

import numpy as np
import pytest

from diffusion_jax.metrics import distances as measured
from diffusion_jax.metrics import kernel_distance, nearest, precision_recall, psnr
from diffusion_jax.typing import UserError


def normal(count, width=4, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(size=(count, width)) + shift


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that sets of tens are had in several."""
    monkeypatch.setattr(measured, "ENTRIES", 64)


def brute(real, made, k, k_coverage):
    """The definitions, pair by pair."""

    def gap(a, b):
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    def radius(rows, k):
        return np.sort(gap(rows, rows), axis=1)[:, k]  # place 0 is the row itself

    apart = gap(made, real)
    inside, turned = apart <= radius(real, k_coverage), apart.T
    return (
        (apart <= radius(real, k)).any(axis=1).mean(),
        (turned <= radius(made, k)).any(axis=1).mean(),
        inside.sum() / (k_coverage * len(made)),
        inside.any(axis=0).mean(),
    )


@pytest.mark.parametrize(("k", "k_coverage"), [(3, 5), (1, 1), (4, 2)])
def test_precision_and_recall_are_their_definitions(small_blocks, k, k_coverage):
    real, made = normal(40), 1.3 * normal(30, seed=1, shift=0.3)
    found = precision_recall(real, made, k=k, k_coverage=k_coverage)
    assert found == pytest.approx(brute(real, made, k, k_coverage))
    assert 0 < found.precision < 1 and 0 < found.recall < 1


def test_a_case_by_hand():
    """On a line, k = 1."""
    real, made = np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [5.5], [2.0]])
    # real radii 1, 1, 2: balls [-1, 1], [0, 2], [1, 5]: 0.5 lies in two, 5.5 in none, 2 in two
    # made radii 1.5, 3.5, 1.5: balls [-1, 2], [2, 9], [0.5, 3.5]: 0, 1 and 3 all lie in one
    found = precision_recall(real, made, k=1, k_coverage=1)
    assert found == pytest.approx((2 / 3, 1.0, 4 / 3, 1.0))


def test_of_a_set_and_itself_all_is_reached_and_of_sets_apart_nothing():
    rows = normal(50)
    same = precision_recall(rows, rows)
    assert same[:2] == (1.0, 1.0) and same.coverage == 1.0
    assert same.density == pytest.approx(6 / 5, abs=0.35)  # a row lies in its own ball and in those of 5 in the mean
    assert precision_recall(rows, normal(60, seed=1, shift=100.0)) == (0.0, 0.0, 0.0, 0.0)


def test_equal_rows_are_within_balls_of_no_radius():
    """More copies than neighbours: every radius is 0, and rounding must not put a row outside of its own ball."""
    rows = np.repeat(normal(4, 300, shift=1e3), 7, axis=0)
    assert precision_recall(rows, rows[::-1])[:2] == (1.0, 1.0)


def test_a_mode_that_is_dropped_costs_recall_and_no_precision():
    real = np.concatenate([normal(100), normal(100, seed=1, shift=20.0)])
    both = np.concatenate([normal(100, seed=2), normal(100, seed=3, shift=20.0)])
    whole, half = precision_recall(real, both), precision_recall(real, normal(200, seed=4))
    assert whole.recall > 0.7 and half.recall < 0.5 < whole.recall and half.coverage < 0.51 < whole.coverage
    assert half.precision == pytest.approx(whole.precision, abs=0.1)


def test_too_few_rows_for_the_balls_are_refused():
    with pytest.raises(UserError, match="6 real rows at least; given 5"):
        precision_recall(normal(5), normal(20))
    with pytest.raises(UserError, match="4 samples at least; given 3"):
        precision_recall(normal(20), normal(3))
    with pytest.raises(UserError, match="3 features against 4"):
        precision_recall(normal(20), normal(20, 3))


def test_nearest_rows_are_found_over_blocks(small_blocks):
    rows, reference = normal(30), normal(25, seed=1)
    apart = np.sqrt(((rows[:, None] - reference[None]) ** 2).sum(-1))
    found = nearest(rows, reference, 3)
    np.testing.assert_array_equal(found.row, np.argsort(apart, axis=1)[:, :3])
    np.testing.assert_allclose(found.distance, np.sort(apart, axis=1)[:, :3])
    own = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1)) + np.diag(np.full(30, np.inf))
    np.testing.assert_array_equal(nearest(rows, rows, 2, itself=False).row, np.argsort(own, axis=1)[:, :2])


def test_a_copy_is_at_no_distance():
    reference = normal(40, 64, shift=300.0).astype(np.float32)
    found = nearest(reference[[7, 3]], reference)
    np.testing.assert_array_equal(found.row, [[7], [3]])
    np.testing.assert_array_equal(found.distance, [[0.0], [0.0]])


def test_more_neighbours_than_rows_are_refused():
    with pytest.raises(UserError, match="3 nearest rows among 2"):
        nearest(normal(3), normal(3), 3, itself=False)
    with pytest.raises(UserError, match="they must be equal"):
        nearest(normal(3), normal(3, 5))


def test_the_kernel_distance_has_the_closed_form_of_shifted_gaussians():
    """In one dimension k = (xy + 1)^3 = sum C(3, i) (xy)^i, so that MMD^2 = sum C(3, i) (E x^i - E y^i)^2; for N(0, 1) and
    N(1, 1) the moments are (0, 1, 0) and (1, 2, 4): 3 + 3 + 16 = 22.
    """
    found = [kernel_distance(normal(800, 1, s), normal(800, 1, s + 50, 1.0), subsets=6, seed=s) for s in range(9)]
    values = np.array([each.distance for each in found])
    assert values.mean() == pytest.approx(22.0, abs=4 * values.std() / np.sqrt(8))
    assert values.std() < 5


def test_the_kernel_distance_is_the_unbiased_sum():
    """The whole of two sets, as a double sum: of sets of four in one subset of two rows it is one such sum."""
    x, y = normal(6, 3), normal(6, 3, seed=1)

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    pairs = [(i, j) for i in range(6) for j in range(6)]
    own = sum(kernel(s[i], s[j]) for s in (x, y) for i, j in pairs if i != j) / 30
    cross = sum(kernel(x[i], y[j]) for i, j in pairs) / 36
    # the mean over many subsets of 3 is the estimate of all 6, for both are without bias
    found = kernel_distance(x, y, subsets=600)
    assert found.distance == pytest.approx(own - 2 * cross, abs=4 * found.deviation / np.sqrt(600))


def test_the_kernel_distance_has_no_bias_where_the_frechet_distance_has():
    """Of one distribution against itself its mean is 0 at any size."""
    values = [kernel_distance(normal(40, 16, s), normal(40, 16, s + 99), subsets=4).distance for s in range(60)]
    assert np.mean(values) == pytest.approx(0.0, abs=4 * np.std(values) / np.sqrt(60))
    assert min(values) < 0 < max(values)


@pytest.mark.parametrize(
    ("options", "line"),
    [({"subsets": 0}, "0 subsets of 1000 rows"), ({"size": 1}, "100 subsets of 1 rows")],
)
def test_settings_of_the_kernel_distance_are_refused(options, line):
    with pytest.raises(UserError, match=line):
        kernel_distance(normal(9), normal(9), **options)
    with pytest.raises(UserError, match="given 3 and 9"):
        kernel_distance(normal(3), normal(9))


def test_the_psnr_of_a_constant_error_is_its_closed_form():
    """Off by e everywhere in a range of 2: 20 log10(2 / e). What is not counted counts for nothing, nor what is clipped."""
    given = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 3, 5, 3))
    images = given + np.array([0.2, 0.02, 0.0, 9.0])[:, None, None, None]
    found = psnr(images, given)
    np.testing.assert_allclose(found[:3], [20.0, 40.0, 120.0])
    assert found[3] == pytest.approx(10 * np.log10(4 / ((1 - given[3]) ** 2).mean()))
    counted = np.zeros((4, 3, 5, 1), bool)
    counted[:3, 1:, :2] = True
    images[0, 0], images[0, :, 2:] = 7.0, -3.0
    np.testing.assert_allclose(psnr(images, given, counted), [20.0, 40.0, 120.0, np.nan])
    levels = np.round((given + 1) * 127.5) / 127.5 - 1
    assert psnr(levels, given).mean() == pytest.approx(58.9, abs=1.0)
