"""Who judges the emoji, what is shown of them, and what the command takes."""

import re

import numpy as np
import pytest
from emoji_made import STYLES, made_file

from diffusion_jax.report.making import Making
from diffusion_jax.report.page import render
from diffusion_jax.typing import UserError
from experiments.digits.measures import Evaluation
from experiments.emoji.__main__ import overrides
from experiments.emoji.figures import save_figures
from experiments.emoji.judging import coarse, within
from experiments.emoji.measures import shown_subjects
from experiments.emoji.page import TARGETS, emoji_page
from experiments.emoji.source import Emoji

RNG = np.random.default_rng(0)
LOSSES = [{"step": step, "loss": 1.0 / (1 + step), "val_loss": 1.0, "val_loss_ema": 0.9} for step in (1, 50, 100)]


def judged(pictures=12):
    clip = {"image_to_text": 0.5, "text_to_image": 0.4, "chance": 0.1, "ratio": 4.0, "pairs": pictures, "groups": 3}
    pixels = {"recall": 0.625, "chance": 0.125, "ratio": 5.0}
    return {
        "pictures": pictures,
        "style_right": 0.84375,
        "subject_clip": clip,
        "subject_clip_real": clip,
        "subject_pixels": pixels,
    }


def evaluation(several: bool) -> Evaluation:
    def images(*shape):
        return RNG.uniform(-1, 1, (*shape, 32, 32, 3)).astype(np.float32)

    found = Evaluation(
        arrays={
            "grid": images(2, 3, 3),
            "negative_without": images(8),
            "negative_with": images(8),
            "unseen": images(4),
            "unseen_real": images(4),
            "trajectory_ts": np.linspace(1, 0, 5),
            "trajectory_xs": images(5),
            "trajectory_x0_hats": images(4),
        },
        notes={
            "styles": list(STYLES if several else STYLES[:1]),
            "credits": ["OpenMoji, CC BY-SA 4.0", "Noto <Emoji>", "Fluent"][: 3 if several else 1],
            "grid_prompts": ["a <b>cat</b> & hat, noto style", "a tree"],
            "grid_scales": [1.0, 3.0, 6.0],
            "negative_prompts": ["a cat", "a hat"],
            "unseen_captions": ["a", "b", "c", "d"],
            "trajectory_prompt": "a cat",
            "sweep": {
                "split": "pairs" if several else "train",
                "pictures": 16,
                "rows": [
                    {"guidance": g, "style_right": 0.5 if several else None, "subject_clip": 0.6, "frechet": 3.0 + g}
                    for g in (1.0, 3.0, 8.0)
                ],
            },
        },
        metrics={
            "clip": {"held_out": {**judged()["subject_clip"], "ratio": 6.5}},
            "seen": judged(),
            "unseen_subjects": judged(),
            "frechet": {"drawn": 4.5, "real": 1.5, "blurred": 30.0, "features": "the reader's", "pictures": 12},
            "negative_prompt": {"negative": "noto style", "pictures": 16, "guidance_scale": 3.0},
        },
    )
    if several:
        found.metrics |= {"reader": {"accuracy": 0.97, "pictures": 20}, "pairs": judged()}
        found.metrics["clip"]["style_accuracy"] = 0.9
        found.metrics["negative_prompt"] |= {"style_without": 0.375, "style_with": 0.0625}
        found.arrays |= {"matrix": images(2, 3), "matrix_real": images(2, 3), "matrix_held": np.array([2, 0])}
        found.notes["matrix_subjects"] = ["a boat", "a star"]
    else:
        for name in ("seen", "unseen_subjects"):
            found.metrics[name]["style_right"] = None
    return found


def page_of(several: bool) -> str:
    making = Making({"clip": 10.0}, {"jax": "0"}, {"clip": {"seed": 0}}, ["make emoji"])
    page = render(emoji_page(evaluation(several), {"CLIP": LOSSES, "Diffusion model": LOSSES}, making))
    return re.sub(r"<style.*?</style>|data:image[^\"]*", "data:", page, flags=re.DOTALL)


