"""What a run is asked for on the command line: prompts, classes, pictures, several at once, and a file of requests."""

import argparse
import json
from types import SimpleNamespace

import numpy as np
import pytest
import smallruns as tiny
from PIL import Image

from diffusion_jax import load_run
from diffusion_jax.cli import main
from diffusion_jax.cli.asking import Asked, asked_of, negative_of
from diffusion_jax.cli.keyvalues import solver_options_of
from diffusion_jax.cli.pngs import write_pngs
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.typing import UserError

CLASSES = ("shirt", "sneaker", "bag")


def given(**options):
    """The options of `sample`, of which nothing is given but these."""
    none = {
        "prompt": [],
        "label": [],
        "image": [],
        "mask": [],
        "prompts": None,
        "negative": None,
        "negative_label": None,
    }
    return argparse.Namespace(run="r", **none | options)


def run_of(*asks, classes=CLASSES):
    return SimpleNamespace(asks=asks, class_names=classes)


def test_what_is_given_is_taken_in_turn_and_several_things_at_once():
    asked = asked_of(run_of("label"), given(label=["sneaker", "0"]))
    assert [asked.at(i) for i in range(3)] == ["sneaker", "shirt", "sneaker"]
    assert asked.note() == {"requests": [{"label": ["sneaker", "shirt"]}]}
    several = asked_of(run_of("label", "prompt"), given(label=["BAG"], prompt=["red", "blue"]))
    assert [several.at(i) for i in range(2)] == [
        {"label": "bag", "prompt": "red"},
        {"label": "bag", "prompt": "blue"},
    ]
    assert several.different() == [several.at(0), several.at(1)]
    # What is left out is left to the run.
    assert asked_of(run_of("label", "prompt"), given(prompt=["red"])).at(5) == {"prompt": "red"}
    assert asked_of(run_of(), given()) is None
    # A run of one's own may call it otherwise, and may say it as a text.
    own = asked_of(SimpleNamespace(asks="word"), given(prompt=["tree"]))
    assert own.at(0) == "tree" and own.parts(0) == {"word": "tree"}


def test_negatives_are_of_what_the_run_asks_for():
    asked = asked_of(run_of("label"), given(label=["0"]))
    assert negative_of(run_of("label"), asked, given(negative_label="2")) == "bag"
    run = run_of("label", "prompt")
    both = asked_of(run, given(label=["0"], negative="blurred", negative_label="bag"))
    assert negative_of(run, both, given(negative="blurred", negative_label="bag")) == {
        "prompt": "blurred",
        "label": "bag",
    }
    assert negative_of(run, both, given()) is None


def test_a_file_of_requests_holds_what_the_run_asks_for(tmp_path):
    def read(text, *asks):
        (tmp_path / "requests.txt").write_text(text)
        asked = asked_of(run_of(*asks), given(prompts=str(tmp_path / "requests.txt")))
        return [asked.at(i) for i in range(len(asked.rows))]

    assert read("sneaker\n2\n", "label") == ["sneaker", "bag"]
    assert read('{"label": "0", "prompt": "red"}\n{"prompt": "blue"}\n', "label", "prompt") == [
        {"label": "shirt", "prompt": "red"},
        {"prompt": "blue"},
    ]
    for text, said in (
        (
            "red\n",
            r"requests.txt, request 1 is 'red': the run asks for --label and --prompt, a line each as {\"label\"",
        ),
        ('{"lable": 3}\n', "request 1 has 'lable': it may have label, prompt"),
        ("{}\n", "request 1 has nothing: it may have"),
        ('{"label": 3\n', "request 1 is not JSON"),
        ('{"label": "sneeker"}\n', "did you mean 'sneaker'"),
    ):
        with pytest.raises(UserError, match=said):
            read(text, "label", "prompt")
    assert read('a two\n{"prompt": "a six"}\n', "image", "prompt") == [{"prompt": "a two"}, {"prompt": "a six"}]
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match=r"request 1 is '.*a\.png': the run asks for --image and --prompt"):
        read(f"{tmp_path / 'a.png'}\n", "image", "prompt")
    with pytest.raises(UserError, match=r"line 2: the picture .*b\.png' does not exist; did you mean 'a\.png'"):
        read(f"{tmp_path / 'a.png'}\n{tmp_path / 'b.png'}\n", "image")


