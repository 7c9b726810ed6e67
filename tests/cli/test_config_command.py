"""`diffusion-jax config show` and `config check`: what a config comes to, before a step is paid for."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import smallruns as tiny
from PIL import Image
from processes import environment

from diffusion_jax.cli import main
from diffusion_jax.cli.config_show import offers, resolved
from diffusion_jax.config import load_config, to_dict
from diffusion_jax.systems.check import check_keys
from diffusion_jax.systems.table import keys
from diffusion_jax.training import build_run
from diffusion_jax.typing import UserError

CONFIGS = sorted((tiny.ROOT / "configs").glob("*.py"))


def value_of(lines, *path):
    """The text and the mark behind a nested key, found as one reads it: by indentation."""
    start = 0
    for depth, key in enumerate(path):
        start = next(i for i in range(start, len(lines)) if lines[i].startswith(f"{'  ' * depth}{key}:")) + 1
    return lines[start - 1].partition(":")[2].strip()


def test_show_marks_what_the_file_leaves_out_and_what_is_wrong():
    config = load_config(tiny.DIFFUSION, {"model.width": "32", "condition": "{}", "condition.name": "label"}, keys)
    config.model.widht = 3
    config.sampler.num_steps = 0
    del config.prediction
    lines = resolved(config)
    assert value_of(lines, "model", "width") == "32"
    assert value_of(lines, "model", "time_scale").split() == ["1.0", "(default)"]
    assert value_of(lines, "model", "widht").split(maxsplit=1) == ["3", "(read by nothing)"]
    assert value_of(lines, "sampler", "num_steps").split(maxsplit=1) == ["0", "(not a whole number of at least 1)"]
    assert value_of(lines, "prediction") == "(missing)"
    assert value_of(lines, "condition", "drop").split() == ["0.1", "(default)"]
    assert value_of(lines, "space", "name").split() == ["'pixels'", "(default)"]
    assert value_of(lines, "mesh") == "(absent)"


SEVERAL = {"condition": "{}", "condition.name": "several"}


def test_the_parts_of_several_are_shown_as_needed_and_set_by_their_names():
    lines = resolved(load_config(tiny.DIFFUSION, SEVERAL, keys))
    assert value_of(lines, "condition", "parts") == "(missing)"
    (line,) = (line for line in offers(load_config(tiny.DIFFUSION, SEVERAL, keys)) if line.split()[:1] == ["parts"])
    assert line.endswith("(needed)") and "--config.condition.parts.label.name=label" in line
    said = {
        "condition.parts.class.drop": "0.2",  # in any order
        "condition.parts.class.name": "label",
        "condition.parts.low": "{'name': 'image', 'factor': 4}",
    }
    config = load_config(tiny.DIFFUSION, SEVERAL | said, keys)
    parts = {"class": {"name": "label", "drop": 0.2}, "low": {"name": "image", "factor": 4}}
    assert to_dict(config.condition) == {"name": "several", "parts": parts}
    check_keys(config)
    assert any(line.startswith("[condition.parts.class] label: one of") for line in offers(config))
    whole = load_config(tiny.DIFFUSION, SEVERAL | {"condition.parts": str(parts)}, keys)
    assert to_dict(whole) == to_dict(config)
    for wrong, message in (
        (
            {"condition.parts.class": "label"},
            "'condition.parts.class' begins no member of 'condition.parts', which is a",
        ),
        ({"condition.parts.class.drop": "0.1"}, "'condition.parts.class.drop' begins no member of 'condition.parts'"),
        (said | {"condition.parts.class.dorp": "0.1"}, "did you mean 'condition.parts.class.drop'"),
        (
            {"condition.parts": "label", "condition.parts.a.name": "label"},
            "'condition.parts' is 'label'; it is a group of",
        ),
    ):
        with pytest.raises(UserError, match=message):
            load_config(tiny.DIFFUSION, SEVERAL | wrong, keys)


def test_show_ends_with_what_it_marks(capsys):
    """Its tables are printed all the same: they are what it is asked for."""
    command = ["config", "show", tiny.DIFFUSION, "--config.data.name=digist"]
    assert main(command) == 2
    said = capsys.readouterr()
    assert "name: 'digist'" in said.out and "[sampler.guidance] classifier_free: one of" in said.out
    assert said.err == "error: data 'digist' is not known; did you mean 'digits'? (known: arrays, classes, digits, " + (
        "folder, parquet, tar, tfds)\n"
    )


def test_show_offers_every_key_of_every_group():
    config = load_config(tiny.DIFFUSION, {"schedule.name": "discrete", "sampler.solver": "dpm_solver_pp"}, keys)
    lines = offers(config)
    text = "\n".join(lines)
    for key, known in keys(config).items():
        assert known.range.words in text, key
    assert "[schedule] discrete: one of cosine, discrete, edm," in text
    wanted = "num_steps a whole number of at least 2, or None (1000) (default None)"
    assert wanted in [" ".join(line.split()) for line in lines]
    assert "solver 'dpm_solver_pp' takes, by --solver-option of `diffusion-jax sample`: order=" in text


def test_a_preset_says_what_a_key_is_that_is_left_out():
    config = load_config(str(tiny.ROOT / "configs" / "clip_b16.py:siglip"), {"model.text.width": "64"}, keys)
    lines = resolved(config)
    assert value_of(lines, "model", "vision", "pool").split() == ["'map'", "(default)"]
    assert value_of(lines, "model", "logit_bias").split() == ["True", "(default)"]
    assert value_of(lines, "model", "text", "width") == "64"
    assert value_of(lines, "weights") == "(absent)"


def test_show_asks_for_no_device_and_no_data(tmp_path):
    """Every config of the clone, from a folder where its data are not, in a process that has no backend to be had."""
    code = (
        "import sys, jax\n"
        "from diffusion_jax.cli import main\n"
        "codes = [main(['config', 'show', file]) for file in sys.argv[1:]]\n"
        "from jax._src import xla_bridge\n"
        "print(codes, xla_bridge._backends, sorted({'grain', 'tensorflow', 'torch', 'sklearn', 'pyarrow'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, *map(str, CONFIGS)]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == f"{[0] * len(CONFIGS)} {{}} []", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_show_names_the_variants(capsys):
    assert main(["config", "show", f"{tiny.DIFFUSION}:flow", "--config.steps=7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"# {tiny.DIFFUSION}, variant flow", "# variants (FILE:NAME): eps, x0, flow, edm, decoder"]
    assert "steps: 7" in lines and value_of(lines, "schedule", "name") == "'rectified_flow'"


def checked(capsys, *arguments):
    """What `config check` printed: {what stands before: what stands behind}."""
    assert main(["config", "check", *map(str, arguments)]) == 0
    out = capsys.readouterr().out
    return {line[:16].strip(): line[18:] for line in out.splitlines() if line[:16].strip()}


def operations(text):
    """12.3 MFLOP as a number."""
    number, unit = text.replace(":", "").split()[:2]
    return float(number) * {"FLOP": 1, "kFLOP": 1e3, "MFLOP": 1e6}[unit]


def test_check_of_a_clip_counts_and_draws_its_first_batch(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = tiny.flags(tiny.SMALL_CLIP | {"workdir": "run"})
    said = checked(capsys, tiny.CLIP, *flags, "--compile")
    assert said["examples"] == "1257 examples to train on, 180 held out"
    config = load_config(tiny.CLIP, {key: str(value) for key, value in tiny.SMALL_CLIP.items()}, keys)
    built = build_run(config, tmp_path / "other")
    count = sum(leaf.size for leaf in (*map(np.asarray, _leaves(built.params())),))
    assert said["parameters"].startswith(f"{count:,}: logit_scale 1, text ")
    # Parameters, their average and two moments, four bytes each, beside a few counters; all of it on every device.
    assert said["state"].startswith(f"{16 * count / 1024:.4g} KiB (parameters {4 * count / 1024:.4g} KiB, optimizer ")
    assert "on each of 8 devices (data=8, fsdp=1, tensor=1)" in said["state"]
    assert said["batch"] == "16 examples: image float32 [16, 8, 8, 1], tokens int32 [16, 16]"
    # XLA's count has what is done element by element too.
    assert 0.4 < operations(said["a training image"]) / operations(said["compiled"]) < 1
    assert "a sampling step" not in said
    with Image.open(tmp_path / "digits_clip_batch.png") as picture:
        words, size, pixels = picture.info["words"].splitlines(), picture.size, np.asarray(picture)
    assert len(words) == 16 and said["in words"] == f"0: {words[0]}"
    assert size == (8 * 96 + 9 * 6, 2 * 96 + 3 * 6)
    first = built.task.batches(0)["image"][0, ..., 0]
    tile = pixels[6 : 6 + 96, 6 : 6 + 96].reshape(8, 12, 8, 12).mean((1, 3)) / 127.5 - 1
    assert np.corrcoef(tile.ravel(), first.ravel())[0, 1] > 0.95
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits_clip_batch.png"]
    # It is not replaced unasked, which is said before anything is read.
    tiny.fails(capsys, ["config", "check", tiny.CLIP, *flags], "digits_clip_batch.png exists", "--overwrite")


def _leaves(tree):
    return [leaf for part in tree.values() for leaf in (_leaves(part) if isinstance(part, dict) else [part])]


def test_check_of_a_diffusion_run_counts_a_sampling_step(tmp_path, capsys):
    """Guidance asks the network twice, a step of Heun's method asks it twice, and steps add up."""
    base = tiny.SMALL_DIFFUSION | {"workdir": tmp_path / "run", "condition": "{}", "condition.name": "label"}
    counted = []
    for more in (
        {"sampler.guidance_scale": 1.0},
        {"sampler.guidance_scale": 3.0},
        {"sampler.guidance_scale": 1.0, "sampler.solver": "heun", "sampler.num_steps": 1, "model.scan": True},
    ):
        said = checked(capsys, tiny.DIFFUSION, *tiny.flags(base | more), "--out", tmp_path / "x.png", "--overwrite")
        counted.append(operations(said["a sampling step"]))
    assert counted[1] == pytest.approx(2 * counted[0], rel=1e-2)
    assert counted[2] <= 2 * counted[0]
    assert said["batch"] == "16 examples: cond/label int32 [16], image float32 [16, 8, 8, 1]"
    assert said["in words"].startswith("0: seven / ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png"]


