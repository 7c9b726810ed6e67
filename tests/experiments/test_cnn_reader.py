"""The convolutional reader: learns, is kept, is read back, and is not taken for one of other sizes."""

import numpy as np
import pytest

from experiments.cnn_reader import load_reader, train_reader


@pytest.fixture(scope="module")
def bars():
    """Upright and lying bars on noise, 9 x 9: classes 0 and 1."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 60, (256, 9, 9, 1), np.uint8)
    labels = np.arange(256) % 2
    for i, at in enumerate(rng.integers(2, 7, 256)):
        pictures[(i, slice(None), at) if labels[i] == 0 else (i, at)] = 255
    return pictures, labels


@pytest.mark.slow
def test_it_learns_and_is_read_back(bars, tmp_path):
    pictures, labels = bars
    file = tmp_path / "reader.safetensors"
    reader = train_reader(pictures[:192], labels[:192], file=file, steps=30, shift=1)
    held = pictures[192:], labels[192:]
    assert reader.accuracy(*held) > 0.9
    again = load_reader(file, 9, 1, 2)
    assert again is not None
    np.testing.assert_array_equal(again.read(held[0]), reader.read(held[0]))
    np.testing.assert_allclose(again.features(held[0][:3] / 127.5 - 1), reader.features(held[0][:3]), atol=1e-5)
    assert reader.features(held[0]).shape == (64, 128)
    assert load_reader(file, 9, 1, 3) is None and load_reader(tmp_path / "none", 9, 1, 2) is None