@pytest.mark.parametrize(
    ("asks", "options", "said"),
    [
        (("label",), {}, "draws what it is asked for: give --label (shirt, sneaker, bag), or --prompts FILE"),
        (("image",), {}, "give --image, or --prompts FILE"),
        (("label", "prompt"), {}, "give --label (shirt, sneaker, bag) or --prompt, or both, or --prompts FILE"),
        (("label",), {"prompt": ["a"]}, "takes no --prompt: it asks for --label"),
        (("prompt", "image"), {"label": ["a"]}, "takes no --label: it asks for --prompt and --image"),
        (("label",), {"label": ["0"], "negative": "a"}, "takes no --negative: it asks for --label"),
        (("prompt",), {"prompt": ["a"], "negative_label": "a"}, "takes no --negative-label: it asks for --prompt"),
        (("label",), {"label": ["sneeker"]}, "label 'sneeker' is none of the classes; did you mean 'sneaker'?"),
        (("label",), {"label": ["3"]}, "label 3 is not in 0 .. 2; nearest: 2"),
        ((), {"label": ["3"]}, "draws unasked: --label changes nothing; give --num-images alone"),
        ((), {"negative_label": "3"}, "draws unasked: --negative-label changes nothing"),
        (("image",), {"image": ["nowhere.png"]}, "--image: the picture 'nowhere.png' does not exist"),
    ],
)
def test_what_the_run_does_not_ask_for_is_one_line(asks, options, said):
    with pytest.raises(UserError) as error:
        asked_of(run_of(*asks), given(**options))
    assert said in str(error.value)


def draw(run, out, *extra):
    return ["sample", "--run", str(run), "--num-images", "4", "--out", str(out), *extra]


def test_a_class_is_drawn_by_its_name_and_by_its_number(label_run, tmp_path, capsys):
    assert main(draw(label_run, tmp_path / "a.png", "--label", "three", "--label", "9", "--negative-label", "one")) == 0
    assert main(draw(label_run, tmp_path / "b.png", "--label=3", "--label=NINE", "--negative-label=1")) == 0
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        assert a.info["label"] == "three; 9" and a.info["negative"] == "one" and "prompt" not in a.info
    (tmp_path / "requests.txt").write_text("three\n9\n")
    assert main(draw(label_run, tmp_path / "many", "--prompts", str(tmp_path / "requests.txt"))) == 0
    with np.load(tmp_path / "many" / "images-000000.npz") as shard:
        assert list(shard["labels"]) == ["three", "nine"] * 2 and "prompts" not in shard
        assert f"4 images in 1 shard: {tmp_path / 'many'}" in capsys.readouterr().err
        direct = load_run(label_run).generate(["three", "nine"] * 2, seed=0)
        assert np.abs((direct.clip(-1, 1) + 1) * 127.5 - shard["images"]).max() <= 1
    capsys.readouterr()
    for extra, said in (
        ((), "give --label (zero, one, two, three, four, five, six, seven, ...), or --prompts FILE"),
        (("--label", "thre"), "did you mean 'three'?"),
        (("--prompt", "three"), "takes no --prompt: it asks for --label"),
        (("--label", "3", "--negative-label", "ten"), "label 'ten' is none of the classes"),
        (("--label", ""), "label '' is none of the classes"),
        (("--label", "3", "--negative-label", "one", "--guidance-scale", "1"), "so that a negative changes nothing"),
        (("--label", "3", "--prompts", "a.txt"), "--label does not go with --prompts"),
        (("--label", "3", "--shard-size", "9"), "--shard-size does not go with --label"),
    ):
        tiny.fails(capsys, draw(label_run, tmp_path / "c.png", *extra), said)
    tiny.fails(capsys, draw(label_run, tmp_path / "new", "--format", "png", "--label", "ten"), "none of the classes")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "many", "requests.txt"]


def make_filling(folder):
    """A small run that is told a class, a picture with a part hidden, and which part that is."""
    parts = {"class": {"name": "label"}, "picture": {"name": "image", "kind": "masked"}}
    told = {"condition": {"name": "several", "parts": parts}, "steps": 2, "eval_every": 2, "optimizer.warmup_steps": 1}
    options = tiny.SMALL_DIFFUSION | told | {"workdir": folder / "diffusion"}
    assert main(["train", "--no-progress", "--config", tiny.DIFFUSION, *tiny.flags(options)]) == 0


