"""The measures and the page of the Fashion-MNIST experiment, on made-up clothes: what is right, what is far, what is said."""

import argparse
import gzip
import json
import struct

import numpy as np
import pytest

from diffusion_jax.typing import UserError
from experiments.fashion.__main__ import VARIANTS, tell
from experiments.fashion.latent import beside_pixels
from experiments.fashion.measures import blurred, diversity, judged


class Perfect:
    """A reader that sees the mean of a picture: class 0 is dark, 1 is light."""

    def features(self, pictures):
        flat = np.asarray(pictures, np.float64).reshape(len(pictures), -1)
        return np.stack([flat.mean(1), flat.std(1)], axis=1)

    def read(self, pictures):
        return (np.asarray(pictures, np.float64).mean((1, 2, 3)) > 0).astype(int)


def test_what_the_reader_says_of_drawn_pictures():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    real = rng.normal(np.where(labels, 0.5, -0.5)[:, None, None, None], 0.1, (200, 4, 4, 1))
    reader = Perfect()
    features = reader.features(real)
    within = diversity(features, labels)
    same = judged(reader, real, labels, features, within)
    assert same["right"] == 1 and same["right_by_class"] == [1, 1] and same["samples"] == 200
    assert same["frechet"] < 1e-9 and same["diversity"] == pytest.approx(1)
    swapped = judged(reader, real, 1 - labels, features, within)
    assert swapped["right"] == 0
    one = np.repeat(real[:2], 100, axis=0)[np.argsort(np.repeat([0, 1], 100), kind="stable")]
    asked = np.repeat([0, 1], 100)
    copied = judged(reader, one, asked, features, within)
    assert copied["right"] == 1 and copied["diversity"] < 1e-6 and copied["frechet"] > same["frechet"]


def test_a_blur_keeps_the_mean_and_takes_the_detail():
    pictures = np.random.default_rng(0).integers(0, 255, (3, 28, 28, 1), np.uint8)
    soft = blurred(pictures)
    assert soft.dtype == np.uint8 and soft.shape == pictures.shape
    np.testing.assert_allclose(soft.mean((1, 2, 3)), pictures.mean((1, 2, 3)), atol=4 * np.sqrt(1 / 12 / 784))
    assert soft.std() < 0.5 * pictures.std()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"data": ""}, "apt-get download"),
        ({"variant": "uncond"}, "unconditional, text"),
        ({"samples": 3}, "not at least 100"),
        ({"data": "nowhere/at/all"}, "nowhere/at/all"),
    ],
)
def test_what_is_missing_is_one_line(tmp_path, wrong, said):
    given = {
        "data": "x",
        "out": tmp_path,
        "variant": "",
        "seed": 0,
        "steps": None,
        "autoencoder_steps": None,
        "samples": 100,
        "sweep": 20,
        "reader_steps": 10,
    }
    with pytest.raises(UserError, match=said) as error:
        tell(argparse.Namespace(**given | wrong))
    assert "\n" not in str(error.value)


def test_the_latent_model_stands_beside_the_pixel_model_where_that_was_measured(tmp_path):
    def numbers(right, reader, samples=100):
        each = {"right": right, "frechet": 10 * right + 0.5, "diversity": 0.9, "samples": samples}
        return {"key": f"weights-{reader}-100-20-0", "guidance": {"1": each, "5": each}}

    file = tmp_path / "metrics.json"
    mine = numbers(0.9, "a")
    (said,) = beside_pixels(mine, file)
    assert "No pixel model" in said
    file.write_text(json.dumps(numbers(0.5, "a")))
    said, table = beside_pixels(mine, file)
    assert "90% and the pixel model in 50%" in said and "9.50 and 5.50" in said and "Another reader" not in said
    assert table.rows[0] == ("guidance 1", "50%", "5.50", "0.900", "90%", "9.50", "0.900")
    file.write_text(json.dumps(numbers(0.5, "b", samples=50)))
    said, table = beside_pixels(mine, file)
    assert "Another reader" in said and table.rows[0][2] == "5.50 (50)" and table.rows[0][5] == "9.50 (100)"


@pytest.mark.slow
@pytest.mark.timeout(1200)  # "text" trains a CLIP besides
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_on_a_few_made_up_clothes(tmp_path, variant, capsys):
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 400), ("t10k", 120)):
        labels = np.arange(count) % 10
        images = (labels[:, None, None] * 20 + rng.integers(0, 40, (count, 28, 28))).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
            (folder / f"{split}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    given = argparse.Namespace(
        data=str(folder), out=tmp_path / "out", variant=variant, seed=0, steps=4, autoencoder_steps=4, samples=100,
        sweep=20, reader_steps=10,
    )  # fmt: skip
    assert tell(given) == 0
    name = variant or "diffusion"
    page = (tmp_path / "out" / name / "report" / "index.html").read_text()
    assert "By an independent reader" in page and (tmp_path / "out" / name / "report" / "metrics.json").is_file()
    if variant == "latent":
        assert "The autoencoder" in page and "No pixel model was measured" in page and "TFLOP" in page
        found = json.loads((tmp_path / "out" / name / "report" / "metrics.json").read_text())
        spent = found["autoencoder"]["costs"]
        whole = (
            spent["latents"] * 6008 / 4
        )  # of the pixel model all steps count, of the latent one those that were asked for
        assert spent["pixels"] == pytest.approx(whole, rel=1e-3)
        assert 0 < found["autoencoder"]["psnr"] < 60 and found["autoencoder"]["shape"] == [7, 7, 4]
        assert (tmp_path / "out" / "latents" / "latents.json").is_file()
    said = capsys.readouterr().out
    assert ("right, Frechet" in said) == (variant != "unconditional")
    assert tell(given) == 0  # all is reused
