"""Drawing that is refused before it begins, or taken up where it stopped."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from smallruns import fails

from diffusion_jax.cli import main


def many(run, tmp_path, count, *extra, out="many"):
    prompts = tmp_path / "prompts.txt"
    if not prompts.exists():
        prompts.write_text("a seven\na thin two\n")
    options = ["--num-images", count, "--out", tmp_path / out, "--shard-size", 8, *extra]
    return [str(word) for word in ["sample", "--run", run, "--prompts", prompts, *options]]


def read(folder):
    files = sorted(folder.glob("images-*.npz"))
    with_names = [np.load(file)["images"].astype(int) for file in files]
    return np.concatenate(with_names)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--solver", "dimm"], "did you mean 'ddim'?"),
        (["--grid", "unifrom"], "did you mean 'uniform'?"),
        (["--num-steps", "0"], "num_steps 0"),
        (["--guidance-scale", "inf"], "guidance scale inf is not finite"),
        (["--eta", "2"], "eta 2.0 is not in [0, 1]; nearest: 1.0"),
        (["--shard-size", "0"], "--shard-size 0 is not at least 1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_settings_leave_no_folder(run, tmp_path, capsys, extra, said):
    fails(capsys, many(run, tmp_path, 8, *extra), said)
    assert not (tmp_path / "many").exists()


def test_images_do_not_depend_on_shards_and_batches(run, tmp_path):
    assert main(many(run, tmp_path, 20)) == 0
    assert main(many(run, tmp_path, 20, "--batch-size", "3", out="batches")) == 0
    assert main(many(run, tmp_path, 20, "--shard-size", "5", out="shards")) == 0
    one = read(tmp_path / "many")
    assert one.shape == (20, 8, 8, 1)
    for other in ("batches", "shards"):
        # equal to rounding, which may tip a level of 255
        assert np.abs(read(tmp_path / other) - one).max() <= 1


def test_a_damaged_shard_is_said_and_made_again(run, tmp_path, capsys):
    assert main(many(run, tmp_path, 16)) == 0
    before = read(tmp_path / "many")
    first, second = sorted((tmp_path / "many").glob("images-*.npz"))
    kept = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:100])
    capsys.readouterr()
    assert main(many(run, tmp_path, 16)) == 0
    said = capsys.readouterr().err
    assert f"{second} is damaged and is made again" in said
    assert "1 of 2 shards are there already" in said
    np.testing.assert_array_equal(read(tmp_path / "many"), before)
    assert first.stat().st_mtime_ns == kept


def test_a_folder_of_other_settings_is_refused_naming_them(run, tmp_path, capsys):
    assert main(many(run, tmp_path, 8)) == 0
    fails(
        capsys,
        many(run, tmp_path, 8, "--guidance-scale", "2", "--solver", "heun"),
        "guidance_scale: 3.0 -> 2.0; solver",
    )
    fails(capsys, many(run, tmp_path, 8, "--weights", "params"), "weights: ")
    settings = tmp_path / "many" / "settings.json"
    whole = settings.read_text()
    assert json.loads(whole)["prompts"] == ["a seven", "a thin two"]
    settings.write_text(whole[:20])
    fails(capsys, many(run, tmp_path, 8), "settings.json is not readable as JSON")
    assert main(many(run, tmp_path, 8, "--overwrite", "--seed", "4")) == 0
    assert json.loads(settings.read_text())["seed"] == 4
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "mine.txt").write_text("mine")
    fails(capsys, many(run, tmp_path, 8, "--overwrite", out="else"), "exists and holds no generation")
    assert (tmp_path / "else" / "mine.txt").read_text() == "mine"


def test_prompts_that_are_not_text(run, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_bytes(b"\xff\xfe\x00")
    fails(capsys, many(run, tmp_path, 8), "is UTF-16, not UTF-8 text (byte 0)")


def draw(run, out, *extra):
    return [
        str(word) for word in ["sample", "--run", run, "--prompt", "a seven", "--num-images", 1, "--out", out, *extra]
    ]


def test_a_place_that_cannot_be_written_is_refused_before_drawing(run, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    fails(capsys, draw(run, tmp_path / "file" / "x.png"), f"{tmp_path / 'file'} is not a folder")
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.access(tmp_path / "locked", os.W_OK):  # as root every folder can be written
        return
    fails(capsys, draw(run, tmp_path / "locked" / "x.png"), "is not writable")


def test_settings_of_a_prompt_in_any_script(run, tmp_path):
    arguments = draw(run, tmp_path / "x.png")
    arguments[arguments.index("a seven")] = "a seven – 七"
    assert main([*arguments, "--eta", "0.5", "--grid", "logsnr"]) == 0
    with Image.open(tmp_path / "x.png") as picture:
        info = dict(picture.info)
    assert info["prompt"] == "a seven – 七"
    assert (info["run"], info["grid"], info["solver_options"]) == (str(run), "logsnr", "{'eta': 0.5}")


def test_drawing_changes_nothing_in_a_run(own_run, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in own_run.rglob("*") if p.is_file()}
    assert main(draw(own_run, tmp_path / "x.png")) == 0
    assert {p: p.stat().st_mtime_ns for p in own_run.rglob("*") if p.is_file()} == before
