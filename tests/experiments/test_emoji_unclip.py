"""The emoji's variant `unclip`: its section of the page, and the whole on made-up emoji."""

import json

import numpy as np
import pytest
from emoji_made import STYLES, made_pictures
from test_emoji_latent import given

from diffusion_jax.report.page import Page, render
from experiments.digits.measures import Evaluation
from experiments.emoji import pictures, unclip
from experiments.emoji.__main__ import emoji
from experiments.emoji.unclip_sections import unclip_sections
from experiments.ways import WAYS, largest_step


def measured(styled=True) -> Evaluation:
    rng = np.random.default_rng(0)

    def images(*lead):
        return rng.uniform(-1, 1, (*lead, 32, 32, 3)).astype(np.float32)

    share = {"style_right": 0.5 if styled else None, "subject_pixels": {"recall": 0.25, "chance": 0.125}}
    share |= {"subject_clip": {"image_to_text": 0.75}, "frechet": 12.5}
    found = Evaluation(
        arrays={
            "unclip_ways": images(len(WAYS), 4), "unclip_real_pairs": images(2), "unclip_real_test": images(2),
            "unclip_variations": images(2, 3), "unclip_interpolations": images(2, 5), "unclip_components": images(2, 3),
        },
        notes={
            "unclip_splits": ["pairs", "test"], "unclip_captions": ["a cat", "a boat", "a hat", "a cup"],
            "unclip_components": [1, 8], "unclip_thetas": [0.0, 0.4], "unclip_turns": ["noto to openmoji"] * 2,
        },
    )  # fmt: skip
    if styled:
        found.arrays["unclip_diffs"] = images(2, 3)
    numbers = {
        "prior_cosine": 0.71, "text_cosine": 0.62, "reranked_cosine": 0.73, "shuffled_cosine": 0.08, "variations": share,
        "variation_distance": 0.63, "inversion_psnr": 31.0, "interpolation_jump": 1.7,
        "interpolation_jump_by_angle": 2.1, "diff_turned": 0.96, "diff_kept": 0.31,
        "components": {str(count): {"recall": 0.5, "chance": 0.125} for count in (1, 8)},
        "ways": {way: {"pairs": share, "test": share} for way in WAYS},
    }  # fmt: skip
    found.put("unclip", numbers)
    return found


def test_its_section_says_what_was_measured():
    text = render(Page("", "", (), unclip_sections(measured())))
    for said in (
        "nearer to",
        "0.71",
        "0.62",
        "1.70 times",
        "2.10 times",
        "31 dB",
        "96%",
        "noto to openmoji",
        "style asked for",
    ):
        assert said in text, said


def test_with_one_style_nothing_is_said_of_styles():
    text = render(Page("", "", (), unclip_sections(measured(styled=False))))
    assert "style asked for" not in text and "Moved by words" not in text and "31 dB" in text


def test_without_a_measurement_there_is_none():
    assert unclip_sections(Evaluation()) == ()


def test_even_steps_have_a_largest_of_one():
    assert largest_step(np.array([[0.0], [1.0], [2.0]])) == 1.0
    assert largest_step(np.array([[0.0], [3.0], [4.0]])) == pytest.approx(1.5)


@pytest.mark.slow
def test_the_whole_on_made_up_emoji(tmp_path, monkeypatch, capsys):
    def drawn(file, styles, words, say):
        pictures.save(file, made_pictures())
        return made_pictures()

    monkeypatch.setattr(pictures, "drawn", drawn)
    for name, value in {"STEPS": 2, "INVERTED": 2, "SHOWN_THETAS": (0.0, 0.4), "COUNTS": (1, 8)}.items():
        monkeypatch.setattr(unclip, name, value)
    few = ("prior.steps=4", "prior.optimizer.warmup_steps=1", "prior.eval_every=4", "prior.model.layers=1")
    told = given(tmp_path, variant="unclip")
    told.set = [setting for setting in told.set if not setting.startswith("vae.")] + [*few, "prior.sampler.num_steps=2"]
    assert emoji(told) == 0
    page = (tmp_path / "decoder" / "report" / "index.html").read_text()
    assert "CLIP turned round: unCLIP" in page and "Moved by words" in page and "Prior" in page
    found = json.loads((tmp_path / "decoder" / "report" / "metrics.json").read_text())["unclip"]
    assert set(found["ways"]) == set(WAYS) and -1 <= found["prior_cosine"] <= 1 and found["inversion_psnr"] > 0
    assert 0 <= found["diff_turned"] <= 1 and set(found["components"]) >= {"1", "8"}
    assert "cosine of the prior" in capsys.readouterr().out
    assert len(STYLES) > 1