@pytest.mark.slow
def test_several_things_are_asked_for_at_once(once, tmp_path, capsys):
    run = once("filling", make_filling)
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    Image.fromarray(np.where(np.eye(8), 255, 0).astype(np.uint8)).save(tmp_path / "mask.png")
    pictures = ["--image", str(tmp_path / "ramp.png"), "--mask", str(tmp_path / "mask.png")]
    folder = ["--format", "png"]
    assert main(draw(run, tmp_path / "out", *folder, *pictures, "--label", "three", "--label", "4")) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == ["three", "four", "three", "four"]
    assert {row["asked_image"] for row in rows} == {str(tmp_path / "ramp.png")} and rows[0]["text"] == "three"
    request = {"label": "four", "image": ramp[..., None], "mask": np.eye(8)}
    direct = load_run(run).generate([request], seed=0, start=1)[0, ..., 0]
    drawn = np.asarray(Image.open(tmp_path / "out" / "000001.png"), float)
    assert np.abs((direct.clip(-1, 1) + 1) * 127.5 - drawn).max() <= 1
    # Another picture of the same name is another request.
    Image.fromarray(ramp[::-1]).save(tmp_path / "ramp.png")
    again = draw(run, tmp_path / "out", *folder, *pictures, "--label", "three", "--label", "4")
    tiny.fails(capsys, again, "holds images of other settings (pictures.")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "lines.txt").write_text('{"label": "three"}\n{"label": 4}\n')
    assert main(draw(run, tmp_path / "lines", "--prompts", str(tmp_path / "lines.txt"))) == 0
    with np.load(tmp_path / "lines" / "images-000000.npz") as shard:
        assert list(shard["labels"]) == ["three", "four"] * 2 and list(shard["masks"]) == [""] * 4
    for extra, said in (
        (
            pictures[:2],
            "a request without 'mask': a masked picture is {'image': ..., 'mask': ...} (sample: give --mask FILE",
        ),
        (["--image", str(tmp_path / "broken.png"), *pictures[2:]], "broken.png"),
        (
            [],
            "give --label (zero, one, two, three, four, five, six, seven, ...) or --image or --mask, or --prompts FILE",
        ),
        (["--prompt", "a"], "takes no --prompt: it asks for --label, --image and --mask"),
    ):
        tiny.fails(capsys, draw(run, tmp_path / "none", *folder, *extra), said)
    assert not (tmp_path / "none").exists()


# Options of the solver


@pytest.mark.parametrize(
    ("solver", "options", "found"),
    [
        ("dpm_solver_pp", ["order=3", "multistep=false"], {"order": 3, "multistep": False}),
        ("unipc", ["variant=bh1"], {"variant": "bh1"}),
        ("adaptive_ode", ["rtol=1e-4", "atol=none"], {"rtol": 1e-4, "atol": None}),
        (None, ["eta=1"], {"eta": 1}),
        ("restart", ["intervals=((0.1, 0.3, 3, 2),)"], {"intervals": ((0.1, 0.3, 3, 2),)}),
    ],
)
def test_options_of_a_solver_are_read_by_their_annotations(solver, options, found):
    said = argparse.Namespace(solver=solver, solver_option=options, eta=None)
    assert solver_options_of(said, {"solver": "ddim"}) == found


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--solver-option", "order=3"), "solver 'ddim' takes no 'order' (it takes eta)"),
        (("--solver-option", "ete=1"), "did you mean 'eta'?"),
        (("--solver-option", "eta"), "--solver-option 'eta' is not KEY=VALUE, such as order=3"),
        (("--solver-option", "eta=x"), "--solver-option eta=x of solver 'ddim': eta is a number, finite"),
        (("--solver-option", "eta=1e999"), "eta is a number, finite"),
        (("--solver-option", "eta=2"), "eta 2.0 is not in [0, 1]"),
        (("--solver-option", "eta=1", "--solver-option", "eta=0"), "--solver-option eta is given twice"),
        (("--solver-option", "eta=1", "--eta", "1"), "--solver-option eta is --eta 1.0 too: give one of them"),
        (("--solver", "dpm_solver_pp", "--solver-option", "order=2.5"), "order is a whole number"),
        (("--solver", "dpm_solver_pp", "--solver-option", "order=9"), "order 9"),
        (("--solver", "unipc", "--solver-option", "variant=bh3"), "'bh3'"),
        (
            ("--solver", "predictor_corrector", "--solver-option", "predictor=3"),
            "predictor is an object, which Python alone",
        ),
        (("--solver", "restart", "--solver-option", "intervals=3"), "intervals is a list, such as"),
        (("--solver", "dimm", "--solver-option", "eta=1"), "did you mean 'ddim'?"),
    ],
)
def test_a_wrong_option_of_a_solver_is_one_line(label_run, tmp_path, capsys, extra, said):
    tiny.fails(capsys, draw(label_run, tmp_path / "x.png", "--label", "3", *extra), said)
    assert list(tmp_path.iterdir()) == []


