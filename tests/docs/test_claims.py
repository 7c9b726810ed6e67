"""What the pages claim in words, where a second of computing can tell."""

import re

import pytest
import snippets

from diffusion_jax import load_pretrained
from diffusion_jax.build import guidance as steering
from diffusion_jax.build import samplers
from diffusion_jax.data.sources.digits import CLASS_NAMES, load_digits
from diffusion_jax.nets import CLIP_MODELS
from diffusion_jax.typing import UserError
from experiments.digits.reader import fit_reader


def page(name: str) -> str:
    """A page with its line breaks taken out."""
    return " ".join((snippets.ROOT / name).read_text().split())


def written(name: str, pattern: str) -> str:
    """The one group of a pattern that a page has once."""
    (found,) = re.findall(pattern, page(name))
    return found


def test_the_reader_of_the_digits():
    train, test = load_digits("train"), load_digits("test")
    accuracy = fit_reader(train.images, train.labels).accuracy(test.images, test.labels)
    snippets.agree(written("README.md", r"itself right on ([\d.]+)% of the held-out"), 100 * accuracy, "README.md")
    assert len(CLASS_NAMES) == 10
    assert snippets.number(written("docs/own_pictures.md", r"scans as pictures, ([\d,]+) with two captions")) == len(
        train
    )


def test_guidance_by_name():
    names = written("docs/steering.md", r"By name, for configs .*?, there are (.*?), each with its own options")
    solvers = written("docs/steering.md", r"`cfg_plus_plus` \(with (.*?)\)")
    assert sorted(re.findall(r"`(\w+)`", solvers)) == sorted(samplers.from_pair())
    assert re.findall(r"`(\w+)`", names.replace(solvers, "")) == list(steering.GUIDANCE)
    limits = written("docs/steering.md", r"and the limits (.*?); the other kinds")
    assert re.findall(r"`(\w+)`", limits) == list(steering.LIMITS)


def test_parity_of_every_layer():
    rows = re.findall(r"^\|.*\|$", (snippets.ROOT / "docs" / "clip_parity.md").read_text(), re.MULTILINE)[2:]
    assert len(rows) == int(written("docs/clip.md", r"both embeddings of (\d+) models"))
    worst = max(float(value) for row in rows for value in re.findall(r"\d\.\de-\d\d", row))
    for name, pattern in (
        ("README.md", r"every layer within (\S+) of"),
        ("docs/clip.md", r"float32, within (\S+) of open_clip"),
    ):
        assert worst <= float(written(name, pattern)), name


def test_a_name_says_sizes_and_a_path_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = {name.removesuffix("-quickgelu") for name in CLIP_MODELS}
    assert len(models) == int(written("docs/clip.md", r"`nets.CLIP_MODELS` has (\d+), "))
    for name in ("ViT-B-32", "openai/clip-vit-base-patch32"):
        with pytest.raises(
            UserError, match=f"'{name}' does not exist; weights are a folder or file of yours, not a name"
        ):
            load_pretrained(name)
