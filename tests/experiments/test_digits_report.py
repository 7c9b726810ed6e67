"""The digits report, made of real scans with noise in place of a model."""

import dataclasses
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from diffusion_jax.report.making import Making
from experiments.digits.content import (
    Comparison,
    DigitsContent,
    Headline,
    Metric,
    NegativePrompt,
    PromptGrid,
    Similarity,
    Trajectory,
)
from experiments.digits.figures import chosen_frames, save_figures
from experiments.digits.report import digits_page, write_report


@pytest.fixture(scope="module")
def content() -> DigitsContent:
    scans = (load_digits().images[:64, ..., None] / 8 - 1).astype(np.float32)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((21, 8, 8, 1))
    ts = np.linspace(1, 0, 21, dtype=np.float32)
    mix = np.sqrt(1 - ts**2)[:, None, None, None]
    xs = (mix * scans[7] + ts[:, None, None, None] * noise).astype(np.float32)
    rows = [
        {"step": s, "loss": 2.0 / (1 + s / 50)} | ({"val_loss": 1.0, "val_loss_ema": 0.9} if s % 100 == 0 else {})
        for s in range(0, 500, 5)
    ]
    return DigitsContent(
        headline=Headline(0.969, 0.982, 0.914, 1.617, 0.583, 0.781, 0.42, 0.135),
        prompts=PromptGrid(
            scans[:24].reshape(2, 3, 4, 8, 8, 1), ["a <script>bold</script> & thin zero", "a seven"], [1.0, 3.0, 7.5]
        ),
        negative=NegativePrompt("a seven", "a thin digit", scans[:8], scans[8:16], 0.42, 0.135),
        trajectory=Trajectory("a slanted seven", ts, xs, xs[1:]),
        similarity=Similarity(np.eye(6, dtype=np.float32), scans[:6], [f"caption {i}" for i in range(6)]),
        clip_losses=rows,
        diffusion_losses=rows,
        during=[(250, scans[:4], scans[4:8]), (500, scans[:4], scans[4:8])],
        guidance=[{"guidance": w, "accuracy": 0.9 + w / 100, "diversity": 0.8 - w / 20} for w in (1.0, 1.2, 3.0, 8.0)],
        comparison=Comparison(["a real one", "another"], scans[:2], scans[2:4]),
        metrics=[
            Metric("CLIP zero-shot accuracy", 0.9694, "≥ 95%", True, "on held-out scans", percent=True),
            Metric("Fréchet distance", 2.3456, "≤ 2.0", False, "over 64 pixels"),
            Metric("parameters", 1234567, None, None, "counted"),
        ],
        making=Making(
            {"clip": 71.3, "diffusion": 183.0}, {"jax": "0.10.2"}, {"seed": 0, "clip": {"width": 64}}, ["make demo"]
        ),
    )


@pytest.fixture(scope="module")
def page(content, tmp_path_factory) -> str:
    return write_report(tmp_path_factory.mktemp("report") / "index.html", content).read_text()


def test_the_page_stands_alone_and_is_small(page):
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "url(h" not in page
    assert len(page) < 3e6


def test_every_picture_is_told_in_words(page):
    pictures = re.findall(r"<img[^>]*>", page)
    assert len(pictures) == 6 + 2 + (11 + 10) + 6 + 4 + 4
    assert all(re.search(r'alt="[^"]{3,}"', tag) for tag in pictures)
    assert all('role="img" aria-label="' in tag or "aria-hidden" in tag for tag in re.findall(r"<svg[^>]*>", page))
    assert all(re.search(r'aria-label="[^"]{10,}"', tag) for tag in re.findall(r"<figure[^>]*>", page))
    assert all(len(text) > 30 for text in re.findall(r"<figcaption>(.*?)</figcaption>", page))


def test_prompts_are_escaped(page):
    assert "<script" not in page
    assert "a &lt;script&gt;bold&lt;/script&gt; &amp; thin zero" in page


def test_numbers_are_shown_with_sensible_digits(page):
    for text in (
        "96.9%",
        "98.2%",
        "91.4%",
        ">1.62<",
        "0.58",
        ">0.78<",
        "13.5%",
        "42%",
        "2.35",
        "1,234,567",
        "4 min 14 s",
    ):
        assert text in page, text
    assert "≥ 95% <span" in page
    assert page.count("✓ met") == 1
    assert page.count("✗ missed") == 1


def test_how_it_was_made_is_there(page):
    for text in ("make demo", "clip.width", "0.10.2", "1 min 11 s", "guidance 7.5"):
        assert text in page


def test_light_and_dark(page):
    assert "prefers-color-scheme:dark" in page
    assert "img.ink{filter:invert(1)}" in page


def test_what_a_run_did_not_keep_is_left_out(content, tmp_path):
    bare = [{"step": s, "loss": 1.0 / (s + 1)} for s in range(3)]
    scarce = dataclasses.replace(content, during=[], clip_losses=bare, diffusion_losses=bare)
    page = write_report(tmp_path / "a.html", scarce).read_text()
    assert "Samples during training" not in page
    assert "validation" not in page.split('id="training"')[1].split("<figcaption>")[0]
    nothing = dataclasses.replace(scarce, clip_losses=[], diffusion_losses=[], making=Making({}, {}, {}, []))
    assert "kept no losses" in write_report(tmp_path / "b.html", nothing).read_text()
    names = {path.stem for path in save_figures(tmp_path, dataclasses.replace(nothing, guidance=[]))}
    assert names == {f"{name}{face}" for name in ("prompts", "negative", "trajectory") for face in ("", "-dark")}


def test_figures_are_png_files_with_their_prompts(content, tmp_path):
    made = save_figures(tmp_path / "figures", content)
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == sorted(p.name for p in made)
    assert {"prompts.png", "prompts-dark.png", "losses.png", "guidance.png"} <= {p.name for p in made}
    with Image.open(tmp_path / "figures" / "negative.png") as picture:
        assert picture.info["prompt"] == "a seven"
        assert picture.info["negative"] == "a thin digit"


def test_the_page_is_a_function_of_its_content(content, page, tmp_path):
    assert write_report(tmp_path / "again.html", content).read_text() == page
    assert len(digits_page(content).tiles) == 6


@pytest.mark.parametrize("steps", [1, 2, 10, 11, 50])
def test_frames_go_from_noise_to_data(content, steps: int):
    ts = np.linspace(1, 0, steps + 1, dtype=np.float32)
    frames = chosen_frames(
        dataclasses.replace(content.trajectory, ts=ts, xs=np.zeros((steps + 1, 8, 8, 1), np.float32))
    )
    assert frames[0] == 0
    assert frames[-1] == steps
    assert len(frames) == min(11, steps + 1)
