"""`diffusion-jax train`: resuming, refusing, stopping; what is written beside a run."""

import json
import shutil

import jax
import numpy as np
import pytest
import smallruns as tiny

from diffusion_jax import load_run
from diffusion_jax.cli import main
from diffusion_jax.config import load_config, parse_overrides
from diffusion_jax.parallel.mesh import make_mesh
from diffusion_jax.runs import fingerprint
from diffusion_jax.systems.table import system_of
from diffusion_jax.train.checkpoint import restore_params
from diffusion_jax.train.loop import fit
from diffusion_jax.train.runlog import RunLog, read_metrics
from diffusion_jax.train.state import init_state


def test_a_run_leaves_what_describes_it(run):
    for folder in (run / "clip", run / "diffusion"):
        config = json.loads((folder / "config.json").read_text())
        assert config["batch_size"] == 16
        environment = json.loads((folder / "environment.json").read_text())
        assert environment["versions"]["jax"] == jax.__version__
        assert "git_commit" in environment
        assert "blocks" in (folder / "parameters.txt").read_text()
        assert list(folder.glob("events.out.tfevents*"))
        rows = read_metrics(folder)
        assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6]
        assert {"val_loss", "val_loss_ema"} <= rows[-1].keys()
    assert (run / "diffusion" / "samples" / "step_000006.png").is_file()


def test_a_second_train_says_it_is_done_and_changes_nothing(own_run, capsys):
    before = {p: p.stat().st_mtime_ns for p in (own_run / "clip" / "checkpoints").rglob("*") if p.is_file()}
    # the copy lies elsewhere: its folder is a key that may change
    assert main(tiny.clip_arguments(own_run)) == 0
    assert "already done at step 6 of 6" in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in (own_run / "clip" / "checkpoints").rglob("*") if p.is_file()}


@pytest.mark.slow
def test_progress_is_said_or_not(own_run, capsys, monkeypatch):
    monkeypatch.setattr("diffusion_jax.train.progress.Progress.due", lambda self: self.shown)
    quiet = tiny.clip_arguments(own_run, workdir=own_run / "new", steps=4)
    assert main(quiet) == 0
    assert capsys.readouterr().err == f"run in {own_run / 'new'}\n"
    assert main([word for word in quiet if word != "--no-progress"] + ["--overwrite"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("JAX ") and lines[-1] == f"run in {own_run / 'new'}"
    assert "clip: 1257 examples to train on, 180 held out" in lines
    assert any(line.startswith("clip: step 4/4, loss ") for line in lines)


def test_more_steps_go_on_and_other_models_are_refused(own_run, capsys):
    more = tiny.clip_arguments(own_run, steps=8, **{"optimizer.warmup_steps": 2})
    assert main(more) == 0
    said = capsys.readouterr().err
    assert "steps: 6 -> 8" in said
    assert "resumed at step 6 of 8" in said
    kept = fingerprint(restore_params(own_run / "clip" / "checkpoints"))
    assert main(tiny.clip_arguments(own_run, steps=8, **{"model.vision.width": 32})) == 2
    tiny.one_line(capsys, "model.vision.width: 16 -> 32", "--overwrite")
    assert fingerprint(restore_params(own_run / "clip" / "checkpoints")) == kept
    assert main([*tiny.clip_arguments(own_run, **{"model.vision.width": 32}), "--overwrite"]) == 0
    assert restore_params(own_run / "clip" / "checkpoints")["visual"]["class_embedding"].shape == (32,)


def test_nan_stops_names_the_step_and_keeps_the_last_checkpoint(tmp_path, capsys):
    assert main(tiny.clip_arguments(tmp_path)) == 0
    kept = fingerprint(restore_params(tmp_path / "clip" / "checkpoints"))
    parts = tmp_path / "clip" / "config.json"
    config = json.loads(parts.read_text())
    config["optimizer"]["learning_rate"] = 1e38  # the run's own config says so: nothing seems changed
    parts.write_text(json.dumps(config))
    with jax.debug_nans(False):
        code = main(tiny.clip_arguments(tmp_path, steps=12, **{"optimizer.learning_rate": 1e38}))
    assert code == 2
    tiny.one_line(capsys, "step 7", "last good checkpoint is step 6")
    assert fingerprint(restore_params(tmp_path / "clip" / "checkpoints")) == kept


def losses(folder, arguments, devices):
    """The loss of every step of a run on the first `devices` devices, through the task and the loop."""
    overrides = parse_overrides(arguments[4:])
    config = load_config(arguments[3], overrides)
    task = system_of(config).task(config, folder, jax.random.key(7))
    from diffusion_jax import build

    tx, ema = build.optimizer(config.optimizer, config.steps, clamp=task.clamp), build.ema(config.ema)
    mesh = make_mesh(devices=jax.devices()[:devices])
    log = RunLog(folder)
    state = init_state(task.network.init(jax.random.key(0)), tx, ema, frozen=task.frozen, mesh=mesh)
    fit(
        state=state, loss_fn=task.loss_fn, tx=tx, ema=ema, batches=task.batches, steps=config.steps, mesh=mesh,
        batch_size=config.batch_size, key=jax.random.key(1), log=log, log_every=1, progress=False,
    )  # fmt: skip
    log.close()
    return np.array([row["loss"] for row in read_metrics(folder)])


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(tiny.clip_arguments, id="clip"),
        pytest.param(tiny.diffusion_arguments, id="diffusion", marks=pytest.mark.slow),
    ],
)
def test_one_device_and_eight_give_the_same_losses_over_20_steps(arguments, run, tmp_path):
    options = (
        {"steps": 20, "condition.encoder": run / "clip"} if arguments is tiny.diffusion_arguments else {"steps": 20}
    )
    found = [losses(tmp_path / str(n), arguments(tmp_path / str(n), **options), n) for n in (1, 8)]
    assert len(found[0]) == 20
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    assert np.abs(np.diff(found[0])).min() > 0  # it trains


