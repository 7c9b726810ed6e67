"""What is already in a run's folder: never lost unasked, and said in one line when it cannot be used."""

import json
import shutil

import pytest
import smallruns as tiny
from smallruns import fails

from diffusion_jax import load_run
from diffusion_jax.cli import main
from diffusion_jax.runs import fingerprint
from diffusion_jax.typing import UserError


def contents(folder):
    """Every file under a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_of_something_else_is_neither_taken_nor_overwritten(tmp_path, capsys):
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    fails(capsys, tiny.clip_arguments(tmp_path), f"{folder} is not empty and holds no run")
    fails(capsys, [*tiny.clip_arguments(tmp_path), "--overwrite"], f"{folder} is not empty and holds no run")
    (folder / "config.json").write_text('{"name": "a web page"}')
    fails(capsys, [*tiny.clip_arguments(tmp_path), "--overwrite"], "config.json is not that of a run")
    (folder / "config.json").write_text('{"cut')
    fails(capsys, [*tiny.clip_arguments(tmp_path), "--overwrite"], "config.json is not readable as JSON")
    assert (folder / "thesis.txt").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    fails(capsys, tiny.clip_arguments(tmp_path, workdir=tmp_path / "file"), "file is not empty and holds no run")
    fails(capsys, tiny.clip_arguments(tmp_path, workdir=tmp_path / "file" / "run"), "cannot make the run folder")


def test_a_refused_config_changes_no_file(own_run, capsys):
    before = contents(own_run)
    changed = tiny.clip_arguments(own_run, seed=3, **{"model.text.width": 32})
    fails(capsys, changed, "model.text.width: 16 -> 32; seed: 0 -> 3", "--overwrite to begin anew")
    fails(capsys, [*tiny.clip_arguments(own_run, batch_size=12), "--overwrite"], "batch_size 12")
    assert contents(own_run) == before


def test_the_text_encoder_is_not_overwritten_by_what_is_trained_on_it(own_run, capsys):
    before = contents(own_run)
    arguments = [*tiny.diffusion_arguments(own_run, workdir=own_run / "clip"), "--overwrite"]
    fails(capsys, arguments, "holds the text encoder")
    assert contents(own_run) == before


def test_a_moved_pair_loads_and_goes_on(own_run, capsys):
    # own_run is a copy in another place: `condition.encoder` and `workdir` differ from what its config says
    assert main(tiny.diffusion_arguments(own_run)) == 0
    said = capsys.readouterr().err
    assert "going on with changes: condition.encoder: " in said
    assert load_run(own_run).clip.path == own_run / "clip"


@pytest.mark.slow
def test_another_text_encoder_is_noticed_on_resume(own_run, capsys):
    assert main([*tiny.clip_arguments(own_run, seed=5), "--overwrite"]) == 0
    before = contents(own_run / "diffusion")
    fails(capsys, tiny.diffusion_arguments(own_run, steps=8), "was trained on another text encoder than")
    assert contents(own_run / "diffusion") == before
    with pytest.raises(UserError, match="was trained again after"):
        load_run(own_run)


def test_damaged_notes_of_a_run_are_one_line(own_run):
    note = own_run / "diffusion" / "text_encoder.json"
    for text, said in {"{": "not readable as JSON", "[]": "holds no JSON object", "{}": "lacks 'run'"}.items():
        note.write_text(text)
        with pytest.raises(UserError, match=said):
            load_run(own_run)
    note.write_text('{"run": "../gone", "fingerprint": "x"}')
    gone = f"no text encoder in '{own_run / 'gone'}', where text_encoder.json of the diffusion run"
    with pytest.raises(UserError, match=gone):
        load_run(own_run)
    note.unlink()
    with pytest.raises(UserError, match=r"text_encoder\.json is missing"):
        load_run(own_run)
    (own_run / "clip" / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="holds no JSON object"):
        load_run(own_run / "clip")


def test_load_run_says_what_there_is(run, own_run):
    with pytest.raises(UserError, match=f"there is no run in '{own_run}x'; did you mean '{own_run}'"):
        load_run(f"{own_run}x")
    with pytest.raises(UserError) as error:
        load_run(own_run.with_name("nothing"))
    assert "did you mean" not in str(error.value)
    with pytest.raises(UserError, match=r"no checkpoint of step 5 in .*; nearest: 4"):
        load_run(run, step=5)
    with pytest.raises(UserError, match="which 'emma' is not known; did you mean 'ema'"):
        load_run(run, which="emma")
    steps = [fingerprint(load_run(run, step=step).params) for step in (4, 6)]
    assert len({*steps, fingerprint(load_run(run, which="params").params)}) == 3
    assert fingerprint(load_run(run).params) == steps[1]
    shutil.rmtree(own_run / "diffusion" / "checkpoints")
    with pytest.raises(UserError, match="there is no checkpoint folder"):
        load_run(own_run)


def test_the_note_of_the_text_encoder_is_relative(run):
    note = json.loads((run / "diffusion" / "text_encoder.json").read_text())
    assert note == {"run": "../clip", "fingerprint": fingerprint(load_run(run / "clip").params)}
