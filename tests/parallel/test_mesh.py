import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, PartitionSpec

from diffusion_jax.parallel.mesh import batch_devices, batch_sharding, check_batch, make_mesh, put_batch
from diffusion_jax.typing import UserError


@pytest.mark.parametrize(("data", "fsdp", "shape"), [(-1, 1, (8, 1)), (-1, 2, (4, 2)), (2, -1, (2, 4)), (1, 8, (1, 8))])
def test_mesh_fills_the_devices(data, fsdp, shape):
    mesh = make_mesh(data, fsdp)
    assert tuple(mesh.shape[axis] for axis in ("data", "fsdp")) == shape
    assert mesh.axis_types == (AxisType.Auto,) * 3 and mesh.shape["tensor"] == 1


def test_devices_of_a_tensor_axis_see_the_same_examples():
    mesh = make_mesh(-1, 1, 2)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 1, "tensor": 2} and batch_devices(mesh) == 4
    check_batch(4, mesh)
    placed = put_batch({"x": np.arange(8)}, mesh)["x"]
    rows = {shard.device.id: np.asarray(shard.data).tolist() for shard in placed.addressable_shards}
    for first, second in mesh.devices.reshape(-1, 2):
        assert rows[first.id] == rows[second.id]
    assert sorted(map(tuple, rows.values()))[::2] == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_a_tensor_axis_stays_within_a_process(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    assert make_mesh(tensor=4).shape["data"] == 2
    with pytest.raises(UserError, match="tensor=8: 8 does not divide the 4 devices of a process; nearest: 4"):
        make_mesh(tensor=8)


def test_mesh_of_some_devices():
    assert make_mesh(devices=jax.devices()[:2]).size == 2


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((-1, 3), "fsdp=3: 3 does not divide the 8 devices; nearest: 2"),
        ((3, 2), "is 6 devices, there are 8; nearest: data=4, fsdp=2"),
        ((-1, -1), "at most one of data and fsdp is -1"),
        ((0, 1), "at least 1"),
        ((-1, 1, 0), "tensor=0: each size is at least 1"),
        ((-1, 1, 3), "tensor=3: 3 does not divide the 8 devices; nearest: 2"),
        ((-1, 8, 2), "tensor=2: 8 does not divide the 4 devices; nearest: 4"),
        ((8, 1, 2), "is 16 devices, there are 8; nearest: data=4, fsdp=1"),
        ((-1, 2, 2), "fsdp and tensor do not go together .* nearest: fsdp=4, tensor=1 or fsdp=1, tensor=2"),
    ],
)
def test_mesh_that_does_not_fit(sizes, says):
    with pytest.raises(UserError, match=says):
        make_mesh(*sizes)


def test_batch_size_names_the_nearest():
    mesh = make_mesh()
    check_batch(96, mesh)
    with pytest.raises(
        UserError, match="batch_size 100 is not divided by the 8 devices of the mesh; nearest: 96 or 104"
    ):
        check_batch(100, mesh)
    with pytest.raises(UserError, match=r"batch_size 3 .* nearest: 8"):
        check_batch(3, mesh)


@settings(max_examples=10, deadline=None)
@given(rows=st.integers(1, 4), fsdp=st.sampled_from([1, 2, 4, 8]))
def test_put_batch_keeps_values_and_splits_rows(rows, fsdp):
    mesh = make_mesh(-1, fsdp)
    batch = {"x": np.arange(rows * 8 * 3.0, dtype=np.float32).reshape(rows * 8, 3), "c": {"y": np.arange(rows * 8)}}
    put = put_batch(batch, mesh)
    np.testing.assert_array_equal(put["x"], batch["x"])
    np.testing.assert_array_equal(put["c"]["y"], batch["c"]["y"])
    assert put["x"].sharding == batch_sharding(mesh)
    assert put["x"].sharding.spec == PartitionSpec(("data", "fsdp"))
    assert {shard.data.shape for shard in put["x"].addressable_shards} == {(rows, 3)}


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ({"caption": ["a"] * 8}, "of type str"),
        ({"caption": np.array(["a"] * 8)}, r"dtype <U1"),
        ({"x": np.zeros(8), "n": None}, "of type NoneType"),
        ({"n": np.array(8)}, "scalar"),
        ({"n": 8}, "of type int"),
        ({"x": np.zeros(8), "y": np.zeros(16)}, "differ in their first axis"),
        ({"x": np.zeros(12)}, "batch_size 12 is not divided"),
    ],
)
def test_put_batch_drops_nothing_silently(batch, says):
    with pytest.raises(UserError, match=says):
        put_batch(batch, make_mesh())
