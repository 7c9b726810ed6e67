"""Runs that are killed at a known step, or stopped by a signal, and taken up again."""

import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import smallruns as tiny
from processes import environment

from diffusion_jax.cli import main
from diffusion_jax.systems.clip import task as clip_task
from diffusion_jax.train.checkpoint import restore_params

KILLED = """
import os, signal, sys, time
from diffusion_jax.systems.clip import task as clip_task
from diffusion_jax.systems.diffusion import training as diffusion_task
from diffusion_jax.cli import main

def dying_of(make):
    def batches(*given, **options):
        batch = make(*given, **options)
        def dying(step):
            if step == 5:
                while not os.path.isdir(sys.argv[1]):
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            return batch(step)
        return dying
    return batches

clip_task.batches = dying_of(clip_task.batches)
diffusion_task.training_batches = dying_of(diffusion_task.training_batches)
main(sys.argv[2:])
"""


def same_weights(a, b, step):
    for which in ("params", "ema"):
        jax.tree.map(
            np.testing.assert_array_equal, *(restore_params(folder / "checkpoints", which, step) for folder in (a, b))
        )


@pytest.mark.slow
@pytest.mark.parametrize("system", ["clip", "diffusion"])
def test_killed_within_a_step_equals_uninterrupted_bit_for_bit(system, run, tmp_path, capsys):
    """A process of its own on as many devices as the run that was not killed had."""
    options = {} if system == "clip" else {"condition.encoder": run / "clip"}
    arguments = (tiny.clip_arguments if system == "clip" else tiny.diffusion_arguments)(tmp_path, **options)
    checkpoints = tmp_path / system / "checkpoints"
    command = [sys.executable, "-c", KILLED, str(checkpoints / "2"), *arguments]
    done = subprocess.run(
        command, env=environment(devices=8), cwd=tiny.ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (checkpoints / "6").exists()
    assert main(arguments) == 0
    assert f"{system}: resumed at step " in capsys.readouterr().err
    same_weights(tmp_path / system, run / system, 6)


def test_ctrl_c_saves_is_130_and_goes_on_to_the_same_weights(run, tmp_path, monkeypatch, capsys):
    make = clip_task.batches

    def interrupted(*given, **options):
        batch = make(*given, **options)

        def stopping(step):
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return batch(step)

        return stopping

    arguments = tiny.clip_arguments(tmp_path, checkpoint_every=6)
    with monkeypatch.context() as patch:
        patch.setattr(clip_task, "batches", interrupted)
        assert main(arguments) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("interrupted: clip: SIGINT after step ")
    assert "the last good checkpoint is step " in last
    assert main(arguments) == 0
    assert "clip: resumed at step " in capsys.readouterr().err
    same_weights(tmp_path / "clip", run / "clip", 6)
