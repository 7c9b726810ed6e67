"""`--distributed`: a run trained by two processes of two devices each is the run that one process trains."""

import json
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import smallruns as tiny
from processes import environment, free_address

from diffusion_jax.cli import main
from diffusion_jax.systems.table import load_run
from diffusion_jax.train.checkpoint import restore_params

BLOCKS = {"loss.chunk": 4, "checkpoint_every": 3}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tiny.make_pictures(tmp_path_factory.mktemp("own"))


def start(command, devices=2):
    """The command in two processes of `devices` simulated devices each."""
    address, env = free_address(), environment(devices)
    parts = [[sys.executable, "-m", "diffusion_jax.cli", *command, "--distributed", f"{address},2,{i}"] for i in (0, 1)]
    return [subprocess.Popen(part, cwd=tiny.ROOT, env=env, stderr=subprocess.PIPE, text=True) for part in parts]


def ended(processes):
    """What each wrote and the codes with which they ended."""
    try:
        said = [process.communicate(timeout=100)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return said, [process.returncode for process in processes]


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_two_processes_train_the_run_of_one(pictures, tmp_path, capsys):
    said, codes = ended(start(tiny.folder_arguments(pictures, tmp_path / "two", **BLOCKS, **{"mesh.fsdp": 2})))
    assert codes == [0, 0], said
    assert f"run in {tmp_path / 'two'}" in said[0] and "run in" not in said[1]
    assert main(tiny.folder_arguments(pictures, tmp_path / "one", **BLOCKS)) == 0
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line["step"] for line in one] == [line["step"] for line in two] and any("val_loss" in line for line in one)
    for a, b in zip(one, two):
        assert a.keys() >= {"step"} and {*a, "images_per_second"} == {*b, "images_per_second"}
        for name in {*a} - {"time", "images_per_second"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
    start_of = load_run(tmp_path / "one").network.init(jax.random.key(0))
    params = [restore_params(tmp_path / name / "checkpoints", "params") for name in ("one", "two")]
    for a, b, fresh in zip(*map(jax.tree.leaves, (*params, start_of))):
        np.testing.assert_allclose(a, b, atol=2e-4 * max(1.0, np.abs(fresh).max()))
    # What two processes wrote, one reads and carries on.
    capsys.readouterr()
    assert main(tiny.folder_arguments(pictures, tmp_path / "two", **BLOCKS, steps=8)) == 0
    assert "resumed at step 6 of 8" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_signal_to_one_process_saves_and_stops_both_and_a_refusal_reaches_both(pictures, tmp_path):
    run = tmp_path / "run"
    never = {"steps": 100000, "eval_every": 100000, "checkpoint_every": 100000}
    both = start(tiny.folder_arguments(pictures, run, **never), devices=1)
    end = time.monotonic() + 100
    while not (run / "metrics.jsonl").exists() or len(metrics(run)) < 2:
        assert time.monotonic() < end and all(process.poll() is None for process in both), ended(both)
        time.sleep(0.2)
    both[1].send_signal(signal.SIGTERM)
    said, codes = ended(both)
    assert codes == [130, 130] and all("interrupted: clip: SIGTERM after step" in text for text in said), said
    assert [path.name for path in (run / "checkpoints").iterdir()] == [said[0].split("after step ")[1].split(";")[0]]
    said, codes = ended(start(tiny.folder_arguments(pictures, run, **{"optimizer.learning_rate": 5.0}), devices=1))
    assert codes == [2, 2] and all("holds a run of another config" in text for text in said), said


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_two_processes_share_the_shards_out(run, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a bold seven\na thin two\n")
    command = ["sample", "--run", str(run / "diffusion"), "--prompts", str(prompts)]
    command += ["--num-images", "10", "--shard-size", "3"]
    said, codes = ended(start([*command, "--out", str(tmp_path / "two")]))
    assert codes == [0, 0] and all("2 of them by this process" in text for text in said), said
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    names = [f"images-{k:06d}.npz" for k in range(4)]
    for name in names:
        with np.load(tmp_path / "one" / name) as one, np.load(tmp_path / "two" / name) as two:
            assert np.abs(one["images"].astype(int) - two["images"]).max() <= 1
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [*names, "settings.json"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nonsense", "--distributed 'nonsense' is not HOST:PORT,COUNT,INDEX, such as 10.0.0.1:1234,2,0"),
        ("1.2.3.4:5,2,2", "process 2 of 2; nearest: 1"),
    ],
)
def test_a_place_that_is_none_is_one_line(tmp_path, capsys, given, said):
    tiny.fails(capsys, ["train", "--config", tiny.FOLDER, f"--distributed={given}"], said)


def test_one_picture_needs_no_others(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("diffusion_jax.parallel.hosts.join", lambda where: None)
    command = ["sample", "--run", str(run / "diffusion"), "--prompt", "a two", "--out", str(tmp_path / "a.png")]
    tiny.fails(capsys, [*command, "--distributed"], "--distributed shares out the shards of --prompts")