def test_check_of_pictures_with_captions(once, tmp_path, capsys):
    pictures = once("pictures", tiny.make_pictures)
    options = {
        "data.path": pictures / "pictures",
        "tokenizer.path": pictures / "vocabulary",
        "workdir": tmp_path / "run",
    }
    said = checked(capsys, tiny.FOLDER, *tiny.flags(tiny.SMALL_FOLDER | options), "--out", tmp_path / "x.png")
    assert said["examples"] == "36 pictures to train on, 12 held out"
    assert "image uint8 [16, 16, 16, 3]" in said["batch"]
    with Image.open(tmp_path / "x.png") as picture:
        colours, words = np.asarray(picture.convert("RGB")), picture.info["words"].splitlines()
    names = {"red": 0, "green": 1, "blue": 2}
    seen = [word for word in words[:8] if word.split()[1] in names]
    assert seen, words
    for place, word in enumerate(words[:8]):
        if word in seen:
            middle = colours[51, 51 + 99 * place]
            assert int(np.argmax(middle)) == names[word.split()[1]], (place, word, middle)


def test_check_names_the_examples_that_were_read_in_place_of_broken_ones(tmp_path, capsys):
    """Two classes that are told apart by their colour, and many broken files of one: words and pictures go together."""
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (20, 16), colour).save(tmp_path / "pictures" / name / f"{i}.png")
    for i in range(0, 12, 3):
        (tmp_path / "pictures" / "red" / f"{i}.png").write_bytes(b"broken")
    options = tiny.SMALL_DIFFUSION | {
        "data.path": tmp_path / "pictures",
        "data.on_error": "skip",
        "data.error_share": 0.9,
        "data.validation": 0.2,
        "preprocess.size": 8,
        "model.heads": 2,
        "workdir": tmp_path / "run",
    }
    config = str(tiny.ROOT / "configs" / "picture_classes.py")
    said = checked(capsys, config, *tiny.flags(options), "--out", tmp_path / "x.png")
    assert said["batch"] == "16 examples: cond/label int32 [16], image uint8 [16, 8, 8, 3]"
    with Image.open(tmp_path / "x.png") as picture:
        colours, words = np.asarray(picture.convert("RGB")), picture.info["words"].splitlines()
    assert {*words} == {"red", "blue"} and len(words) == 16
    for place, word in enumerate(words):
        row, column = divmod(place, 8)
        assert colours[54 + 102 * row, 54 + 102 * column].argmax() == {"red": 0, "blue": 2}[word]
    assert not (tmp_path / "run").exists()


