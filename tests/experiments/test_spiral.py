"""The fast part of `experiments/spiral`: what a perfect network does; the page itself is marked slow."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import VE, exact
from experiments.spiral import measures, targets

ROOT = Path(__file__).parents[2]

POINTS = measures.spiral()


def field():
    schedule = VE(measures.SIGMA_MIN, measures.SIGMA_MAX)
    return schedule, exact.point_set(schedule, POINTS)


def test_the_data_are_the_published_spiral():
    assert POINTS.shape == (100, 2) and measures.arcs().shape == (100,)
    np.testing.assert_allclose(POINTS[0], [0.0, 0.1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(POINTS[-1]), 1.1, rtol=1e-6)
    assert np.linalg.norm(POINTS - POINTS.mean(axis=0), axis=1).mean() == pytest.approx(0.5945, abs=1e-4)


@pytest.mark.slow  # of the experiment's numbers, which its page says; `make spiral` makes them again
def test_six_mean_distances_are_those_published():
    found, samples = measures.table(lambda schedule: exact.point_set(schedule, POINTS), POINTS, seed=0, tenth=False)
    for name, (_, _, wanted) in measures.TABLE.items():
        for way, distance in wanted.items():
            assert found[name][way]["distance"] == pytest.approx(distance, abs=0.02), (name, way)
    # No noise, no cover: the points are reached by the two samplers only.
    first = found["N = 64, sigma max 10"]
    assert first["noise removed"]["covered"] < 0.15 and first["DDPM"]["covered"] == first["DDIM"]["covered"] == 1.0
    assert samples["N = 64, sigma max 10"]["DDIM"].shape == (measures.COUNT, 2)


def test_the_turn_from_the_mean_to_the_points():
    schedule, denoise = field()
    shares = measures.known_share(denoise, schedule, POINTS, (1.0, 0.5, 0.3, 0.15))
    np.testing.assert_allclose(shares, targets.KNOWN_SHARES, atol=0.01)
    assert measures.crossing(np.array([0.1, 1.0, 10.0]), [0.9, 0.5, 0.1]) == pytest.approx(1.0)


@pytest.mark.slow  # of the experiment's numbers, which its page says; `make spiral` makes them again
def test_the_attractors_are_counted_to_convergence():
    schedule = field()[0]
    wide = POINTS.astype(np.float64)
    with jax.enable_x64(True):
        rests = [
            measures.attractors(exact.point_set(schedule, wide), schedule, wide, s)
            for s in (0.3, 0.12, 0.1, 0.08, 0.05)
        ]
    assert tuple(rests) == targets.RESTS


def test_both_processes_have_the_marginals_and_a_halved_drift_does_not():
    schedule, denoise = field()
    rows = measures.marginals(denoise, schedule, POINTS, 100, (0.5, 0.3), 0)
    for row in rows:
        assert min(row["SDE"]["p_value"], row["ODE"]["p_value"]) > targets.LEVEL / 4
        assert row["half the drift"]["p_value"] <= targets.LEVEL


def test_the_loss_of_a_perfect_network_is_the_floor():
    schedule, denoise = field()
    assert measures.eps_loss(denoise, schedule, POINTS, 20_000) == pytest.approx(0.326, abs=0.006)


def test_walks_have_the_variance_of_the_schedule():
    schedule = field()[0]
    ts, paths = measures.walks(schedule, POINTS, jax.random.key(0), 4000, 20)
    assert ts.shape == (21,) and paths.shape == (21, 4000, 2)
    wanted = np.sqrt(POINTS.var(axis=0).mean() + np.asarray(schedule.sigma(jnp.asarray(ts))) ** 2)
    np.testing.assert_allclose(np.sqrt(paths.var(axis=1).mean(axis=1)), wanted, rtol=0.03)


@pytest.mark.slow
def test_the_page_is_written(tmp_path):
    command = [sys.executable, str(ROOT / "experiments" / "spiral"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert len(list((tmp_path / "report").glob("*.png"))) == 13 and found["quick"]
    page = (tmp_path / "report" / "index.html").read_text()
    assert "hardly trained" in page and "<script" not in page and 'src="http' not in page
    assert sum(row["met"] for row in found["checks"] if "exact" in row["what"].lower()) >= 4
