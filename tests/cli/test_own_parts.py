"""Systems, networks, sources, solvers, conditions and all else of one's own, by "module:attribute" through the commands."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import smallruns as tiny
from ml_collections import ConfigDict
from PIL import Image
from processes import environment

from diffusion_jax import build, load_config, load_run, runs
from diffusion_jax.build import own
from diffusion_jax.cli import main
from diffusion_jax.data.pipeline import columns
from diffusion_jax.systems.diffusion.measures import nearest_training, samples_beside_data
from diffusion_jax.systems.diffusion.spaces import Pixels
from diffusion_jax.systems.table import keys
from diffusion_jax.typing import UserError

HERE = Path(__file__).parent
BASE = {"batch_size": 16, "steps": 4, "log_every": 2, "eval_every": 4, "checkpoint_every": 2}
OWN = BASE | {
    "data.name": "own_parts:Rings",
    "data.width": 0.5,
    "model": "{}",
    "model.name": "own_parts:Net",
    "model.width": 8,
    "condition": "{}",
    "condition.name": "own_parts:Label",
    "condition.drop": 0.25,
    "space.name": "own_parts:Doubled",
    "space.factor": 2.0,
    "schedule.name": "own_parts:Slanted",
    "schedule.t_max": 0.99,
    "loss.weight": "own_parts:flat",
    "loss.weight_options.strength": 2.0,
    "loss.times": "own_parts:middle",
    "optimizer": "{}",
    "optimizer.name": "own_parts:sgd",
    "optimizer.learning_rate": 0.01,
    "sampler.solver": "own_parts:Half",
    "sampler.grid": "own_parts:descending",
    "sampler.guidance.name": "own_parts:plain",
    "sampler.guidance.more": 0.5,
    "sampler.num_steps": 3,
}
"""Every table of a diffusion config, with a part of one's own."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with the module in it."""
    made = tmp_path_factory.mktemp("own")
    shutil.copy(HERE / "own_parts.py", made)
    return made


@pytest.fixture(autouse=True)
def _within(folder, monkeypatch):
    monkeypatch.chdir(folder)


def train(config, **options):
    return ["train", "--no-progress", "--config", config, *tiny.flags(options)]


