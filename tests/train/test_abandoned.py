"""A full disk and a damaged checkpoint as a process shows them: one line, and nothing of the threads that were under way."""

import logging
import subprocess
import sys
import threading
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from processes import environment

from diffusion_jax.train import abandoned
from diffusion_jax.train.checkpoint import Checkpointer
from diffusion_jax.train.ema import Ema
from diffusion_jax.train.state import init_state

SCRIPT = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from diffusion_jax.cli import guarded
from diffusion_jax.train.checkpoint import Checkpointer, restore_params
from diffusion_jax.train.ema import Ema
from diffusion_jax.train.state import init_state

def state():
    rng = np.random.default_rng(0)  # constants would be compressed away
    kernels = rng.normal(size=(12, 64, 128)).astype(np.float32)
    params = {f"layer_{i}": {"kernel": jnp.asarray(kernel)} for i, kernel in enumerate(kernels)}
    return init_state(params, optax.adam(1e-2), Ema())

def save(folder, steps):
    with Checkpointer(folder) as checkpointer:
        for step in steps:
            checkpointer.save(step, state(), {"next_step": step}, {})
    return 0

def read(folder):
    restore_params(folder)
    return 0

action, folder, *steps = sys.argv[1:]
sys.exit(guarded((lambda: save(folder, map(int, steps))) if action == "save" else (lambda: read(folder))))
"""


def run(*words):
    command = [sys.executable, "-c", SCRIPT, *map(str, words)]
    own = environment(PYTHONWARNINGS="default")
    return subprocess.run(command, capture_output=True, text=True, env=own, check=False)


def alone(process, *said):
    """One line on stderr, and exit code 2."""
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: "), line
    assert all(text in line for text in said), line


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1.5 MB, which only root can mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", folder], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip("no small file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_one_line_and_what_was_saved_stays(small_disk):
    folder = small_disk / "checkpoints"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1_000_000))
    alone(run("save", folder, 1), f"the disk is full: no checkpoint could be written in {folder}; no checkpoint was")
    assert list(folder.iterdir()) == []
    filler.unlink()
    alone(run("save", folder, 1, 2, 3), "the disk is full", "the last good checkpoint is step 1")
    assert [p.name for p in folder.iterdir()] == ["1"]
    assert run("read", folder).returncode == 0


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    state = init_state({"a": jnp.asarray(np.random.default_rng(0).normal(size=(300, 8)))}, optax.adam(1e-2), Ema())
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, {"next_step": 1}, {})
    files = [path for path in (tmp_path / "1" / "ema").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    alone(run("read", tmp_path), f"checkpoint step 1 in {tmp_path} is damaged")


def test_other_reports_pass_through(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    abandoned.quieten()
    abandoned.quieten()
    hook = sys.unraisablehook
    try:
        raise RuntimeError(abandoned.CLOSED)
    except RuntimeError as error:
        report = SimpleNamespace(exc_value=error, exc_traceback=error.__traceback__)
    hook(report)  # of a thread of Python's own: somebody's defect
    assert seen == [report]
    monkeypatch.setattr(threading, "current_thread", lambda: threading._DummyThread.__new__(threading._DummyThread))
    hook(report)  # of a foreign thread, but not out of asyncio
    assert seen == [report, report]


def test_logs_are_withheld_only_where_all_failed(caplog):
    log = logging.getLogger("absl")

    @abandoned.withheld_logs()
    def fail():
        log.error("a part")
        raise ValueError("all")

    with pytest.raises(ValueError, match="all"):
        fail()
    assert caplog.messages == []
    with abandoned.withheld_logs():
        log.error("a part")
        assert caplog.messages == []
    assert caplog.messages == ["a part"]
