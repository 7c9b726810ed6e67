"""`diffusion-jax train`: resuming, refusing, stopping; what is written beside a run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import smallruns as tiny

from diffusion_jax import load_run
from diffusion_jax.cli import main
from diffusion_jax.config import load_config, parse_overrides
from diffusion_jax.parallel.mesh import make_mesh
from diffusion_jax.run import fingerprint
from diffusion_jax.train.checkpoint import restore_params
from diffusion_jax.train.loop import fit
from diffusion_jax.train.runlog import RunLog, read_metrics
from diffusion_jax.train.state import init_state
from diffusion_jax.training import TASKS

ROOT = Path(__file__).parent.parent.parent


def one_line(capsys, *words):
    """What was said on stderr is one error line that holds the words."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]


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


def test_more_steps_go_on_and_other_models_are_refused(own_run, capsys):
    more = tiny.clip_arguments(own_run, steps=8, **{"optimizer.warmup_steps": 2})
    assert main(more) == 0
    said = capsys.readouterr().err
    assert "steps: 6 -> 8" in said
    assert "resumed at step 6 of 8" in said
    kept = fingerprint(restore_params(own_run / "clip" / "checkpoints"))
    assert main(tiny.clip_arguments(own_run, steps=8, **{"model.vision.width": 32})) == 2
    one_line(capsys, "model.vision.width: 16 -> 32", "--overwrite")
    assert fingerprint(restore_params(own_run / "clip" / "checkpoints")) == kept
    assert main([*tiny.clip_arguments(own_run, **{"model.vision.width": 32}), "--overwrite"]) == 0
    assert restore_params(own_run / "clip" / "checkpoints")["visual"]["class_embedding"].shape == (32,)


BAD = [
    ({"model.vision.widht": 8}, ("model.vision.widht", "did you mean 'model.vision.width'")),
    ({"steps": "many"}, ("'steps'", "int", "'many'")),
    ({"steps": 0}, ("'steps' is 0", "at least 1")),
    ({"batch_size": 100}, ("batch_size 100", "8 devices", "96 or 104")),
    ({"model.vision.patch": 3}, ("image_size 8 is not divided by patch 3",)),
    ({"system": "clpi"}, ("'clpi'", "did you mean 'clip'")),
    ({"data.name": "digit"}, ("'digit'", "did you mean 'digits'")),
    ({"ema.decay": 1.5}, ("1.5", "[0, 1)")),
    ({"optimizer.schedule": "cosin"}, ("'cosin'", "did you mean 'cosine'")),
    ({"model.dtype": "float8"}, ("'float8'",)),
    ({"mesh.fsdp": 3}, ("fsdp=3", "8 devices")),
]


@pytest.mark.parametrize(
    ("options", "words"), BAD, ids=[next(iter(o)) + "=" + str(next(iter(o.values()))) for o, _ in BAD]
)
def test_bad_clip_configs_are_one_line_and_leave_no_folder(options, words, tmp_path, capsys):
    assert main(tiny.clip_arguments(tmp_path, **options)) == 2
    one_line(capsys, *words)
    assert not (tmp_path / "clip").exists()


BAD_DIFFUSION = [
    ({"prediction": "eps"}, ("'eps'", "t = 1.0 under Cosine", "t_max")),
    ({"prediction": "vv"}, ("'vv'", "did you mean 'v'")),
    ({"schedule.name": "cosin"}, ("'cosin'", "did you mean 'cosine'")),
    ({"loss.times": "stratify"}, ("'stratify'", "did you mean 'stratified'")),
    ({"loss.weight": "simpel"}, ("'simpel'", "did you mean 'simple'")),
    ({"time": "t100"}, ("'t100'", "did you mean 't1000'")),
    ({"sampler.solver": "dim"}, ("'dim'", "did you mean 'ddim'")),
    ({"text_encoder": "/nowhere/clip"}, ("/nowhere/clip",)),
]


@pytest.mark.parametrize(
    ("options", "words"), BAD_DIFFUSION, ids=[str(next(iter(o.values()))) for o, _ in BAD_DIFFUSION]
)
def test_bad_diffusion_configs_are_one_line_and_leave_no_folder(options, words, run, tmp_path, capsys):
    options = {"text_encoder": run / "clip"} | options
    assert main(tiny.diffusion_arguments(tmp_path, **options)) == 2
    one_line(capsys, *words)
    assert not (tmp_path / "diffusion").exists()