def test_an_option_of_a_solver_draws_otherwise_and_is_noted(label_run, tmp_path):
    pictures = []
    for name, extra in (("a", ()), ("b", ("--solver-option", "order=1")), ("c", ("--solver-option=order=2",))):
        assert main(draw(label_run, tmp_path / f"{name}.png", "--label", "3", "--solver", "dpm_solver_pp", *extra)) == 0
        with Image.open(tmp_path / f"{name}.png") as picture:
            pictures.append((np.asarray(picture, int), picture.info.get("solver_options")))
    assert np.abs(pictures[0][0] - pictures[1][0]).max() > 1 and np.abs(pictures[0][0] - pictures[2][0]).max() <= 1
    assert [said for _, said in pictures] == [None, "{'order': 1}", "{'order': 2}"]


# A folder of PNGs


def pngs(run, out, count, *extra):
    return ["sample", "--run", str(run), "--format", "png", "--num-images", str(count), "--out", str(out), *extra]


def test_a_folder_of_pngs_is_taken_up_and_read_back_by_a_source(label_run, tmp_path, capsys):
    out, asked = tmp_path / "drawn", ("--label", "three", "--label", "nine", "--batch-size", "8")
    assert main(pngs(label_run, out, 11, *asked)) == 0
    names = [f"{i:06d}.png" for i in range(11)]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "metadata.jsonl", "settings.json"])
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert rows[3] == {"file_name": "000003.png", "text": "nine", "label": "nine", "seed": 0, "index": 3}
    assert json.loads((out / "settings.json").read_text())["format"] == "png"
    kept = {name: np.asarray(Image.open(out / name)) for name in names}
    direct = load_run(label_run).generate(["three", "nine"], seed=0)
    assert np.abs((direct[1, ..., 0].clip(-1, 1) + 1) * 127.5 - kept["000001.png"]).max() <= 1

    from diffusion_jax.data.sources.caption_folder import CaptionFolder

    source = CaptionFolder(out)
    assert len(source) == 11 and source[10]["captions"] == ["three"] and source[10]["name"] == "000010.png"
    # Stopped, damaged and asked for more: what is there and whole stays.
    (out / "000002.png").unlink()
    (out / "000009.png").write_bytes((out / "000009.png").read_bytes()[:40])
    stamp = (out / "000000.png").stat().st_mtime_ns
    capsys.readouterr()
    assert main(pngs(label_run, out, 13, *asked)) == 0
    said = capsys.readouterr().err
    assert "000009.png is damaged and is made again" in said and "9 of 13 images are there already" in said
    assert (out / "000000.png").stat().st_mtime_ns == stamp
    for name in names:
        np.testing.assert_array_equal(np.asarray(Image.open(out / name)), kept[name])
    assert len((out / "metadata.jsonl").read_text().splitlines()) == 13
    tiny.fails(capsys, pngs(label_run, out, 13, *asked, "--seed", "4"), "holds images of other settings (seed: 0 -> 4)")
    shards = [word for word in pngs(label_run, out, 13, *asked) if word not in ("--format", "png")]
    tiny.fails(capsys, [*shards, "--format", "npz"], "holds images of other settings", "format: png -> (absent)")


def test_two_processes_share_the_batches_and_the_last_writes_the_table(label_run, tmp_path, monkeypatch):
    import jax

    from diffusion_jax.cli import pngs as module

    for index in (0, 1):
        place = SimpleNamespace(process_index=lambda index=index: index, process_count=lambda: 2)
        monkeypatch.setattr(module, "jax", place)
        assert main(pngs(label_run, tmp_path / "out", 12, "--label", "3", "--batch-size", "4")) == 0
        there = {int(path.stem) for path in (tmp_path / "out").glob("*.png")}
        assert there == ({*range(4), *range(8, 12)} if index == 0 else {*range(12)})
        assert (tmp_path / "out" / "metadata.jsonl").is_file() == (index == 1)
    assert jax.process_count() == 1


