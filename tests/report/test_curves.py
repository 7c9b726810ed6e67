"""Losses as a chart, and numbers in words."""

import numpy as np

from diffusion_jax.report.curves import loss_chart, running_mean
from diffusion_jax.report.numbers import duration, number, percent


def test_running_mean_closed_form():
    assert running_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1.0, 2.0, 4.0, 6.0]
    assert running_mean(np.array([4.0, 2.0]), 5).tolist() == [4.0, 3.0]


def test_validation_points_stand_at_their_own_steps():
    rows = [
        {"step": s, "loss": 2.0 / (1 + s / 50)} | ({"val_loss": 1.0, "val_loss_ema": 0.9} if s % 100 == 0 else {})
        for s in range(0, 500, 5)
    ]
    series = {line.name: line for line in loss_chart(rows).series}
    assert list(series["validation"].x) == [0, 100, 200, 300, 400]
    assert list(series["validation, averaged weights"].y) == [0.9] * 5
    only_validation = loss_chart([{"step": 10, "val_loss": 0.5}, {"step": 20, "loss": 1.0}])
    assert [(line.name, list(line.x)) for line in only_validation.series] == [
        ("training, running mean", [20]),
        ("validation", [10]),
    ]


def test_ways_of_saying_numbers():
    assert [percent(v) for v in (0.9694, 1.0, 0.42, 0.0)] == ["96.9%", "100%", "42%", "0%"]
    assert [number(v) for v in (2.3456, 45.31, 1234567, 7, "seven", 0.00123)] == [
        "2.35",
        "45.3",
        "1,234,567",
        "7",
        "seven",
        "0.00123",
    ]
    assert [percent(v, 0) for v in (0.9694, 1.0, 0.0)] == ["97%", "100%", "0%"]
    assert [duration(s) for s in (8.42, 59.4, 133.2, 3900)] == ["8.4 s", "59 s", "2 min 13 s", "1 h 5 min"]