@pytest.fixture(scope="module")
def whole(folder):
    """The run of OWN."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(train(tiny.DIFFUSION, **OWN, workdir="whole")) == 0
    finally:
        os.chdir(before)
    return folder / "whole"


def test_every_table_takes_a_part_of_ones_own(whole):
    run = load_run(whole)
    assert [type(part).__name__ for part in (run.condition, run.space, run.schedule)] == ["Label", "Doubled", "Slanted"]
    assert run.condition.drop == 0.25 and run.schedule.t_max == 0.99 and set(run.params) >= {"inner", "outer", "label"}
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    images = run.generate(["0", "1", "1"], seed=1)
    assert images.shape == (3, 8, 8, 1) and np.isfinite(images).all()
    assert (whole / "samples" / "step_000004.png").is_file()
    np.testing.assert_array_equal(run.generate(["1"], seed=1, start=1), images[1:2])


def test_it_is_sampled_and_measured_by_the_commands(whole, capsys):
    assert main(["sample", "--run", "whole", "--prompt", "1", "--num-images", "2", "--out", "one.png"]) == 0
    assert Image.open("one.png").text["prompt"] == "1"
    other = ["--solver", "own_parts:Half", "--grid", "own_parts:descending", "--guidance", "own_parts:plain"]
    more = ["--guidance-option", "more=1", "--overwrite"]
    assert (
        main(["sample", "--run", "whole", "--prompt", "1", "--num-images", "2", "--out", "one.png", *other, *more]) == 0
    )
    capsys.readouterr()
    assert main(["evaluate", "--run", "whole", "--metric", "own_parts:brightness", "--samples", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["own_parts:brightness"]["split"] == "test"
    kept = json.loads((whole / "report" / "measures.json").read_text())["own_parts:brightness"]
    assert found["own_parts:brightness"] == kept | {"mean": float(f"{kept['mean']:.6g}")}
    assert main(["evaluate", "--run", "whole", "--samples", "8"]) == 0
    kept = json.loads((whole / "report" / "measures.json").read_text())
    assert {"frechet", "diversity"} <= kept["samples"].keys() and "own_parts:brightness" in kept
    assert kept["nearest"].keys() >= {"ratio", "distance"} and len(kept["loss_by_noise"]["logsnr"]) == 12
    assert (
        main(["report", "--run", "whole"]) == 0 and "Fréchet distance" in (whole / "report" / "index.html").read_text()
    )
    command = ["evaluate", "--run", "whole", "--metric", "own_parts:brightness", "--features", "pixels"]
    tiny.fails(capsys, command, "--features pixels changes nothing: own_parts:brightness compare in none")


def test_what_is_drawn_is_decoded_by_the_space(whole):
    """The space doubles: the same x0 as pixels is twice what it shows."""
    run = load_run(whole)
    bare = dataclasses.replace(run, space=Pixels(run.space.image))
    np.testing.assert_allclose(2 * run.generate(["0", "1"]), bare.generate(["0", "1"]), rtol=1e-6)


def test_samples_are_measured_against_the_examples(whole, monkeypatch):
    """Of one picture repeated C_1 is 0, and the Frechet distance |m_1 - m_2|^2 + tr C_2; of the split itself it is 0."""
    run = load_run(whole)
    real = columns(build.source(run.config.data, "test"))["image"]
    rows = real.reshape(len(real), -1).astype(np.float64)
    for drawn, frechet, diversity in (
        (np.zeros_like(real), (rows.mean(axis=0) ** 2).sum() + rows.var(axis=0, ddof=1).sum(), 0.0),
        (real, 0.0, 1.0),
    ):
        monkeypatch.setattr(type(run), "generate", lambda self, drawn=drawn, **_: drawn)
        given = {"split": "test", "samples": len(real), "say": lambda text: None}
        found = samples_beside_data(run, **given)
        assert found["frechet"] == pytest.approx(frechet, rel=1e-5, abs=1e-5)
        assert found["diversity"] == pytest.approx(diversity, rel=1e-6)
        assert (
            nearest_training(run, **given)["ratio"] is None
        )  # the rings of the split are rings of the training examples


def test_a_run_goes_on_and_refuses_other_parts(whole, folder, capsys):
    copy = folder / "again"
    shutil.copytree(whole, copy)
    assert main(train(tiny.DIFFUSION, **OWN | {"steps": 6, "workdir": copy})) == 0
    assert "resumed at step 4 of 6" in capsys.readouterr().err
    tiny.fails(capsys, train(tiny.DIFFUSION, **OWN | {"model.width": 4, "workdir": copy}), "model.width: 8 -> 4")
    other = OWN | {"loss.weight_options.strength": 1.0, "workdir": copy}
    tiny.fails(capsys, train(tiny.DIFFUSION, **other), "loss.weight_options.strength: 2.0 -> 1.0")


def test_a_system_of_ones_own(folder, capsys):
    config = tiny.mean_config(folder / "mean.py")
    assert main(train(str(config))) == 0
    assert main(train(str(config), steps=4)) == 0
    assert "resumed at step 2 of 4" in capsys.readouterr().err
    assert type(load_run("mean")).__name__ == "MeanRun"
    assert main(["sample", "--run", "mean", "--num-images", "3", "--out", "mean.png"]) == 0
    assert main(["sample", "--run", "mean", "--num-images", "5", "--shard-size", "3", "--out", "shards"]) == 0
    with np.load("shards/images-000001.npz") as shard:
        assert shard["images"].shape == (2, 8, 8, 1) and "prompts" not in shard
    tiny.fails(capsys, ["sample", "--run", "mean", "--prompt", "a", "--out", "b.png"], "draws unasked: --prompt")
    tiny.fails(capsys, ["evaluate", "--run", "mean"], "measures nothing itself: give --metric")
    tiny.fails(capsys, ["report", "--run", "mean"], "no page is made of the run in 'mean'")
    tiny.fails(capsys, train(str(config), tokenizer__name="bpe"), "config key 'tokenizer.name' does not exist")


def test_a_system_with_keys_and_metrics_is_used_from_elsewhere(folder, capsys, tmp_path):
    """Its keys are of the types of their defaults; what its module imports from beside it is kept with the run."""
    text = (folder / "own_parts.py").read_text()
    (folder / "beside.py").write_text("ONE = 1\n")
    (folder / "leaning.py").write_text(f"from beside import ONE\n{text.partition('import annotations')[2]}")
    config = str(tiny.mean_config(folder / "measured.py"))
    options = {"system": "leaning:MEASURED", "workdir": "measured"}
    tiny.fails(capsys, train(config, **options, bins="many"), "config key 'bins' is 'many'; it is a whole number")
    assert main(train(config, **options, bins=3, slope=0.25)) == 0
    assert load_run("measured").config.bins == 3 and load_run("measured").config.slope == 0.25
    (folder / "beside.py").write_text("ONE = 2\n")
    assert main(train(config, **options, bins=3, slope=0.25)) == 0
    assert "going on with changes: beside: its file is another than before" in capsys.readouterr().err
    shutil.move(folder / "measured", tmp_path / "measured")
    for name in ("leaning", "beside"):
        (folder / f"{name}.py").unlink()
        assert (tmp_path / "measured" / "own" / f"{name}.py").is_file()
    command = [sys.executable, "-m", "diffusion_jax", "evaluate", "--run", "measured"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["level"]["split"] == "test", done.stderr


@pytest.mark.slow
def test_clip_and_diffusion_on_captions_of_ones_own(folder, capsys):
    data = {"data.name": "own_parts:Told", "workdir": "pair/clip"}
    assert main(tiny.clip_arguments(folder / "pair", **data)) == 0
    rows = [json.loads(line) for line in (folder / "pair" / "clip" / "metrics.jsonl").read_text().splitlines()]
    assert {"val_loss", "val_zero_shot"} <= {key for row in rows for key in row}
    clip = load_run("pair")
    assert "eight" in clip.tokenizer.vocabulary and clip.encode_text("an eight").shape == (1, 8)
    told = {"data.name": "own_parts:Told", "workdir": "pair/diffusion", "condition.encoder": "pair/clip"}
    assert main(tiny.diffusion_arguments(folder / "pair", **told)) == 0
    assert load_run("pair").generate("a eight").shape == (1, 8, 8, 1)
    png = Image.open("pair/diffusion/samples/step_000006.png")
    assert png.text["prompts"].split("; ") == ["a zero", "a eight"]
    capsys.readouterr()
    assert main(["evaluate", "--run", "pair/clip", "--metric", "retrieval"]) == 0
    assert "image_to_text" in json.loads(capsys.readouterr().out)["retrieval"]
    assert main(["report", "--run", "pair"]) == 0
    page = (folder / "pair" / "report" / "index.html").read_text()
    assert "“a eight”" in page and "Not measured yet" in page


def test_without_a_condition(folder, capsys):
    options = OWN | {"condition.name": "none", "sampler.guidance_scale": 1.0, "workdir": "told_nothing"}
    options = {key: value for key, value in options.items() if key not in ("condition.drop",)}
    options = {key: value for key, value in options.items() if not key.startswith("sampler.guidance.")}
    tiny.fails(capsys, train(tiny.DIFFUSION, **options | {"sampler.guidance_scale": 3.0}), "nothing to guide by")
    assert main(train(tiny.DIFFUSION, **options)) == 0
    run = load_run("told_nothing")
    assert run.null is None and run.asks == () and run.generate(count=3, seed=0).shape == (3, 8, 8, 1)
    for wrong, said in (
        ({"prompts": "a"}, "draws unasked"),
        ({"count": 2, "guidance_scale": 2.0}, "nothing to guide by"),
        ({"count": 2, "guidance": "apg"}, "no guidance"),
    ):
        with pytest.raises(UserError, match=said):
            run.generate(**wrong)
    with pytest.raises(UserError, match="not conditioned on texts"):
        run.clip  # noqa: B018
    assert main(["sample", "--run", "told_nothing", "--num-images", "2", "--out", "two.png"]) == 0
    assert "prompt" not in Image.open("two.png").text
    tiny.fails(
        capsys, ["sample", "--run", "told_nothing", "--prompt", "a", "--out", "c.png"], "draws unasked: --prompt"
    )


WRONG = [
    ({"model.name": "own_parts:Nett"}, "model 'own_parts:Nett': ", "has no 'Nett'; did you mean 'Net'?"),
    ({"model.name": "own_part:Net"}, "there is no module 'own_part' in ", "did you mean 'own_parts:Net'?"),
    ({"model.name": "broken:Net"}, "broken.py, line 2 cannot be imported: ZeroDivisionError"),
    ({"model.name": "own_parts:NOT_A_SYSTEM"}, "is no class or function"),
    ({"model.name": "own_parts:Deaf"}, "cannot read the condition's entry 'label' (it reads none)"),
    ({"model.widht": 3}, "did you mean 'model.width'?"),
    ({"model.width": "wide"}, "takes a value of type int"),
    (
        {"model.name": "dit", "model.dtype": "auto"},
        "a DiT reads 'label' by a table: the condition does not say in `counts`",
    ),
    (
        {"condition.name": "none", "model.name": "own_parts:Needy"},
        "needs a condition with 'label'; the config's gives nothing",
    ),
    ({"system": "own_parts:NOT_A_SYSTEM"}, "is a int, not a diffusion_jax.systems.system.System"),
    ({"system": "nowhere:SYSTEM"}, "system 'nowhere:SYSTEM': there is no module 'nowhere'"),
    (
        {"schedule.name": "own_parts:Backwards"},
        "schedule 'own_parts:Backwards': t_from_logsnr(logsnr(",
        "it is to be that time",
    ),
    ({"condition.name": "own_parts:Wide"}, "gives {'label': (1, 1)} for one example in training; its entries make it"),
    ({"sampler.solver": "own_parts:Haf"}, "solver 'own_parts:Haf'", "did you mean 'Half'?"),
    (
        {"model": "{}", "model.name": "own_parts:NoModule"},
        "model 'own_parts:NoModule' is a class, but no flax.nnx.Module",
    ),
    ({"sampler.solver": "own_parts:Empty"}, "solver 'own_parts:Empty' lacks init, step"),
    (
        {"schedule.name": "own_parts:Empty"},
        "schedule 'own_parts:Empty' lacks t_min",
    ),
    ({"data.name": "own_parts:Unnamed"}, "data 'own_parts:Unnamed': example 0 has no array 'image'"),
    ({"condition.name": "own_parts:Rowless"}, "null of shapes {'label': ()}; its entries make it {'label': (1,)}"),
]


@pytest.mark.parametrize(
    ("changed", "said"), [(row[0], row[1:]) for row in WRONG], ids=[str(row[0])[:50] for row in WRONG]
)
def test_what_is_wrong_is_one_line_and_leaves_no_folder(changed, said, folder, capsys):
    (folder / "broken.py").write_text("x = 1\ny = x / 0\n")
    if changed.get("model.name", "").endswith(("Deaf", "Needy", "dit")) or changed.get("condition.name") == "none":
        options = {key: value for key, value in OWN.items() if key not in ("model.width",)}
    else:
        options = dict(OWN)
    if changed.get("condition.name") == "none":
        options = {key: value for key, value in options.items() if key != "condition.drop"}
        options = {key: value for key, value in options.items() if not key.startswith("sampler.guidance")}
        options["sampler.guidance_scale"] = 1.0
    tiny.fails(capsys, train(tiny.DIFFUSION, **options | {"workdir": "wrong"} | changed), *said)
    assert not (folder / "wrong").exists()


def test_a_keyword_of_a_source_is_its_own_whatever_its_name(folder):
    """`noise` is also how arrays are altered in training; here the source takes it, and `shift` is left to the package."""
    spec = {"name": "own_parts:Rings", "noise": 0.5, "shift": 0.25}
    assert build.source(spec, "train").noise == 0.5 and build.augmentation(spec) == {"shift": 0.25, "noise": 0.0}


def test_keys_are_what_the_annotations_say(folder):
    config = load_config(tiny.DIFFUSION, {key: str(value) for key, value in OWN.items()}, keys)
    found = keys(config)
    assert found["model.width"].default == 16 and found["model.width"].range.kind is int
    assert found["data.width"].range.kind is float and "model.shape" not in found and "condition.run" not in found


@pytest.mark.slow
def test_a_run_finds_its_parts_wherever_it_is_loaded(whole, tmp_path, monkeypatch):
    """From another folder by the note, moved without its module by its own copy; a module that has changed is said."""
    note = json.loads((whole / "own.json").read_text())
    assert note["own_parts"]["folder"] == str(whole.parent) and (whole / "own" / "own_parts.py").is_file()
    moved = tmp_path / "moved"
    shutil.copytree(whole, moved)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = "from diffusion_jax import load_run; import sys; print(load_run(sys.argv[1]).generate(['1'], num_steps=2).shape)"

    def load(run, cwd):
        command = [sys.executable, "-c", code, str(run)]
        return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)

    here = load(whole, elsewhere)
    assert here.stdout == "(1, 8, 8, 1)\n" and "changed" not in here.stderr, here.stderr
    note["own_parts"]["folder"] = str(tmp_path / "gone")
    (moved / "own.json").write_text(json.dumps(note))
    assert load(moved, elsewhere).stdout == "(1, 8, 8, 1)\n"
    text = (whole.parent / "own_parts.py").read_text()
    (elsewhere / "own_parts.py").write_text(text + "\nCHANGED = True\n")
    said = load(moved, elsewhere)
    assert said.stdout == "(1, 8, 8, 1)\n" and "own_parts.py has changed since the run was trained" in said.stderr


def test_two_modules_of_one_name_are_two(tmp_path, monkeypatch):
    for number in (1, 2):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "twice.py").write_text(f"NUMBER = {number}\n")
        monkeypatch.chdir(place)
        assert own.own("part", "twice:NUMBER") == number
    inside = tmp_path / "1" / "package"
    inside.mkdir()
    (inside / "nets.py").write_text("NUMBER = 3\n")
    monkeypatch.chdir(tmp_path / "1")
    assert own.own("part", "package.nets:NUMBER") == 3
    noted = own.record(own.own_files(["package.nets:NUMBER"]))
    assert noted["package.nets"]["folder"] == str(tmp_path / "1")


def test_a_package_is_kept_with_what_it_imports_by_relative_names(tmp_path, monkeypatch):
    package = tmp_path / "work" / "leaned"
    package.mkdir(parents=True)
    for name, text in {
        "__init__": "ONE = 1\n",
        "nets": "from . import ONE\nfrom .deep import TWO\nfrom leaned import deeper\nSUM = ONE + TWO + deeper.THREE\n",
        "deep": "TWO = 2\n",
        "deeper": "THREE = 3\n",
        "aside": "raise SystemExit\n",
    }.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.chdir(package.parent)
    run = tmp_path / "run"
    runs.keep_parts(run, ConfigDict({"model": {"name": "leaned.nets:SUM"}}))
    kept = {file.name for file in (run / "own" / "leaned").iterdir()}
    assert kept == {"__init__.py", "nets.py", "deep.py", "deeper.py"}
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(package.parent)
    for name in [name for name in sys.modules if name.partition(".")[0] == "leaned"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"there is no module 'leaned\.nets'"):
        own.own("part", "leaned.nets:SUM")
    runs.remember_parts(run)
    assert own.own("part", "leaned.nets:SUM") == 6