def test_where_png_folders_do_not_go(run, tmp_path, capsys):
    asked = ("--prompt", "a seven")
    tiny.fails(capsys, pngs(run, tmp_path / "x.png", 2, *asked), "is a .png file, and --format png writes a folder")
    tiny.fails(capsys, pngs(run, tmp_path / "x", 2, *asked, "--scale", "3"), "--scale does not go with --format")
    tiny.fails(
        capsys, pngs(run, tmp_path / "x", 2, *asked, "--shard-size", "3"), "--shard-size does not go with --format png"
    )
    tiny.fails(
        capsys, draw(run, tmp_path / "x", *asked), "is not a .png file; did you mean 'x.png'?", "--format png or npz"
    )
    for name, extra, said in (
        (
            "x.png",
            ("--prompts", "a.txt"),
            "is named as a file, and --prompts writes a folder of them; did you mean 'x'?",
        ),
        ("x.txt", ("--prompts", "a.txt"), "is named as a file, and --prompts writes"),
        ("x.NPZ", ("--format", "npz", *asked), "is named as a file, and --format npz writes"),
        ("x.npz", (), "is not a .png file; did you mean 'x.png'? (--format png or npz writes a folder)"),
        ("/", asked, "is not a .png file; did you mean 'samples.png'? (--format png or npz writes a folder)"),
    ):
        tiny.fails(capsys, draw(run, tmp_path / name, *extra), said)
    assert list(tmp_path.iterdir()) == []
    assert main(pngs(run, tmp_path / "x", 2, *asked, "--prompt", "a two")) == 0
    rows = [json.loads(line) for line in (tmp_path / "x" / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["a seven", "a two"] and "label" not in rows[0]


def test_a_picture_that_was_asked_for_is_no_caption(tmp_path):
    """A table of pictures asked for by pictures is read as pictures without captions, not as the captions "a.png"."""
    from diffusion_jax.data.sources.caption_folder import CaptionFolder, PictureFolder

    def written(name, asked):
        images = lambda part: np.zeros((len(part), 4, 4, 1), np.uint8)  # noqa: E731
        write_pngs(tmp_path / name, 3, 2, images, asked, 0, lambda text: None)
        return [json.loads(line) for line in (tmp_path / name / "metadata.jsonl").read_text().splitlines()]

    rows = written("pictures", Asked(("image",), {"image": ["in/a.png", "in/b.png"]}))
    assert rows[1] == {"file_name": "000001.png", "asked_image": "in/b.png", "seed": 0, "index": 1}
    assert [list(item) for item in PictureFolder(tmp_path / "pictures")] == [["image", "name"]] * 3
    assert "none of the columns 'file_name', " in PictureFolder(tmp_path / "pictures").uncaptioned
    with pytest.raises(UserError, match="is called caption, text"):
        CaptionFolder(tmp_path / "pictures")
    several = Asked(("label", "image"), rows=[{"label": 3}, {"image": "in/a.png"}])
    assert [row["text"] for row in written("several", several)] == ["3", "", "3"]
    lines = (tmp_path / "pictures" / "metadata.jsonl").read_text() + '{"file_name": "000000.png", "text": "one"}\n'
    (tmp_path / "pictures" / "metadata.jsonl").write_text(lines)
    with pytest.raises(UserError, match=r"metadata.jsonl, line 1: none of the columns .* is called caption, text"):
        PictureFolder(tmp_path / "pictures")


def test_what_is_no_picture_is_written_as_it_is(label_run, tmp_path, monkeypatch, capsys):
    vectors = np.linspace(-3, 3, 20, dtype=np.float32).reshape(4, 5)
    monkeypatch.setattr(DiffusionRun, "generate", lambda self, *_, **__: vectors)
    monkeypatch.setattr(DiffusionRun, "shape", (5,))
    assert main(draw(label_run, tmp_path / "out", "--label", "3", "--format", "npz")) == 0
    with np.load(tmp_path / "out" / "images-000000.npz") as shard:
        np.testing.assert_array_equal(shard["images"], vectors)
    for out in (("x.png",), ("x", "--format", "png")):
        wrong = draw(label_run, tmp_path / out[0], *out[1:], "--label", "3")
        tiny.fails(capsys, wrong, "the run draws arrays of shape (5,), no pictures: give --format npz and a folder")
