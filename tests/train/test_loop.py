import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from jax.sharding import PartitionSpec as P
from processes import environment

from diffusion_jax.train.checkpoint import Checkpointer, restore_params
from diffusion_jax.train.runlog import RunLog, read_metrics
from diffusion_jax.typing import UserError

RULES = (("kernel", P(None, "fsdp")),)


def losses(tmp_path, **layout):
    state = small.train(20, log=RunLog(tmp_path), log_every=1, **layout)
    return state, np.array([line["loss"] for line in read_metrics(tmp_path)])


@pytest.mark.parametrize("make", [small.adamw, small.turned])
def test_one_device_equals_eight(tmp_path, make):
    state, one = losses(tmp_path / "1", make=make)
    assert one.shape == (20,)
    assert one[-3:].mean() < one[:3].mean()
    for name, layout in {"8": {"data": 8}, "4x2": {"data": 4, "fsdp": 2, "rules": RULES}}.items():
        other, many = losses(tmp_path / name, make=make, **layout)
        np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.params, other.params)
    assert other.params["in"]["kernel"].addressable_shards[0].data.shape == (4, 16)
    moments = optax.tree_utils.tree_get_all_with_path(other.opt_state, "mu")
    kernels = [mu["in"]["kernel"] for _, mu in moments if not isinstance(mu["in"]["kernel"], optax.MaskedNode)]
    assert [kernel.sharding.spec for kernel in kernels] == [P(None, "fsdp")]


def run_small(tmp_path, *args):
    env = environment(PYTHONPATH=str(Path(small.__file__).parents[2]))
    command = [sys.executable, "-W", "error", small.__file__, str(tmp_path), *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def leaves(tmp_path):
    with np.load(tmp_path / "final.npz") as file:
        return [file[name] for name in file.files]


def test_kill_and_resume_gives_the_same_bits(tmp_path):
    whole = run_small(tmp_path / "whole", 30)
    assert whole.returncode == 0, whole.stderr
    assert "imported: []" in whole.stdout
    killed = run_small(tmp_path / "killed", 30, "kill", 26)
    assert killed.returncode == -signal.SIGKILL
    with Checkpointer(tmp_path / "killed" / "checkpoints") as checkpointer:
        assert checkpointer.latest_step() in (10, 20)
    resumed = run_small(tmp_path / "killed", 30)
    assert resumed.returncode == 0, resumed.stderr
    for a, b in zip(leaves(tmp_path / "whole"), leaves(tmp_path / "killed"), strict=True):
        np.testing.assert_array_equal(a, b)
    lines = [read_metrics(tmp_path / which / "log") for which in ("whole", "killed")]
    assert [line["step"] for line in lines[1]] == [5, 10, 15, 20, 25, 30]
    assert [line["loss"] for line in lines[1]] == [line["loss"] for line in lines[0]]


@pytest.mark.parametrize("make", [small.adamw, small.turned])
def test_resumes_on_other_devices_and_says_so(tmp_path, capsys, make):
    whole = small.train(12, make=make)
    small.train(7, directory=tmp_path, make=make)
    state = small.train(12, data=4, fsdp=2, rules=RULES, directory=tmp_path, progress=True, make=make)
    assert f"train: resumed at step 7 of 12, from {tmp_path}" in capsys.readouterr().err
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole.params, state.params)
    again = small.train(12, directory=tmp_path, progress=True, make=make)
    assert f"train: already done at step 12 of 12, from {tmp_path}" in capsys.readouterr().err
    jax.tree.map(np.testing.assert_array_equal, again.params, state.params)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_step_and_saves(tmp_path, number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def evaluate(state, done):
        if done == 4:
            signal.raise_signal(number)
        return {"seen": done}

    with pytest.raises(KeyboardInterrupt, match=f"{number.name} after step 4; the last good checkpoint is step 4"):
        small.train(20, directory=tmp_path, evaluate=evaluate, eval_every=2)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    resumed, whole = small.train(9, directory=tmp_path), small.train(9)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)


def test_second_signal_stops_at_once(tmp_path):
    def evaluate(state, done):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second signal did not stop it")

    with pytest.raises(KeyboardInterrupt, match="at once"):
        small.train(20, directory=tmp_path, evaluate=evaluate, eval_every=3)
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step() is None


