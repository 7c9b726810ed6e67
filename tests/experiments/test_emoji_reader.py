"""The reader of style, on pictures of three palettes and two surfaces."""

import numpy as np
import pytest

from experiments.emoji.judging import style_reader
from experiments.emoji.reader import fit_reader, load_reader, measured, save_reader

RNG = np.random.default_rng(0)


def hands(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Squares of chance size and place: flat yellow, yellow with a gradient, flat blue."""
    rng = np.random.default_rng(seed)
    styles = np.arange(count) % 3
    pictures = np.full((count, 16, 16, 3), 255, np.uint8)
    for picture, style in zip(pictures, styles, strict=True):
        top, left, edge = *rng.integers(0, 6, 2), rng.integers(7, 10)
        fill = np.tile(np.array([[255, 204, 77], [255, 204, 77], [60, 90, 220]][style], np.float32), (edge, edge, 1))
        fill -= np.linspace(0, 60, edge)[:, None, None] * (style == 1)
        picture[top : top + edge, left : left + edge] = np.clip(fill, 0, 255)
    return pictures, styles


@pytest.fixture(scope="module")
def reader():
    return fit_reader(*hands(240, 0), say=lambda text: None)


def test_it_reads_hands_that_it_has_not_seen_also_with_noise(reader):
    pictures, styles = hands(150, 1)
    noisy = np.clip(pictures + RNG.normal(0, 4, pictures.shape), 0, 255).astype(np.uint8)
    assert reader.accuracy(pictures, styles) >= 0.97 and reader.accuracy(noisy, styles) >= 0.95
    assert reader.accuracy(pictures, (styles + 1) % 3) <= 0.03
    assert np.array_equal(reader.read(pictures.astype(np.float32) / 127.5 - 1), reader.read(pictures))
    assert reader.features(pictures).shape == (150, 128)


def test_two_styles_are_read_too():
    pictures, styles = hands(120, 2)
    two = styles < 2
    reader = fit_reader(pictures[two], styles[two], say=lambda text: None)
    assert reader.accuracy(pictures[two], styles[two]) >= 0.97


def test_it_is_kept_and_fitted_once(reader, tmp_path):
    pictures, _ = hands(30, 3)
    again = load_reader(save_reader(tmp_path / "reader.npz", reader))
    assert again is not None and np.array_equal(again.features(pictures), reader.features(pictures))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "reader.npz").read_bytes()[:500])
    assert load_reader(tmp_path / "cut.npz") is None and load_reader(tmp_path / "nowhere.npz") is None


def test_histograms_are_shares_and_a_flat_picture_has_no_surface():
    picture = np.full((1, 16, 16, 3), 255, np.uint8)
    found = measured(picture)[0]
    palette, surfaces, outline = found[:512] ** 2, found[512:560].reshape(4, 12) ** 2, found[560:]
    assert palette[-1] == pytest.approx(1) and palette[:-1].max() == 0
    assert np.allclose(surfaces[:, 0], 1) and outline.max() == 0
    mixed = measured(RNG.integers(0, 256, (4, 16, 16, 3)).astype(np.uint8))
    assert np.allclose((mixed[:, :512] ** 2).sum(1), 1, atol=1e-5)
    assert np.allclose((mixed[:, 512:560].reshape(4, 4, 12) ** 2).sum(2), 1, atol=1e-5)


def test_the_reader_of_a_source_is_in_its_folder(tmp_path):
    from emoji_made import made_file

    from experiments.emoji.source import Emoji

    train = Emoji(str(made_file(tmp_path)), "train", tones=0)
    said: list[str] = []
    first = style_reader(train, tmp_path, say=said.append)
    assert said and first.accuracy(train.columns()["image"], train.labels) == 1.0
    said.clear()
    assert np.array_equal(style_reader(train, tmp_path, say=said.append).into, first.into) and not said
