"""docs/own_pictures.md from its first command to its last, as a reader gives them; what it says came out comes out."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import jax
import pytest
import snippets
from processes import environment

from diffusion_jax.convert import save_clip
from diffusion_jax.nets import CLIP, Network, clip_model

PAGE = snippets.ROOT / "docs" / "own_pictures.md"
SLACK = 0.1  # of a network trained on another machine


@pytest.mark.slow
@pytest.mark.timeout(7200)  # beside another program on two cores it takes an hour
def test_the_page_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "experiments"):
        (tmp_path / name).symlink_to(snippets.ROOT / name)
    text, alone = PAGE.read_text(), environment(devices=1)  # on eight, every device would hold the whole ViT-B/32
    for line in snippets.commands(PAGE):
        program, *rest = shlex.split(line)
        if "clip-vit-base-patch32" in line:
            _published(tmp_path / "clip-vit-base-patch32", tmp_path / "vocabulary")
            # The page says that three steps were run.
            rest += ["--config.steps=3", "--config.batch_size=8", "--config.optimizer.warmup_steps=1"]
        module = ["-m", "diffusion_jax"] if program == "diffusion-jax" else []
        done = subprocess.run([sys.executable, *module, *rest], capture_output=True, text=True, check=False, env=alone)
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
    assert len(snippets.run(PAGE)) == 3

    run = tmp_path / "runs" / "clip_folder"
    rows = len((tmp_path / "pictures" / "captions.csv").read_text().splitlines()) - 1
    assert rows == 2 * snippets.number(re.search(r"([\d,]+) with two captions each", text)[1])
    ids = len(json.loads((tmp_path / "vocabulary" / "vocab.json").read_text()))
    assert ids == int(re.search(r"(\d+) ids", text)[1])
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert "val_i2t_r10" in last
    found = re.search(r"among the first ten for ([\d.]+)%", text)[1]
    snippets.agree(found, 100 * last["val_i2t_r10"], "recall at ten", SLACK)
    measured = json.loads((run / "report" / "clip_metrics.json").read_text())
    snippets.agree(
        re.search(r"Here: (\d+)% of the test", text)[1], 100 * measured["zero_shot"]["top1"], "zero-shot", SLACK
    )
    for name, told in (("upsampler", True), ("inpainting", True), ("alike", False), ("both", True)):
        numbers = json.loads((tmp_path / "runs" / name / "report" / "measures.json").read_text())["samples"]
        assert ("told" in numbers) == told and (not told or numbers["told"] > numbers["told_others"] + 1)
    assert {"retrieval", "clip_score"} <= json.loads((tmp_path / "numbers" / "clip_metrics.json").read_text()).keys()


def _published(folder, vocabulary) -> None:
    """A ViT-B/32 of random weights as a folder of transformers: no published ones are part of a test."""
    ids = len(json.loads((vocabulary / "vocab.json").read_text()))
    config = clip_model("ViT-B-32-quickgelu", text={"vocabulary_size": ids})
    network = Network(lambda rngs: CLIP(rngs, **config))
    save_clip(folder, config, network.init(jax.random.key(0)), "hf")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(vocabulary / name, folder)
