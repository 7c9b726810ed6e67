"""CLIP on pictures of one's own: trained, resumed, fine-tuned with a locked tower, measured, and what is refused."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import smallruns as tiny
from PIL import Image

from diffusion_jax import load_pretrained, load_run
from diffusion_jax.cli import main
from diffusion_jax.train.checkpoint import restore_params

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from captioned import COLOURS


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tiny.make_pictures(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def trained(pictures):
    run = pictures / "run"
    options = {"loss.chunk": 4, "loss.micro_batches": 2, "optimizer.learning_rate": 3e-3, "steps": 40, "eval_every": 20}
    assert main(tiny.folder_arguments(pictures, run, **options)) == 0
    return run


def test_a_folder_trains_in_blocks_and_micro_batches_and_learns_its_colours(trained, pictures):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if "val_i2t_r1" in line]
    assert len(found) == 2 and {"val_loss", "val_loss_ema", "val_t2i_r10_ema"} <= found[-1].keys()
    assert np.isfinite(found[-1]["val_loss"])
    run = load_run(trained)
    reds = [i for i in range(48) if i % 4 == 0]
    names = [f"a {colour} square" for colour in COLOURS]
    scores = run.encode_image([pictures / "pictures" / f"{i:03d}.png" for i in reds]) @ run.encode_text(names).T
    assert (scores.argmax(axis=1) == 0).mean() >= 0.9


def test_every_measure_of_ones_own_pictures(trained, pictures, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for colour, value in COLOURS.items():
        for i in range(3):
            folder = tmp_path / "classes" / f"{colour}_square"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(np.array(value) + rng.integers(-20, 20, (20, 20, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "templates.txt").write_text("a {}\n{}\n")
    classes, own = str(tmp_path / "classes"), str(pictures / "pictures")
    command = [
        "evaluate",
        "--run",
        str(trained),
        "--zero-shot",
        classes,
        "--templates",
        str(tmp_path / "templates.txt"),
    ]
    command += ["--retrieval", own, "--linear-probe", classes, classes, "--clip-score", own, "--out", str(tmp_path)]
    assert main(command) == 0
    capsys.readouterr()
    found = json.loads((tmp_path / "clip_metrics.json").read_text())
    assert found["zero_shot"]["top1"] >= 0.9 and found["zero_shot"]["classes"] == 4
    assert found["linear_probe"]["accuracy"] >= 0.9
    assert found["clip_score"]["pairs"] == 48 and 0 < found["clip_score"]["mean"] <= 2.5
    assert 0 <= found["retrieval"]["text_to_image"]["r1"] <= 1
    assert main(["evaluate", "--run", str(trained), "--clip-score", own, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert json.loads((tmp_path / "clip_metrics.json").read_text()).keys() == found.keys()
    for wrong, said in (
        (["--zero-shot", classes + "x"], "there is no folder"),
        (["--retrieval", own, "--classes", "x"], "--classes needs --zero-shot"),
        (["--zero-shot", classes, "--templates", "sven"], "templates 'sven' is not known; did you mean 'seven'?"),
        ([], "is measured on pictures of yours: give one of --zero-shot"),
    ):
        tiny.fails(capsys, ["evaluate", "--run", str(trained), *wrong], said)


def test_published_weights_are_tuned_with_one_tower_locked(trained, pictures, tmp_path, capsys):
    assert main(["convert", str(trained), "--out", str(tmp_path / "hf")]) == 0
    assert "its vocabulary beside it" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "hf"), "--out", str(tmp_path / "oc"), "--format", "open_clip"]) == 0
    own = load_run(trained).encode_text(["a red square"])
    for folder in ("hf", "oc"):
        np.testing.assert_allclose(load_pretrained(tmp_path / folder).encode_text(["a red square"]), own, atol=1e-6)
    options = {"weights.path": tmp_path / "hf", "locked": "('^visual/',)", "optimizer.learning_rate": 1e-3}
    assert main(tiny.folder_arguments(pictures, tmp_path / "tuned", **options)) == 0
    before, after = (
        restore_params(trained / "checkpoints", "ema"),
        restore_params(tmp_path / "tuned/checkpoints", "params"),
    )
    for a, b in zip(jax.tree.leaves(before["visual"]), jax.tree.leaves(after["visual"])):
        np.testing.assert_array_equal(a, b)
    assert np.abs(before["text"]["token_embedding"] - after["text"]["token_embedding"]).max() > 1e-4
    capsys.readouterr()
    for changed, said in (
        ({"model.text.width": 16}, "are of another model than the config's: model.text.width 32 there, 16 here"),
        ({"model.vision.heads": 2}, "model.vision.heads 4 there, 2 here; set model.vision.heads=4"),
        ({"preprocess.std": "(0.4,0.4,0.4)"}, "set preprocess.std=(0.5,0.5,0.5), or weights.preprocess=config"),
    ):
        wrong = tiny.folder_arguments(pictures, tmp_path / "other", **{"weights.path": tmp_path / "hf", **changed})
        tiny.fails(capsys, wrong, said)
        assert not (tmp_path / "other").exists()


def test_zero_shot_in_the_loop(pictures, tmp_path):
    classes = tmp_path / "classes"
    for i, colour in enumerate(("white", "red")):
        (classes / colour).mkdir(parents=True)
        Image.new("RGB", (16, 16), COLOURS[colour]).save(classes / colour / f"{i}.png")
    asked = {"zero_shot.path": classes, "zero_shot.templates": "plain"}
    assert main(tiny.folder_arguments(pictures, tmp_path / "run", **asked)) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= line["val_zero_shot_ema"] <= 1 for line in lines if "val_loss" in line)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"data.path": "nothing"}, "there is no folder 'nothing'"),
        ({"data.name": "foldr"}, "data 'foldr' is not known; did you mean 'folder'?"),
        ({"data.crop": "centre"}, "data.crop 'centre' is not known; did you mean 'center'?"),
        ({"data.workers": -1}, "config key 'data.workers' is -1"),
        ({"tokenizer.path": "nothing"}, "nothing"),
        ({"tokenizer.name": "bp"}, "tokenizer 'bp' is not known; did you mean 'bpe'?"),
        ({"loss.name": "infonse"}, "loss 'infonse' is not known; did you mean 'infonce'?"),
        ({"loss.name": "sigmoid"}, "loss 'sigmoid' needs model.logit_bias=True"),
        ({"loss.chunk": -1}, "config key 'loss.chunk' is -1; it is a whole number of at least 0"),
        ({"loss.micro_batches": 3}, "3"),
        ({"locked": "('^vision/',)"}, "locked '^vision/' is found in no parameter"),
        ({"model.preset": "ViT-B-31"}, "model.preset 'ViT-B-31' is not known; did you mean 'ViT-"),
        ({"zero_shot.path": "nothing"}, "there is no folder 'nothing'"),
        ({"zero_shot.templates": "phot"}, "'phot' is not known; did you mean 'photo'?"),
        ({"data.caption_column": "captoin"}, "captoin"),
        ({"weights.path": "nothing"}, "'nothing' does not exist"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_no_folder(pictures, tmp_path, capsys, changed, said):
    tiny.fails(capsys, tiny.folder_arguments(pictures, tmp_path / "run", **changed), said)
    assert not (tmp_path / "run").exists()