def test_a_truncated_checkpoint_is_one_line(own_run, capsys):
    newest = own_run / "clip" / "checkpoints" / "6"
    for file in newest.rglob("*"):
        if file.is_file() and file.stat().st_size > 2000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert main(tiny.clip_arguments(own_run, steps=8)) == 2
    tiny.one_line(capsys, "step 6", "damaged", "step 4 is whole")
    shutil.rmtree(own_run / "diffusion" / "checkpoints")
    assert main(["sample", "--run", str(own_run), "--prompt", "a two", "--out", str(own_run / "x.png")]) == 2
    tiny.one_line(capsys, "checkpoint")
    assert not (own_run / "x.png").exists()


def test_load_run_from_python(own_run):
    run = load_run(own_run)
    assert run.config.system == "diffusion"
    assert load_run(own_run / "clip").config.system == "clip"
    moved = own_run.rename(own_run.parent / "moved")  # both together: the text encoder is found beside it
    assert fingerprint(load_run(moved).params) == fingerprint(run.params)


@pytest.mark.slow
def test_importance_of_times_and_another_weighting_train_by_the_config(own_run, capsys):
    """The state of the importance lives in the train state: it is kept by the checkpoint and read on going on."""
    chosen = {"loss.times": "importance", "loss.weight": "min_snr", "workdir": own_run / "weighted"}
    assert main(tiny.diffusion_arguments(own_run, **chosen)) == 0
    assert main(tiny.diffusion_arguments(own_run, **chosen, steps=8)) == 0
    tiny.fails(capsys, tiny.diffusion_arguments(own_run, **{"loss.weight": "minsnr"}), "did you mean 'min_snr'")


@pytest.mark.slow
def test_edm_preconditioning_trains_by_the_config(own_run):
    """The variant of the config: it is learned, the run knows its sigma_data, and guidance may be rescaled."""
    arguments = tiny.diffusion_arguments(own_run, workdir=own_run / "edm", **{"condition.encoder": own_run / "clip"})
    arguments = [part.replace(tiny.DIFFUSION, f"{tiny.DIFFUSION}:edm") for part in arguments]
    assert main(arguments) == 0
    run = load_run(own_run / "edm")
    assert run.denoise.prediction == "edm" and run.sigma_data == run.denoise.sigma_data == 0.5
    images = run.generate(["a seven"] * 2, guidance_scale=3.0, guidance={"rescale": 0.7})
    assert np.isfinite(images).all() and images.std() > 1e-3
