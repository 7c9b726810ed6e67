"""A small regression that the tests of the loop train, also as a script: `python small.py RUN STEPS [what to do]`."""

import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.parallel.mesh import make_mesh
from diffusion_jax.train.checkpoint import Checkpointer
from diffusion_jax.train.ema import Ema
from diffusion_jax.train.loop import fit
from diffusion_jax.train.optim import adamw, muon
from diffusion_jax.train.runlog import RunLog
from diffusion_jax.train.state import init_state

ROWS = 16


def init(key):
    a, b = jax.random.split(key)
    return {
        "in": {"kernel": jax.random.normal(a, (4, 32)) / 2, "bias": jnp.zeros(32)},
        "out": {"kernel": jax.random.normal(b, (32, 1)) / 6, "bias": jnp.zeros(1)},
    }


def loss_fn(params, ctx, batch, key):
    x = batch["x"] + 0.05 * jax.random.normal(key, batch["x"].shape)
    h = jnp.tanh(x @ params["in"]["kernel"] + params["in"]["bias"][None])
    y = h @ params["out"]["kernel"] + params["out"]["bias"][None]
    error = (y - batch["y"])[:, 0]
    return error**2, {"error": jnp.abs(error)}, ctx.aux


def batches(step):
    x = np.random.default_rng([7, step]).normal(size=(ROWS, 4)).astype(np.float32)
    return {"x": x, "y": np.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]}


def turned(rate, warmup, total, **options):
    """Muon for the first kernel, as wide as its layer."""
    return muon(rate, warmup, total, hidden=("in/kernel",), **options)


def train(steps, *, data=1, fsdp=1, rules=(), directory=None, log=None, make=adamw, **options):
    mesh = make_mesh(data, fsdp, devices=jax.devices()[: data * fsdp])
    tx = make(3e-3, 5, 1000, weight_decay=0.01, clip_norm=1.0)
    ema = Ema(0.99)
    state = init_state(init(jax.random.key(0)), tx, ema, mesh=mesh, rules=rules)
    settings = {"loss_fn": loss_fn, "batches": batches, "progress": False} | options
    settings |= {"tx": tx, "ema": ema, "steps": steps, "mesh": mesh, "batch_size": ROWS, "rules": rules, "log": log}
    if directory is None:
        return fit(state=state, key=jax.random.key(1), **settings)
    with Checkpointer(directory) as checkpointer:
        return fit(state=state, key=jax.random.key(1), checkpointer=checkpointer, **settings)


def main(run, steps, act="", at="0"):
    """`kill` and `term` send that signal to this process when the batch of step `at` is made (not saved before)."""

    def acting(step):
        if act and step == int(at):
            time.sleep(0.3)  # the checkpoint before it is complete, and the steps between have run
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM}[act])
        return batches(step)

    log = RunLog(Path(run) / "log", {"run": "small"})
    state = train(
        int(steps), directory=Path(run) / "checkpoints", log=log, batches=acting, checkpoint_every=10, log_every=5
    )
    np.savez(Path(run) / "final.npz", *jax.tree.leaves((state.params, state.ema, state.opt_state)))
    heavy = sorted({"tensorflow", "torch"} & sys.modules.keys())
    print("imported:", heavy)


if __name__ == "__main__":
    main(*sys.argv[1:])
