"""The study of guidance and editing, whole, on runs too small to draw a digit: does every part reach its page?"""

import json
import sys
from pathlib import Path

import pytest

from experiments.steering import __main__ as steering
from experiments.steering import measures

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))
import smallruns as tiny


@pytest.mark.slow
def test_the_page_of_steering_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "TRIPLES", measures.TRIPLES[::27])
    folder = tiny.make(tmp_path / "runs")
    assert steering.study(folder, "validation", 0) == 0
    found = json.loads((folder / "report" / "steering.json").read_text())
    assert {"guidance", "negative", "composition", "img2img", "inpainting", "inverse", "inversion"} < set(found)
    page = (folder / "report" / "steering.html").read_text()
    assert "Guidance, method by method" in page and "<script" not in page and 'src="http' not in page
    assert (folder / "report" / "steering.png").is_file()
