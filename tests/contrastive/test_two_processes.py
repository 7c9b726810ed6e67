"""The losses over two processes, each with its own rows, against one process with all."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import environment, free_address

from diffusion_jax.contrastive import found, infonce, sigmoid_loss

ROOT = Path(__file__).parent.parent.parent
BATCH, EMBED = 20, 5

WORKER = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
address, rank, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(address, 2, rank)
from jax.experimental import multihost_utils
from diffusion_jax.contrastive import found, infonce, sigmoid_loss
from diffusion_jax.parallel.mesh import make_mesh, put_batch

assert jax.process_count() == 2 and len(jax.devices()) == 4 and len(jax.local_devices()) == 2
mesh = make_mesh(2, 2)
whole = dict(np.load(folder + "/batch.npz"))
rows = len(whole["image"]) // 2
own = {name: array[rank * rows : (rank + 1) * rows] for name, array in whole.items()}
batch = put_batch(own, mesh)
options = {"mesh": mesh, "chunk": 3}

def losses(image, text, scale, bias, batch):
    options_ = options | {"identity": batch["identity"]}
    per_example = infonce(image, text, scale, **options_) + sigmoid_loss(image, text, scale, bias, **options_)
    return (per_example * batch["weight"]).mean(), (per_example, found(image, text, **options))

step = jax.jit(jax.value_and_grad(losses, (0, 1, 2, 3), has_aux=True))
out = step(batch["image"], batch["text"], jnp.float32(6.0), jnp.float32(-2.0), batch)
leaves = [np.asarray(multihost_utils.process_allgather(leaf, tiled=True)) for leaf in jax.tree.leaves(out)]
np.savez(f"{folder}/rank{rank}.npz", *leaves)
jax.distributed.shutdown()
"""


def batch_of_pairs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, BATCH, EMBED)).astype(np.float32)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    weight = rng.normal(size=BATCH).astype(np.float32)
    return {"image": x[0], "text": x[1], "identity": rng.integers(0, 9, BATCH).astype(np.int32), "weight": weight}


@pytest.mark.timeout(120)
def test_two_processes_see_one_batch(tmp_path):
    np.savez(tmp_path / "batch.npz", **batch_of_pairs())
    env = environment(devices=2, JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo")
    command = [sys.executable, "-c", WORKER, free_address()]
    with (
        subprocess.Popen([*command, "0", str(tmp_path)], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as one,
        subprocess.Popen([*command, "1", str(tmp_path)], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as two,
    ):
        try:
            errors = [worker.communicate(timeout=90)[1] for worker in (one, two)]
        finally:
            one.kill()
            two.kill()
    assert (one.returncode, two.returncode) == (0, 0), json.dumps(errors)[-2000:]

    batch = {name: jnp.asarray(array) for name, array in batch_of_pairs().items()}

    def losses(image, text, scale, bias):
        identity = {"identity": batch["identity"]}
        per_example = infonce(image, text, scale, **identity) + sigmoid_loss(image, text, scale, bias, **identity)
        return (per_example * batch["weight"]).mean(), (per_example, found(image, text))

    step = jax.value_and_grad(losses, (0, 1, 2, 3), has_aux=True)
    wanted = jax.tree.leaves(step(batch["image"], batch["text"], jnp.float32(6.0), jnp.float32(-2.0)))
    for rank in (0, 1):
        with np.load(tmp_path / f"rank{rank}.npz") as got:
            assert len(got.files) == len(wanted)
            for name, want in zip(got.files, wanted):
                np.testing.assert_allclose(got[name], want, rtol=2e-5, atol=1e-6)
