"""What judges the digits, and what is kept of a measurement."""

import importlib
import inspect
import json

import numpy as np
import pytest

from diffusion_jax.data.sources.digits import load_digits
from diffusion_jax.typing import UserError
from experiments.digits import measures
from experiments.digits.measures import Evaluation, load_evaluation, save_evaluation
from experiments.digits.reader import fit_reader


def test_the_reader_reads_held_out_scans():
    train, test = load_digits("train"), load_digits("test")
    reader = fit_reader(train.images, train.labels)
    assert reader.accuracy(test.images, test.labels) >= 0.98
    again = fit_reader(train.images, train.labels)
    np.testing.assert_array_equal(reader.read(test.images), again.read(test.images))
    assert reader.accuracy(test.images, (test.labels + 1) % 10) < 0.02


def kept() -> Evaluation:
    found = Evaluation(arrays={"grid": np.arange(6.0).reshape(2, 3)}, notes={"captions": ["an eight"]})
    found.put("clip.zero_shot_accuracy", 0.5)
    found.put("clip.retrieval", {"r1": 0.25})
    return found


def test_what_was_measured_comes_back(tmp_path):
    assert load_evaluation(tmp_path) is None
    save_evaluation(tmp_path / "report", kept())
    again = load_evaluation(tmp_path / "report")
    assert again.metrics == {"clip": {"zero_shot_accuracy": 0.5, "retrieval": {"r1": 0.25}}}
    assert again.notes == {"captions": ["an eight"]} and np.array_equal(again.arrays["grid"], kept().arrays["grid"])
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["evaluation.npz", "metrics.json"]


def test_what_was_cut_short_is_said(tmp_path):
    save_evaluation(tmp_path, kept())
    for name, message in (("metrics.json", "is not readable as JSON"), ("evaluation.npz", "is damaged")):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=f"{name} {message} .*evaluate the run again"):
            load_evaluation(tmp_path)
        (tmp_path / name).write_bytes(whole)


def test_the_numbers_are_printed_before_they_are_written(tmp_path, monkeypatch, capsys):
    """An hour's numbers are not lost to a disk that is full by now."""
    monkeypatch.setattr(measures, "evaluate", lambda *_, **__: kept())
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*metrics\.json"):
        measures.measure(None, tmp_path, "test")
    assert json.loads(capsys.readouterr().out)["clip"]["zero_shot_accuracy"] == 0.5


def test_the_source_names_who_measures_and_shows_it():
    source = load_digits("validation")

    def named(name):
        module, _, attribute = name.partition(":")
        return getattr(importlib.import_module(module), attribute)

    assert named(source.measures) is measures.measure
    assert list(inspect.signature(measures.measure).parameters)[:3] == ["run", "folder", "split"]
    assert list(inspect.signature(named(source.page)).parameters) == ["run", "folder"]