def test_a_missing_config_names_the_nearest_file(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["train", "--config", "configs/digit_clip.py"]) == 2
    one_line(capsys, "configs/digit_clip.py", "did you mean 'configs/digits_clip.py'")
    assert main(["train", "--config", "configs/digits_clip.py:narow"]) == 2
    one_line(capsys, "'narow'", "did you mean 'narrow'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ("trian",)),
        ([], ("COMMAND",)),
        (["train"], ("--config",)),
        (["train", "--config", tiny.CLIP, "--cofnig.steps=3"], ("--cofnig.steps=3",)),
        (["train", "--config", tiny.CLIP, "--config.steps"], ("--config.steps", "no value")),
        (["sample", "--run", "x", "--prompt", "a", "--prompts", "b", "--out", "c.png"], ("not allowed with",)),
        (["sample", "--run", "x", "--prompt", "a", "--out", "c.png", "--seeed", "1"], ("--seeed",)),
    ],
)
def test_bad_arguments_are_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    one_line(capsys, *words)


@pytest.mark.parametrize("command", [[], ["train"], ["sample"], ["evaluate"], ["report"]])
def test_help_explains(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: diffusion-jax" in capsys.readouterr().out


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
    one_line(capsys, "step 7", "last good checkpoint is step 6")
    assert fingerprint(restore_params(tmp_path / "clip" / "checkpoints")) == kept


def losses(folder, arguments, devices):
    """The loss of every step of a run on the first `devices` devices, through the task and the loop."""
    overrides = parse_overrides(arguments[4:])
    config = load_config(arguments[3], overrides)
    task = TASKS[config.system](config, folder, jax.random.key(7))
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


@pytest.mark.parametrize("arguments", [tiny.clip_arguments, tiny.diffusion_arguments], ids=["clip", "diffusion"])
def test_one_device_and_eight_give_the_same_losses_over_20_steps(arguments, run, tmp_path):
    options = {"steps": 20, "text_encoder": run / "clip"} if arguments is tiny.diffusion_arguments else {"steps": 20}
    found = [losses(tmp_path / str(n), arguments(tmp_path / str(n), **options), n) for n in (1, 8)]
    assert len(found[0]) == 20
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    assert np.abs(np.diff(found[0])).min() > 0  # it trains


def in_a_process(arguments, **options):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache/jax"),
    }
    command = [sys.executable, "-m", "diffusion_jax.cli", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT, **options)


def wait_for_checkpoint(process, folder, step):
    for _ in range(1200):
        if (folder / "checkpoints" / str(step)).is_dir():
            return
        if process.poll() is not None:
            pytest.fail(f"ended before step {step}: {process.communicate()[1]}")
        time.sleep(0.05)
    pytest.fail(f"no checkpoint of step {step} came")


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    long = {"steps": 40, "checkpoint_every": 8, "eval_every": 40, "optimizer.warmup_steps": 4}
    whole = in_a_process(tiny.clip_arguments(tmp_path / "whole", **long))
    said = whole.communicate()[1]
    assert whole.returncode == 0, said
    victim = in_a_process(tiny.clip_arguments(tmp_path / "killed", **long))
    wait_for_checkpoint(victim, tmp_path / "killed" / "clip", 8)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    again = in_a_process(tiny.clip_arguments(tmp_path / "killed", **long))
    said = again.communicate()[1]
    assert again.returncode == 0, said
    assert "resumed at step" in said or "already done" in said
    for which in ("params", "ema"):
        a, b = (restore_params(tmp_path / name / "clip" / "checkpoints", which, 40) for name in ("whole", "killed"))
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_ctrl_c_saves_and_ends_with_130(tmp_path):
    process = in_a_process(tiny.clip_arguments(tmp_path, steps=100_000, checkpoint_every=10, eval_every=100_000))
    wait_for_checkpoint(process, tmp_path / "clip", 10)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    assert "interrupted" in said.splitlines()[-1]
    saved = max(int(p.name) for p in (tmp_path / "clip" / "checkpoints").iterdir() if p.name.isdigit())
    assert f"after step {saved}" in said


def test_a_truncated_checkpoint_is_one_line(own_run, capsys):
    newest = own_run / "clip" / "checkpoints" / "6"
    for file in newest.rglob("*"):
        if file.is_file() and file.stat().st_size > 2000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert main(tiny.clip_arguments(own_run, steps=8)) == 2
    one_line(capsys, "step 6", "damaged", "step 4 is whole")
    shutil.rmtree(own_run / "diffusion" / "checkpoints")
    assert main(["sample", "--run", str(own_run), "--prompt", "a two", "--out", str(own_run / "x.png")]) == 2
    one_line(capsys, "checkpoint")
    assert not (own_run / "x.png").exists()


def test_load_run_from_python(own_run):
    run = load_run(own_run)
    assert run.config.system == "diffusion"
    assert load_run(own_run / "clip").config.system == "clip"
    moved = own_run.rename(own_run.parent / "moved")  # both together: the text encoder is found beside it
    assert fingerprint(load_run(moved).params) == fingerprint(run.params)
