"""CLIP on pictures of one's own: trained, resumed, fine-tuned with a locked tower, measured, and what is refused."""

import json
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import smallruns as tiny
from PIL import Image

from diffusion_jax import load_pretrained, load_run
from diffusion_jax.cli import main
from diffusion_jax.config import load_config
from diffusion_jax.data.sources.caption_folder import CaptionFolder
from diffusion_jax.train.checkpoint import restore_params
from diffusion_jax.typing import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from captioned import COLOURS, table, write


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tiny.make_pictures(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def trained(pictures):
    run = pictures / "run"
    options = {"loss.chunk": 4, "loss.micro_batches": 2, "optimizer.learning_rate": 3e-3, "steps": 40, "eval_every": 20}
    assert main(tiny.folder_arguments(pictures, run, **options)) == 0
    return run


@pytest.mark.slow
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


def test_a_run_is_used_wherever_its_vocabulary_lies(trained, pictures, tmp_path, monkeypatch):
    run = load_run(trained)
    (pictures / "vocabulary").rename(pictures / "elsewhere")
    monkeypatch.chdir(tmp_path)
    try:
        assert load_run(trained).tokenizer == run.tokenizer
        assert sorted(file.name for file in (trained / "vocabulary").iterdir()) == ["merges.txt", "vocab.json"]
    finally:
        (pictures / "elsewhere").rename(pictures / "vocabulary")


def test_every_measure_of_ones_own_pictures(trained, pictures, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for part in ("classes", "others"):
        for colour, value in COLOURS.items():
            for i in range(3):
                folder = tmp_path / part / f"{colour}_square"
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
    command += ["--retrieval", own, "--linear-probe", classes, str(tmp_path / "others"), "--clip-score", own]
    command += ["--out", str(tmp_path)]
    assert main(command) == 0
    assert "retrieval: 36 of these pictures were trained on, and 12 held out: --split" in capsys.readouterr().err
    found = json.loads((tmp_path / "clip_metrics.json").read_text())
    assert found["zero_shot"]["top1"] >= 0.9 and found["zero_shot"]["classes"] == 4
    assert found["linear_probe"]["accuracy"] >= 0.9
    assert found["clip_score"]["pairs"] == 48 and 0 < found["clip_score"]["mean"] <= 2.5
    # Four captions tell four colours apart: a model that knows them is right about every picture.
    assert found["retrieval"]["text_to_image"]["r1"] >= 0.7
    said = {"pictures": 48, "captions": 48, "distinct_captions": 4, "split": "all", "trained_on": 36}
    assert {name: found["retrieval"][name] for name in said} == said
    assert main(["evaluate", "--run", str(trained), "--clip-score", own, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert json.loads((tmp_path / "clip_metrics.json").read_text()).keys() == found.keys()
    held = ["evaluate", "--run", str(trained), "--retrieval", own, "--split", "validation", "--out", str(tmp_path)]
    assert main(held) == 0
    numbers = json.loads(capsys.readouterr().out)["retrieval"]
    assert (numbers["pictures"], numbers["split"], numbers["trained_on"]) == (12, "validation", 0)
    shutil.copytree(classes, tmp_path / "copied")
    (tmp_path / "linked").symlink_to(classes)
    shutil.copytree(tmp_path / "others", tmp_path / "mixed")
    shutil.copy(tmp_path / "classes/red_square/0.png", tmp_path / "mixed/white_square/new.png")
    apart = [(name, 1 if name == "mixed" else 12) for name in ("classes", "linked", "copied", "mixed")]
    for wrong, said in (
        *(
            (["--linear-probe", classes, str(tmp_path / name)], f"{count} of the {count + 12 * (count < 12)} pictures")
            for name, count in apart
        ),
        (["--retrieval", own, "--split", "test"], "no captioned picture in"),
        (["--zero-shot", classes + "x"], "there is no folder"),
        (["--retrieval", own, "--classes", "x"], "--classes needs --zero-shot"),
        (["--zero-shot", classes, "--templates", "sven"], "templates 'sven' is not known; did you mean 'seven'?"),
        ([], "is measured on pictures of yours: give one of --zero-shot"),
    ):
        tiny.fails(capsys, ["evaluate", "--run", str(trained), *wrong], said)


@pytest.mark.slow
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


@pytest.mark.slow  # beside held-out pictures, below, it is measured in every run
def test_zero_shot_in_the_loop(pictures, tmp_path):
    classes = tmp_path / "classes"
    for i, colour in enumerate(("white", "red")):
        (classes / colour).mkdir(parents=True)
        Image.new("RGB", (16, 16), COLOURS[colour]).save(classes / colour / f"{i}.png")
    asked = {"zero_shot.path": classes, "zero_shot.templates": "plain"}
    assert main(tiny.folder_arguments(pictures, tmp_path / "run", **asked)) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= line["val_zero_shot_ema"] <= 1 for line in lines if "val_loss" in line)


def classes_of(folder, count=3, size=16):
    """count pictures of size x size a colour in a folder a colour."""
    for colour, value in COLOURS.items():
        for i in range(count):
            (folder / colour).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (size, size), value).save(folder / colour / f"{i}.png")
    return folder


def cut(path):
    """The first half of a picture's file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_held_out_pictures_that_cannot_be_read_are_skipped_counted_and_named(pictures, tmp_path, capsys):
    own, classes = tmp_path / "pictures", classes_of(tmp_path / "classes")
    shutil.copytree(pictures / "pictures", own)
    held = CaptionFolder(own, split="validation", validation=0.2).names
    cut(own / held[0])
    cut(classes / "red" / "0.png")
    asked = {"data.path": own, "zero_shot.path": classes, "steps": 3}
    named = f"held-out picture: {own / held[0]} cannot be read"
    tiny.fails(capsys, tiny.folder_arguments(pictures, tmp_path / "run", **asked), named, "--config.data.on_error=skip")
    assert not (tmp_path / "run").exists()
    asked["data.on_error"] = "skip"  # as the message advises
    assert main(tiny.folder_arguments(pictures, tmp_path / "run", **asked)) == 0
    (line,) = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if "val_loss" in x]
    assert np.isfinite(line["val_loss"]) and 0 <= line["val_zero_shot_ema"] <= 1
    # As the other lines of a run, without a level and a module before them.
    told = capsys.readouterr().err.splitlines()
    assert sum(text.startswith(f"held-out picture 0 is skipped (1 so far): {own / held[0]}") for text in told) == 1
    assert sum(text.startswith("1 of 12 zero-shot pictures are skipped, the first: ") for text in told) == 1
    for name in held:
        (own / name).write_bytes(b"")
    said = f"more than half of the held-out pictures cannot be read ({len(held)} of {len(held)})"
    tiny.fails(capsys, tiny.folder_arguments(pictures, tmp_path / "none", **asked), said)


def test_measures_leave_out_what_cannot_be_read_when_asked(trained, pictures, tmp_path, capsys):
    own, classes = tmp_path / "pictures", classes_of(tmp_path / "classes")
    write(own, 8)
    command = ["evaluate", "--run", str(trained), "--out", str(tmp_path / "out")]
    measures = {"zero_shot": [classes], "linear_probe": [classes, classes_of(tmp_path / "other", size=20)]}
    measures |= {"retrieval": [own], "clip_score": [own]}
    asked = {name: [f"--{name.replace('_', '-')}", *map(str, folders)] for name, folders in measures.items()}
    every = [word for words in asked.values() for word in words]
    assert main([*command, *every]) == 0
    whole = json.loads(capsys.readouterr().out)
    bad = [classes / "red" / "1.png", own / "002.png"]
    for path in bad:
        cut(path)
    for name, words in asked.items():
        file = bad[0] if name in ("zero_shot", "linear_probe") else bad[1]
        tiny.fails(capsys, [*command, *words], f"{file} cannot be read", "--on-error=skip leaves such pictures out")
    assert main([*command, *every, "--on-error=skip"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out" / "clip_metrics.json").read_text()) == found
    for name, numbers in found.items():
        assert numbers["skipped"] == 1 and numbers["skipped_files"] == [str(bad[name in ("retrieval", "clip_score")])]
    assert found["zero_shot"]["images"] == whole["zero_shot"]["images"] - 1 == 11
    assert found["linear_probe"]["train"] == 11 and found["clip_score"]["pairs"] == 7
    # What is left is measured as if the picture had never been there.
    bad[0].unlink()
    table(own, [row for row in write(own, 8) if row[0] != "002.png"])
    assert main([*command, *every]) == 0
    without = json.loads(capsys.readouterr().out)
    found = {n: {k: v for k, v in m.items() if k not in EXTRA} for n, m in found.items()}
    for name in ("zero_shot", "linear_probe", "clip_score"):
        assert without[name] == pytest.approx(found[name], abs=1e-6)
    assert without["retrieval"] == found["retrieval"]
    for path in (classes / "red").iterdir():
        path.unlink()
    (classes / "red" / "0.png").write_bytes(b"")
    for path in (classes / "blue").iterdir():
        path.write_bytes(b"x")
    for path in (classes / "white").iterdir():
        path.write_bytes(b"x")
    said = "more than half of the pictures of zero-shot cannot be read (7 of 10)"
    tiny.fails(capsys, [*command, *asked["zero_shot"], "--on-error=skip"], said)


EXTRA = ("skipped", "skipped_files", "empty_captions")


def test_what_messages_advise_is_there(trained, pictures, tmp_path, capsys):
    own = tmp_path / "[my] pictures"
    rows = write(own, 8)
    command = ["evaluate", "--run", str(trained), "--out", str(tmp_path), "--retrieval", str(own)]

    def advised(arguments, *said):
        """The option that the refusal of `arguments` names for `evaluate` or `vocabulary`."""
        tiny.fails(capsys, arguments, *said)
        with pytest.raises(UserError) as error:
            CaptionFolder(own)
        return re.search(r"evaluate(?:, vocabulary)?: (--\S+)\)", str(error.value))[1]

    table(own, rows, "other.csv")
    option = advised(command, "2 tables in", "--config.data.captions=captions.csv", "--captions=captions.csv")
    assert main([*command, option]) == 0
    (own / "other.csv").unlink()
    table(own, rows, header=("Image", "words"))
    options = [advised(command, "say image_column=Image"), "--caption-column=words"]
    assert options[0] == "--image-column=Image" and main([*command, *options]) == 0
    vocabulary = ["vocabulary", str(own), "--merges", "3", *options]
    assert main([*vocabulary, "--out", str(tmp_path / "v")]) == 0
    table(own, [*rows, ("000.png", " ")])
    option = advised(command, "1 empty captions", "--config.data.empty=drop", "--on-error=skip")
    assert main([*command, option]) == 0
    assert json.loads((tmp_path / "clip_metrics.json").read_text())["retrieval"]["empty_captions"] == 1
    capsys.readouterr()
    for wrong, said in (
        (["--zero-shot", str(own), "--captions", "x.csv"], "--captions needs --retrieval or --clip-score"),
        (
            ["--on-error", "skip"],
            "--on-error needs --zero-shot, --retrieval, --linear-probe or --clip-score",
        ),
        (["--retrieval", str(own), "--on-error", "skip", "--exif"], "--exif is for published weights"),
        (["--zero-shot", str(classes_of(tmp_path / "one") / "red")], "no pictures in folders of"),
    ):
        tiny.fails(capsys, ["evaluate", "--run", str(trained), *wrong], said)
    shutil.copytree(tmp_path / "one" / "red", tmp_path / "single" / "red")
    tiny.fails(capsys, [*command[:3], "--zero-shot", str(tmp_path / "single")], "has one class, 'red'")
    (tmp_path / "clip_metrics.json").write_text("[]")
    tiny.fails(capsys, [*command, "--on-error=skip"], "holds no numbers of measures")


def test_photographs_are_turned_in_training_and_evaluation_alike(trained, pictures, tmp_path):
    """Own runs obey the EXIF orientation, published weights only when asked, as open_clip does not."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :15] = (220, 30, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "upright.png")
    both = [tmp_path / "turned.png", tmp_path / "upright.png"]
    assert load_config(tiny.FOLDER).preprocess.exif and load_config(f"{tiny.FOLDER}:finetune").preprocess.exif
    turned, upright = load_run(trained).encode_image(both)
    np.testing.assert_array_equal(turned, upright)
    assert main(["convert", str(trained), "--out", str(tmp_path / "hf")]) == 0
    for asked in (True, False):
        turned, same = load_pretrained(tmp_path / "hf", exif=asked).encode_image(both)
        np.testing.assert_allclose(same, upright, atol=1e-6)
        assert (np.abs(turned - same).max() < 1e-6) == asked


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
        ({"model.preset": "ViT-B-33"}, "model.preset 'ViT-B-33' is not known; did you mean 'ViT-B-32'? (known: RN"),
        ({"zero_shot.path": "nothing"}, "there is no folder 'nothing'"),
        ({"zero_shot.templates": "phot"}, "'phot' is not known; did you mean 'photo'?"),
        ({"data.caption_column": "captoin"}, "captoin"),
        ({"weights.path": "nothing"}, "'nothing' does not exist"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_no_folder(pictures, tmp_path, capsys, changed, said):
    tiny.fails(capsys, tiny.folder_arguments(pictures, tmp_path / "run", **changed), said)
    assert not (tmp_path / "run").exists()
