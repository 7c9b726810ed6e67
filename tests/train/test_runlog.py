import errno
import io
import json
import math
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.train.progress import Progress
from diffusion_jax.train.runlog import RunLog, environment, read_metrics
from diffusion_jax.typing import UserError

PARAMS = {"dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}


def events(directory):
    """(step, tag, value) of each scalar in the event files, read by the format itself: length, its crc, record, its crc."""
    from tensorboardX.proto.event_pb2 import Event

    read = []
    for path in sorted(directory.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            read += [(event.step, value.tag, value) for value in event.summary.value]
    return read


def test_files_of_a_run(tmp_path):
    log = RunLog(tmp_path, {"steps": 5, "model": {"width": 8}})
    log.start(0, PARAMS)
    log.add([{"loss": np.float32(1), "a": 2.0}, {"loss": np.float32(2), "a": 4.0}])
    log.add([{"loss": np.float32(6), "a": 6.0}])
    log.write_means(3, images_per_second=7.0)
    log.write(4, {"held_out": jnp.float32(0.5), "bad": math.nan})
    log.images(4, {"samples": np.zeros((2, 8, 8, 1), np.float32)})
    log.close()
    first, second = read_metrics(tmp_path)
    assert {k: v for k, v in first.items() if k != "time"} == {
        "step": 3,
        "loss": 3.0,
        "a": 4.0,
        "images_per_second": 7.0,
    }
    assert second["held_out"] == 0.5
    assert math.isnan(second["bad"])
    assert "NaN" not in log.metrics_path.read_text()
    assert json.loads((tmp_path / "config.json").read_text()) == {"steps": 5, "model": {"width": 8}}
    assert "Total: 16" in (tmp_path / "parameters.txt").read_text()
    told = json.loads((tmp_path / "environment.json").read_text())
    assert told["versions"]["jax"] == environment()["versions"]["jax"] != "None"
    assert len(told["devices"]) == 8
    scalars = {(step, tag): value.simple_value for step, tag, value in events(tmp_path) if tag != "samples"}
    assert scalars[3, "loss"] == 3.0
    assert scalars[4, "held_out"] == 0.5
    assert any("samples" in tag and value.image.width for _, tag, value in events(tmp_path))


def test_resuming_drops_what_lies_beyond(tmp_path):
    log = RunLog(tmp_path)
    log.start(0, PARAMS)
    for step in (5, 10, 15):
        log.write(step, {"loss": step})
    with log.metrics_path.open("a") as file:
        file.write('{"step": 20, "los')  # a kill in mid-write
    assert [line["step"] for line in read_metrics(tmp_path)] == [5, 10, 15]
    log.start(10, PARAMS)
    log.write(15, {"loss": -1})
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(5, 5.0), (10, 10.0), (15, -1.0)]
    log.start(0, PARAMS)
    assert read_metrics(tmp_path) == []
    log.close()


def test_bad_files(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no metrics at"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2 is not JSON: 'nonsense'"):
        read_metrics(tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        RunLog(blocked).start(0, PARAMS)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = RunLog(tmp_path)
    monkeypatch.setattr("pathlib.Path.open", full)
    with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl: No space left on device"):
        log.write(1, {"loss": 1.0})


def test_heavy_packages_stay_out():
    code = (
        "import sys, diffusion_jax.train.step, diffusion_jax.train.loop, diffusion_jax.train.runlog;"
        "print(sorted({'clu', 'tensorflow', 'torch', 'tensorboardX', 'orbax.checkpoint', 'flax'} & sys.modules.keys()));"
        "import diffusion_jax.train.tensorboard;"
        "print(sorted({'tensorflow', 'torch'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.split("\n")[:2] == ["[]", "[]"], run.stderr


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_off_a_terminal_is_lines():
    stream = io.StringIO()
    bar = Progress("clip", 0, 100, 32, stream=stream, every=1000.0)
    assert bar.due()
    bar.resume()
    bar.count()
    bar.show(1, 0.5)
    bar.pause()
    assert not bar.due()
    bar.close()
    line = stream.getvalue()
    assert line.startswith("clip: step 1/100, loss 0.5, ")
    assert "images/s, left " in line
    assert line.count("\n") == 1


def test_progress_on_a_terminal_is_a_bar():
    stream = Terminal()
    bar = Progress("clip", 40, 100, 32, stream=stream)
    bar.show(50, 0.25)
    bar.say("a line")
    bar.close()
    assert "clip  50%" in stream.getvalue()
    assert "step 50/100, loss 0.25" in stream.getvalue()
    assert "a line\n" in stream.getvalue()


def test_what_is_measured_on_held_out_examples_is_a_line():
    stream = io.StringIO()
    bar = Progress("clip", 0, 100, 32, stream=stream)
    bar.measured(50, {"val_r1": 0.5, "val_loss": 0.123456, "val_loss_ema": np.float32(2)})
    bar.measured(60, {"a": 1, "b": 2.0, "c": 3, "d": 4, "e": 5})
    bar.measured(70, {})
    assert stream.getvalue() == (
        "clip: step 50/100, held out: val_loss 0.1235, val_loss_ema 2\n"
        "clip: step 60/100, held out: a 1, b 2, c 3, d 4\n"
    )


def test_without_a_bar_only_what_is_said_is_said():
    stream = io.StringIO()
    bar = Progress("clip", 0, 10, 1, shown=False, stream=stream)
    assert not bar.due()
    bar.show(1, 1.0)
    bar.measured(1, {"val_loss": 1.0})
    bar.say("text")
    bar.close()
    assert stream.getvalue() == "text\n"
