import errno
import gc
import logging
import os
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from orbax.checkpoint._src.serialization import replica_slices

from diffusion_jax.parallel.mesh import make_mesh
from diffusion_jax.train.checkpoint import (
    MIN_SLICE_BYTES,
    Checkpointer,
    _bits_sum_on_host,
    _fingerprint,
    _fingerprint_on_devices,
    restore_params,
)
from diffusion_jax.train.ema import Ema
from diffusion_jax.train.state import init_state
from diffusion_jax.train.step import make_train_step
from diffusion_jax.typing import UserError

# A read that TensorStore abandons reports to an event loop that Orbax has closed, from its own thread, at any time.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
RULES = (("kernel", P(None, "fsdp")),)


EMA = Ema()


@pytest.fixture(autouse=True, scope="module")
def _frozen():
    """What was there before this module is not searched by the collections below: a second each, and no read is in it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _collected():
    """Abandoned reads are collected here, under this module's filter, and not in the middle of another test."""
    yield
    gc.collect()


def make(width=8, ema=EMA, **where):
    rng = np.random.default_rng(0)
    params = {"a": {"kernel": jnp.asarray(rng.normal(size=(300, width)), jnp.float32), "bias": jnp.ones(width)}}
    return init_state(params, optax.adam(1e-2), ema, aux={"key": jax.random.key(5), "on": jnp.array(True)}, **where)


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(*map(raw, (x, y))), a, b)


def raw(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def test_a_sum_on_the_host_is_that_of_a_device():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(7, 5)), jnp.float32)
    leaves = [rows, rows.T, jnp.float32(3), jnp.array([True, False]), jnp.zeros((0, 3)), jax.random.key(5)]
    leaves += [rows.astype(kind) for kind in (jnp.bfloat16, jnp.float16, jnp.int8, jnp.uint8, jnp.int32)]
    assert [_bits_sum_on_host(leaf) for leaf in leaves] == [int(_fingerprint_on_devices([leaf])) for leaf in leaves]
    assert _fingerprint(leaves) == int(_fingerprint_on_devices(leaves))
    assert _bits_sum_on_host(np.float64(1.5)) == 0x3FF80000