@pytest.mark.parametrize("pace", [{"log_every": 50}, {"log_every": 1}])
def test_nan_stops_by_the_step_and_keeps_the_last_good(tmp_path, pace):
    def poisoned(step):
        batch = small.batches(step)
        return batch | {"y": batch["y"] * np.float32(np.nan)} if step == 7 else batch

    says = f"train: loss is nan at step 7; stopped; the last good checkpoint is step 5 in {tmp_path}"
    with jax.debug_nans(False), pytest.raises(UserError, match=says):
        small.train(20, directory=tmp_path, batches=poisoned, checkpoint_every=5, **pace)
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.steps() == [5]
    jax.tree.map(np.testing.assert_array_equal, restore_params(tmp_path), small.train(5).ema)


def test_parameter_that_is_not_finite_is_not_saved(tmp_path):
    def overflowing(params, ctx, batch, key):
        return batch["y"][:, 0] * 0 + params["in"]["bias"][0], {}, None

    import optax

    from diffusion_jax.parallel.mesh import make_mesh
    from diffusion_jax.train.loop import fit
    from diffusion_jax.train.state import init_state

    tx = optax.scale(-np.inf)  # the loss and the gradient are finite, the update is not
    with Checkpointer(tmp_path) as checkpointer, jax.debug_nans(False):
        state = init_state(small.init(jax.random.key(0)), tx)
        with pytest.raises(UserError, match="a parameter is not finite after step 0; stopped; no checkpoint yet"):
            fit(
                state=state, loss_fn=overflowing, tx=tx, ema=None, batches=small.batches, steps=1, progress=False,
                mesh=make_mesh(1, 1, devices=jax.devices()[:1]), batch_size=small.ROWS, key=jax.random.key(0),
                checkpointer=checkpointer,
            )  # fmt: skip


def test_errors_of_batches_reach_the_caller():
    def missing(step):
        if step == 3:
            raise FileNotFoundError("shard 3")
        return small.batches(step)

    with pytest.raises(FileNotFoundError, match="shard 3"):
        small.train(20, batches=missing)
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_batch_of_another_size():
    with pytest.raises(UserError, match="batch 'x' of step 2 has 8 rows; the run wants 16"):
        small.train(20, batches=lambda step: {k: v[: 8 if step == 2 else 16] for k, v in small.batches(step).items()})


@pytest.mark.parametrize("setting", ["log_every", "eval_every", "checkpoint_every"])
def test_intervals_are_positive(setting):
    with pytest.raises(UserError, match=f"{setting} 0"):
        small.train(2, **{setting: 0})


def test_order_of_calls_and_frozen(tmp_path, capsys):
    import optax

    from diffusion_jax.parallel.mesh import make_mesh
    from diffusion_jax.train.loop import fit
    from diffusion_jax.train.state import init_state

    def loss(params, ctx, batch, key):
        return params["w"] * ctx.frozen["table"][:4] * 0 + ctx.step, {}, ctx.aux + 1

    tx, table, seen = optax.sgd(0.1), jnp.arange(8.0), []
    mesh = make_mesh(2, 1, devices=jax.devices()[:2])
    state = init_state({"w": jnp.ones(4)}, tx, frozen={"table": table}, aux=jnp.int32(0), mesh=mesh)
    log = RunLog(tmp_path)
    state = fit(
        state=state, loss_fn=loss, tx=tx, ema=None, batches=lambda step: {"x": np.zeros(4)}, steps=5, mesh=mesh,
        batch_size=4,
        key=jax.random.key(0), log=log, log_every=2, eval_every=3, progress=True,
        evaluate=lambda s, done: seen.append((int(s.step), done, float(s.frozen["table"][7]))) or {"held_out": done},
    )  # fmt: skip
    assert seen == [(3, 3, 7.0), (5, 5, 7.0)]
    assert "train: step 3/5, held out: held_out 3\n" in capsys.readouterr().err
    assert int(state.aux) == 5
    np.testing.assert_array_equal(table, state.frozen["table"])
    assert [(line["step"], line.get("loss"), line.get("held_out")) for line in read_metrics(tmp_path)] == [
        (2, 0.5, None), (3, None, 3.0), (4, 2.5, None), (5, 4.0, None), (5, None, 5.0),
    ]  # fmt: skip
    assert json.loads((tmp_path / "config.json").read_text()) == {}


def test_a_loss_may_look_at_constants_while_it_is_traced():
    """As `denoiser` does for an eps network; debugging NaN takes the guard against transfers away, so it is off here."""

    def looking(params, ctx, batch, key):
        with jax.ensure_compile_time_eval():
            assert bool(jnp.float32(0.25) < 1)
        return small.loss_fn(params, ctx, batch, key)

    with jax.debug_nans(False):
        assert int(small.train(3, loss_fn=looking).step) == 3
