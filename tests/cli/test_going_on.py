"""A run that stopped at a broken picture goes on with `skip`, its pictures may move."""

import pytest
import smallruns as tiny

from diffusion_jax import load_run
from diffusion_jax.cli import main


@pytest.mark.slow  # build/test_what_may_change.py has the rule; this is the whole way
def test_a_run_that_stopped_at_a_broken_picture_goes_on(tmp_path, capsys):
    tiny.make_pictures(tmp_path)
    broken = sorted((tmp_path / "pictures").rglob("*.png"))[3]
    whole = broken.read_bytes()
    assert main(tiny.folder_arguments(tmp_path, tmp_path / "run")) == 0
    broken.write_bytes(b"nothing")
    tiny.fails(capsys, tiny.folder_arguments(tmp_path, tmp_path / "run", steps=9), f"{broken.name} is not an image")
    (tmp_path / "pictures").rename(tmp_path / "moved")
    change = {
        "data.on_error": "skip",
        "data.path": tmp_path / "moved",
        "data.eval_pairs": 4,
        "data.workers": 1,
        "steps": 9,
    }
    (tmp_path / "moved" / broken.name).write_bytes(whole)
    other = change | {"data.validation": 0.3}
    tiny.fails(capsys, tiny.folder_arguments(tmp_path, tmp_path / "run", **other), "data.validation: 0.2 -> 0.3")
    assert main(tiny.folder_arguments(tmp_path, tmp_path / "run", **change)) == 0
    said = capsys.readouterr().err
    assert "data.on_error: raise -> skip" in said and "(the same pictures)" in said and "resumed at step 6 of 9" in said
    assert load_run(tmp_path / "run").config.data.path == str(tmp_path / "moved")


def test_a_path_that_leads_nowhere_says_where_was_looked(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = tiny.folder_arguments(tmp_path, tmp_path / "run", **{"tokenizer.path": "nowhere"})
    tiny.fails(
        capsys, arguments, "there is no vocabulary at 'nowhere'", str(tmp_path), f"the config's project {tiny.ROOT}"
    )
