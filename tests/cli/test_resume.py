"""Runs that are killed at a known step, or stopped by a signal, and taken up again."""

import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import smallruns as tiny

from diffusion_jax.cli import main
from diffusion_jax.systems.clip import task as clip_task
from diffusion_jax.train.checkpoint import restore_params

KILLED = """
import os, signal, sys, time
from diffusion_jax import training
from diffusion_jax.systems.clip import task as clip_task
from diffusion_jax.cli import main
make = training.batches

def batches(*given, **options):
    batch = make(*given, **options)
    def dying(step):
        if step == 5:
            while not os.path.isdir(sys.argv[1]):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return batch(step)
    return dying

training.batches = clip_task.batches = batches
main(sys.argv[2:])
"""
IN_TURN = """
import sys
from diffusion_jax.cli import main
both = sys.argv[1:]
half = len(both) // 2
sys.exit(main(both[:half]) or main(both[half:]))
"""


def process(code, *arguments):
    """A process of its own on one device."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(tiny.ROOT / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, env=environment, cwd=tiny.ROOT, capture_output=True, text=True, timeout=240, check=False
    )


def same_weights(a, b, step):
    for which in ("params", "ema"):
        jax.tree.map(
            np.testing.assert_array_equal, *(restore_params(folder / "checkpoints", which, step) for folder in (a, b))
        )


@pytest.mark.parametrize("system", ["clip", pytest.param("diffusion", marks=pytest.mark.slow)])
def test_killed_within_a_step_equals_uninterrupted_bit_for_bit(system, run, tmp_path):
    options = {} if system == "clip" else {"condition.encoder": run / "clip"}
    make = tiny.clip_arguments if system == "clip" else tiny.diffusion_arguments
    killed, whole = tmp_path / "killed" / system, tmp_path / "whole" / system
    of_killed, of_whole = make(tmp_path / "killed", **options), make(tmp_path / "whole", **options)
    done = process(KILLED, killed / "checkpoints" / "2", *of_killed)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (killed / "checkpoints" / "6").exists()
    done = process(IN_TURN, *of_killed, *of_whole)
    assert done.returncode == 0, done.stderr
    assert f"{system}: resumed at step " in done.stderr
    same_weights(killed, whole, 6)


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
