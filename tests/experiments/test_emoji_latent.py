"""The emoji's variant `latent`: its autoencoder, its sections of the page, and the whole on made-up emoji."""

import argparse
import json

import numpy as np
import pytest
from emoji_made import STYLES, made_pictures

from diffusion_jax.report.page import Page, render
from diffusion_jax.typing import UserError
from experiments.digits.measures import Evaluation
from experiments.emoji import pictures
from experiments.emoji.__main__ import emoji
from experiments.emoji.judging import in_blocks
from experiments.emoji.latent import latent_sections

RNG = np.random.default_rng(0)


def given(out, **more):
    settings = (
        "clip.steps=4", "clip.optimizer.warmup_steps=1", "clip.eval_every=4",
        "diffusion.steps=4", "diffusion.optimizer.warmup_steps=1", "diffusion.eval_every=4", "diffusion.model.layers=1",
        "diffusion.sampler.num_steps=4", "diffusion.model.width=32", "diffusion.model.heads=2",
        "vae.steps=4", "vae.optimizer.warmup_steps=1", "vae.eval_every=4", "vae.adversary.start=2",
        "vae.model.channels=(8,16,16)",
    )  # fmt: skip
    told = {"out": out, "styles": [], "words": None, "seed": 0, "samples": 16, "set": list(settings), "fresh": False}
    return argparse.Namespace(**told | {"variant": "latent"} | more)


def evaluation() -> Evaluation:
    def images(count):
        return RNG.uniform(-1, 1, (count, 32, 32, 3)).astype(np.float32)

    numbers = {f"{key}{ending}": 0.5 for key in ("l1", "psnr", "ssim", "frechet") for ending in ("", "_blurred")}
    numbers |= {"frechet_real": 0.25, "psnr_low": 20.0, "parameters": 1234, "pictures": 9, "shape": [8, 8, 4]}
    return Evaluation(
        metrics={
            "autoencoder": numbers | {"image": [32, 32, 3], "psnr": 26.25},
            "costs": dict.fromkeys(("pixels", "latents", "autoencoder", "encoding", "decoding"), 2 * 10**12),
            "seconds": {"diffusion": 12.0},
            "frechet": {"drawn": 4.5},
            "pairs": {"style_right": 0.75},
        },
        arrays={
            "back_given": images(3), "back_made": images(3), "back_styles": np.arange(3), "worst_given": images(2),
            "worst_made": images(2),
        },
        notes={"styles": list(STYLES)},
    )  # fmt: skip


def test_the_page_has_the_autoencoder_and_the_pixel_model_where_that_was_measured(tmp_path):
    file = tmp_path / "metrics.json"

    def page():
        return render(Page("", "", (), latent_sections(evaluation(), file)))

    assert "No pixel model" in page() and "26.2" in page() and "1,234" in page() and "12 times fewer" in page()
    file.write_text(json.dumps({"frechet": {"drawn": 8.25}, "pairs": {"style_right": 0.5}}))
    assert "No pixel model" not in page() and "8.25" in page() and "75%" in page()
    assert "models take as many" in page()
    assert latent_sections(Evaluation(), file) == ()


def test_pictures_in_blocks_keep_their_means():
    images = RNG.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    soft = in_blocks(images)
    assert soft.shape == images.shape and np.unique(soft[0, :4, :4, 0]).size == 1
    np.testing.assert_allclose(soft.mean((1, 2)), images.mean((1, 2)) / 127.5 - 1, atol=1e-5)


def test_another_variant_is_one_line(tmp_path):
    with pytest.raises(UserError, match="'latents' is not latent, unclip"):
        emoji(given(tmp_path, variant="latents"))


@pytest.mark.slow
def test_the_whole_on_made_up_emoji(tmp_path, monkeypatch, capsys):
    def drawn(file, styles, words, say):
        pictures.save(file, made_pictures())
        return made_pictures()

    monkeypatch.setattr(pictures, "drawn", drawn)
    assert emoji(given(tmp_path)) == 0
    page = (tmp_path / "latent" / "report" / "index.html").read_text()
    assert "The autoencoder" in page and "No pixel model" in page and "by way of latents" in page
    found = json.loads((tmp_path / "latent" / "report" / "metrics.json").read_text())
    assert found["autoencoder"]["shape"] == [8, 8, 4] and found["costs"]["pixels"] > 0
    assert "there and back" in capsys.readouterr().out