def test_each_device_writes_its_part_of_what_is_large_alone(tmp_path, monkeypatch):
    """By the slices that Orbax asks for."""
    whole = jax.NamedSharding(make_mesh(8), P())
    small, large = (jax.device_put(np.ones((8, n), np.float32), whole) for n in (4, MIN_SLICE_BYTES // 4))
    asked = []
    slices = replica_slices.get_replica_slices

    def noted(arr, *given, **told):
        found = slices(arr, *given, **told)
        asked.append((arr.size, len(found.replica_slices)))
        return found

    monkeypatch.setattr(replica_slices, "get_replica_slices", noted)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, init_state({"a": small, "b": large}, optax.sgd(1.0)), {}, {})
    assert {size: count for size, count in asked if size > 1} == {small.size: 1, large.size: 8}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Steps 1 and 2 of a run; the states that they hold differ."""
    folder, state = tmp_path_factory.mktemp("written"), make()
    with Checkpointer(folder) as checkpointer:
        for step in (1, 2):
            held = jax.tree.map(lambda x, n=step: x + n if x.dtype == jnp.float32 else x, state)
            checkpointer.save(step, held, {"next_step": step}, {"name": "clip"})
    return folder


@pytest.fixture
def saved(written, tmp_path):
    """A copy of them, for one test to change."""
    return shutil.copytree(written, tmp_path, dirs_exist_ok=True)


def largest(directory, item):
    files = [path for path in (directory / item).rglob("*") if path.is_file() and path.suffix != ".txt"]
    return max(files, key=lambda path: path.stat().st_size)


def test_round_trip_to_another_layout(tmp_path):
    state = make(mesh=make_mesh(4, 2), rules=RULES)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(3, state, {"next_step": 3}, {"name": "clip"})
        assert checkpointer.latest_step() == 3
    for mesh in (make_mesh(2, 4), make_mesh(1, 1, devices=jax.devices()[:1])):
        target = make(mesh=mesh, rules=RULES)
        with Checkpointer(tmp_path) as checkpointer:
            got, data, meta = checkpointer.restore(target)
        assert (data, meta) == ({"next_step": 3}, {"name": "clip"})
        assert jax.tree.structure(got) == jax.tree.structure(state)
        same(got, state)
        jax.tree.map(lambda x, y: x.sharding == y.sharding or pytest.fail(str(x.sharding)), got, target)


def test_save_holds_the_state_of_its_moment(tmp_path):
    # The next steps overwrite the donated buffers while the file is written.
    tx = optax.adam(1e-2)
    loss = lambda p, ctx, batch, key: (jnp.sum(p["a"]["kernel"] ** 2, axis=0), {}, ctx.aux)  # noqa: E731
    step = jax.jit(make_train_step(loss, tx, Ema()), donate_argnums=0)
    state, _ = step(make(width=2000), {}, jax.random.key(0))
    expected = jax.tree.map(lambda x: np.array(raw(x)), state)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, {}, {})
        for _ in range(10):
            state, _ = step(state, {}, jax.random.key(0))
        got, _, _ = checkpointer.restore(state)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(raw(x), y), got, expected)


def test_keeps_the_newest(saved):
    with Checkpointer(saved, keep=2) as checkpointer:
        checkpointer.save(5, make(), {}, {})
        checkpointer.save(5, make(), {}, {})
        assert checkpointer.steps() == [2, 5]
        same(checkpointer.restore(make(), step=2)[0].params["a"]["bias"], np.full(8, 3.0))


def test_params_without_a_model(saved):
    got = restore_params(saved)
    assert isinstance(got["a"]["kernel"], np.ndarray)
    same(got, jax.tree.map(lambda x: x + 2, make().ema))
    same(restore_params(saved, "params", step=1), jax.tree.map(lambda x: x + 1, make().params))


def test_missing(saved, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with Checkpointer(empty) as checkpointer:
        assert checkpointer.latest_step() is None
        with pytest.raises(UserError, match=f"no checkpoint in {empty}"):
            checkpointer.restore(make())
    with pytest.raises(UserError, match="no checkpoint in"):
        restore_params(empty)
    with pytest.raises(UserError, match="no checkpoint folder"):
        restore_params(empty / "nowhere")
    assert not (empty / "nowhere").exists()
    with pytest.raises(UserError, match=r"no checkpoint of step 7 .* nearest: 2"):
        restore_params(saved, step=7)
    with pytest.raises(UserError, match="did you mean 'params'"):
        restore_params(saved, "param")
    with pytest.raises(UserError, match="keep 0"):
        Checkpointer(saved, keep=0)
    (empty / "file").write_text("")
    with pytest.raises(UserError, match="cannot open the checkpoint folder"):
        Checkpointer(empty / "file")


@pytest.mark.parametrize("item", ["params", "ema", "train", "data", "meta"])
def test_truncated_names_the_step_and_the_whole_one(saved, item):
    path = largest(saved / "2", item)
    os.truncate(path, path.stat().st_size // 2)
    with Checkpointer(saved) as checkpointer:
        with pytest.raises(UserError, match=f"checkpoint step 2 in {saved} is damaged .*; step 1 is whole") as caught:
            checkpointer.restore(make())
        assert "\n" not in str(caught.value)
        assert checkpointer.steps() == [1, 2]
    if item in ("ema", "meta"):
        with pytest.raises(UserError, match=f"checkpoint step 2 in {saved} is damaged"):
            restore_params(saved)


def test_altered_byte_is_noticed(saved):
    path = largest(saved / "2", "params")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with Checkpointer(saved) as checkpointer, pytest.raises(UserError, match=r"step 2 .* damaged.*; step 1 is whole"):
        checkpointer.restore(make())
    with pytest.raises(UserError, match="damaged"):
        restore_params(saved, "params")


def test_falls_back_only_when_told(saved):
    path = largest(saved / "2", "train")
    os.truncate(path, path.stat().st_size // 2)
    with Checkpointer(saved, fall_back=True) as checkpointer:
        with pytest.raises(UserError, match=r"step 2 .* damaged"):
            checkpointer.restore(make(), step=2)
        assert checkpointer.restore(make())[1] == {"next_step": 1}
        assert checkpointer.steps() == [1]
        checkpointer.save(2, make(), {"next_step": 2}, {})
        assert checkpointer.restore(make())[1] == {"next_step": 2}
    assert (saved / "2.corrupt").is_dir()


def test_all_damaged(saved):
    for step in "12":
        path = largest(saved / step, "params")
        os.truncate(path, path.stat().st_size // 2)
    with (
        Checkpointer(saved, fall_back=True) as checkpointer,
        pytest.raises(UserError, match="no older checkpoint is whole"),
    ):
        checkpointer.restore(make())


def test_another_configuration(saved):
    def other(key, **changed):
        state = make()
        return type(state)(**{**{f: getattr(state, f) for f in state.__dataclass_fields__}, **changed})

    with Checkpointer(saved) as checkpointer:
        with pytest.raises(UserError, match=r"step 2 .* has params 'a/bias' of shape \(8,\), the run wants \(6,\)"):
            checkpointer.restore(make(width=6))
        with pytest.raises(UserError, match="holds ema, params, train, the run wants params, train"):
            checkpointer.restore(make(ema=None))
        with pytest.raises(UserError, match="lacks params 'b' of shape"):
            checkpointer.restore(other("params", params=make().params | {"b": jnp.ones(2)}))
        with pytest.raises(UserError, match="has params 'a/bias', which the run does not"):
            checkpointer.restore(other("params", params={"a": {"kernel": make().params["a"]["kernel"]}}))


@pytest.mark.parametrize("wrapped", [False, True])
def test_full_disk_at_once(saved, monkeypatch, wrapped):
    full = OSError(errno.ENOSPC, "No space left on device")
    with Checkpointer(saved) as checkpointer:

        def fail(*args, **kwargs):
            if wrapped:
                raise RuntimeError("could not write") from full
            raise full

        with monkeypatch.context() as patch:
            patch.setattr(checkpointer._manager, "save", fail)
            with pytest.raises(UserError, match=f"the disk is full.* {saved}; the last good checkpoint is step 2"):
                checkpointer.save(3, make(), {}, {})
        same(checkpointer.restore(make())[0].params["a"]["bias"], np.full(8, 3.0))
        checkpointer.save(3, make(), {}, {})
        assert checkpointer.latest_step() == 3


def test_full_disk_in_the_background(saved, monkeypatch, caplog):
    hook = threading.excepthook

    def fail():
        (saved / "3.orbax-checkpoint-tmp").mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [os_error_code='28']")

    def in_thread():
        raise OSError(errno.ENOSPC, "No space left on device")

    with Checkpointer(saved) as checkpointer:
        thread = threading.Thread(target=in_thread)  # Orbax's writer; what the hook lets through is an error here
        thread.start()
        thread.join()
        try:
            in_thread()
        except OSError:
            logging.getLogger("absl").exception("a write failed")
            assert caplog.records == []
        with monkeypatch.context() as patch:
            patch.setattr(checkpointer._manager, "wait_until_finished", fail)
            with pytest.raises(UserError, match=r"the disk is full.* the last good checkpoint is step 2"):
                checkpointer.wait()
        assert not (saved / "3.orbax-checkpoint-tmp").exists()
        assert checkpointer.latest_step() == 2
    assert threading.excepthook is hook


def test_other_failures_are_not_called_a_full_disk(saved, monkeypatch):
    with Checkpointer(saved) as checkpointer, monkeypatch.context() as patch:
        patch.setattr(checkpointer._manager, "save", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            checkpointer.save(3, make(), {}, {})