def test_the_page_marks_what_was_held_out_and_says_each_number_once_measured():
    page = page_of(several=True)
    assert page.count('<div class="marked">') == 2 and page.count("never seen</div>") == 2
    assert re.search(r'alt="a star, openmoji: real, drawn, never seen: 2 images"', page)
    for title, *_ in TARGETS.values():
        assert title.partition("{")[0].replace("'", "&#x27;") in page
    assert "84.4%" in page and "6.50×" in page and "37.5%" in page and "✓ met" in page
    assert "Noto &lt;Emoji&gt;" in page and "<b>cat" not in page and "{" not in page
    pictures = re.findall(r"<img[^>]*>", page)
    assert all(re.search(r'alt="[^"]{3,}"', tag) for tag in pictures)
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_with_one_style_the_page_says_nothing_of_pairs():
    page = page_of(several=False)
    assert "marked" not in page and "several hands" not in page
    assert "reader of style" not in page and "6.50×" in page and "None" not in page


def test_the_figures_are_written_on_both_papers(tmp_path):
    names = {file.name for file in save_figures(tmp_path, evaluation(several=True))}
    assert names == {f"{name}{dark}.png" for name in ("prompts", "negative", "styles") for dark in ("", "-dark")}


def test_retrieval_within_groups_stands_beside_its_chance():
    rows, groups = np.eye(40), np.repeat([0, 1], 20)
    names = [str(i) for i in range(40)]
    right = within(rows, rows, groups, names)
    assert right["image_to_text"] == right["text_to_image"] == 1.0 and right["chance"] == pytest.approx(5 / 20)
    assert right["ratio"] == pytest.approx(4.0) and (right["pairs"], right["groups"]) == (40, 2)
    same = within(np.ones((40, 1)), np.ones((40, 1)), groups, names)
    assert same["ratio"] == pytest.approx(1.0)
    # A right group alone is chance: the group is known to all that are compared.
    of_group = np.eye(2)[groups]
    assert within(of_group, of_group, groups, names)["ratio"] == pytest.approx(1.0)
    twins = within(rows, rows, groups, ["twin"] * 2 + names[2:])
    assert twins["chance"] > right["chance"]


def test_coarse_pixels_see_colour_and_place_and_not_brightness():
    picture = RNG.integers(40, 200, (3, 32, 32, 3)).astype(np.uint8)
    found = coarse(picture)
    assert found.shape == (3, 192) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.allclose(coarse(picture + np.uint8(20)), found, atol=1e-5)
    assert np.allclose(coarse(picture.astype(np.float32) / 127.5 - 1), found, atol=1e-5)
    assert (found @ coarse(picture[:, :, ::-1]).T).max() < 0.9
    assert np.isfinite(coarse(np.full((1, 32, 32, 3), 255, np.uint8))).all()


def test_the_subjects_shown_are_whole_and_held_out_in_turns(tmp_path):
    file = str(made_file(tmp_path))
    train, pairs = (Emoji(file, name) for name in ("train", "pairs"))
    subjects = shown_subjects(train, pairs, 6)
    held = [int(pairs.labels[pairs.subjects == subject][0]) for subject in subjects]
    assert held == [0, 1, 2, 0, 1, 2] and len(set(subjects)) == 6


def test_settings_of_either_run_are_told_apart():
    assert overrides(["clip.steps=3", "diffusion.model.width=8"]) == {
        "clip": {"steps": "3"},
        "diffusion": {"model.width": "8"},
        "vae": {},
        "prior": {},
    }
    for text, message in (
        ("clap.steps=3", "'clap'.*'clip'"),
        ("clip.steps", "is not RUN.KEY=VALUE"),
        ("steps=3", "is not"),
    ):
        with pytest.raises(UserError, match=message):
            overrides([text])
