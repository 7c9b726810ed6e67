"""The page's sections of unCLIP: there where it was measured, with its numbers, and absent where it was not."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
import smallruns as tiny

from diffusion_jax.data.sources.digits import load_digits
from diffusion_jax.pipelines.unclip_runs import load_unclip
from diffusion_jax.report.page import Page, write_page
from experiments.digits import page, unclip
from experiments.digits.clip_alone import evaluate_clip_alone
from experiments.digits.measures import Evaluation
from experiments.digits.unclip_sections import clip_alone_section, unclip_section
from experiments.ways import WAYS


def measured() -> Evaluation:
    rng = np.random.default_rng(0)

    def pictures(*lead):
        return rng.uniform(-1, 1, (*lead, 8, 8, 1)).astype(np.float32)

    row = {"digit_accuracy": 0.25, "frechet": 1.5, "diversity": 0.75}
    found = Evaluation(
        arrays={
            "clip_alone": pictures(10, 2), "unclip_ways": pictures(len(WAYS), 10), "unclip_variations": pictures(2, 7),
            "unclip_interpolations": pictures(2, 9), "unclip_diffs": pictures(2, 3), "unclip_components": pictures(2, 3),
        },
        notes={"unclip_thetas": [0.0, 0.4], "unclip_components": [1, 8]},
    )  # fmt: skip
    found.put("clip_alone", {"cosine": 0.88, "cosine_real": 0.66, "digit_accuracy": 0.45})
    numbers = {
        "prior_cosine": 0.91, "text_cosine": 0.72, "reranked_cosine": 0.93, "shuffled_cosine": 0.08,
        "variation_accuracy": 0.94, "variation_distance": 0.63, "inversion_psnr": 31.0, "interpolation_jump": 1.7,
        "interpolation_jump_by_angle": 2.1,
        "diff_turned": 0.96, "diff_kept": 0.95,
        "components": {str(count): {"variance": 0.5, "digit_accuracy": 0.5} for count in (1, 8)},
        "ways": {way: {"guidance_1": row, "guidance_3": row} for way in WAYS},
    }  # fmt: skip
    found.put("unclip", numbers)
    return found


def test_the_sections_say_what_was_measured(tmp_path):
    evaluation = measured()
    sections = (clip_alone_section(evaluation), unclip_section(evaluation))
    page = write_page(tmp_path / "index.html", Page(title="t", lead="l", tiles=(), sections=sections, foot="f"))
    text = page.read_text()
    for said in ("cosine 0.88", "cosine 0.91 for 0.72", "94%", "1.70 times the mean one", "2.10 times", "31 dB"):
        assert said in text, said


def test_without_a_measurement_there_are_none():
    assert clip_alone_section(Evaluation()) is None and unclip_section(Evaluation()) is None


@pytest.mark.slow
def test_what_is_measured_is_what_the_page_shows(once, monkeypatch):
    folder = once("unclip", tiny.make_unclip)
    for name, value in {"STEPS": 2, "INVERTED": 2, "SHOWN_THETAS": (0.0, 0.4)}.items():
        monkeypatch.setattr(unclip, name, value)
    found = Evaluation()
    pipeline = load_unclip(folder / "decoder", prior=folder / "prior")
    scans, held_out = load_digits("train"), load_digits("validation")
    evaluate_clip_alone(pipeline.decoder.run.clip, scans, held_out, found)
    unclip.evaluate_unclip(pipeline, scans, held_out, found, samples=20)
    for name in page.UNCLIP:
        assert np.isfinite(page._value(found.metrics, name)), name
    assert any("20 samples of held-out captions" in row.how for row in page._rows(whole(found.metrics), 7, 20))
    assert clip_alone_section(found) is not None and len(unclip_section(found).blocks) == 7


def whole(metrics):
    """With a number wherever the rest of the page wants one."""
    for name in page.TARGETS:
        *groups, last = name.split(".")
        node = metrics
        for group in groups:
            node = node.setdefault(group, {})
        node.setdefault(last, 0.5)
    return metrics