def test_check_of_a_system_of_ones_own(tmp_path, capsys, monkeypatch):
    shutil.copy(Path(__file__).parent / "own_parts.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    tiny.mean_config(tmp_path / "mean.py")
    said = checked(capsys, "mean.py")
    assert said["system"] == "own_parts:SYSTEM"
    assert int(said["parameters"].partition(":")[0]) >= 1
    assert "a sampling step" not in said and "in words" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["config"], "ACTION"),
        (["config", "shwo"], "'shwo'"),
        (["config", "show", "nowhere.py"], "config file 'nowhere.py' does not exist"),
        (["config", "show", f"{tiny.CLIP}:flwo"], "variant"),
        (["config", "show", tiny.CLIP, "--confg.steps=3"], "argument '--confg.steps=3' is not known"),
        (["config", "show", tiny.CLIP, "--config.setps=3"], "'setps' does not exist; did you mean 'steps'?"),
        (["config", "check", tiny.CLIP, "--config.model.vision.width=0"], "'model.vision.width' is 0"),
        (["config", "check", tiny.DIFFUSION, "--config.condition.encoder=nowhere"], "there is no run in 'nowhere'"),
        (["config", "check", tiny.FOLDER, "--config.tokenizer.path=nowhere"], "there is no vocabulary at 'nowhere'"),
        (["config", "check", tiny.CLIP, "--out", "batch.jpg"], "did you mean 'batch.png'?"),
        (["config", "check", tiny.CLIP, "--out", ""], "--out is empty"),
        (["config", "check", tiny.CLIP, "--overwirte"], "did you mean '--overwrite'?"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.fails(capsys, arguments, said)
    assert list(tmp_path.iterdir()) == []
