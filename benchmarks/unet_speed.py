"""A U-Net's training step and inference beside diffusers': the same weights, the same device, in turn, as paired ratios.

    python benchmarks/unet_speed.py [--network small] [--batch 8] [--dtype float32] [--rounds 11] [--out FILE]

Needs the extra `parity`. A round times each of the two once, one after the other, and the ratio is the median of the rounds'
(above 1: ours is faster). The training step is forward, backward of the mean squared error, and AdamW; so is diffusers'.
`--network` is "small", the 6.5 million parameters of the table below, or "sd15", Stable Diffusion 1's, of random weights.
"bfloat16" computes in it and keeps the parameters in float32, on the other side by torch.autocast; on a GPU float32 products
are TensorFloat-32 on both. The peer is eager on a CPU; with `--compile`, through torch.compile (its first call is not timed).
Beside the times, on a CPU: the compiled step's operations (XLA's count) over the analytic count of products and convolutions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import jax
import numpy as np
import optax
import torch

from diffusion_jax.parallel.accelerator import spread_convolutions
from diffusion_jax.systems.diffusion.pretrained import load_network
from diffusion_jax.train.flops import flops
from diffusion_jax.train.optim import adamw
from diffusion_jax.train.state import init_state
from diffusion_jax.train.step import make_train_step

ROOT = Path(__file__).parents[1]
SMALL = {
    "sample_size": 32,
    "block_out_channels": (64, 128, 128),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 64,
}
spread_convolutions()  # as the commands do
GPU = jax.default_backend() == "gpu"
DEVICE = "cuda" if GPU else "cpu"


def peer_of(name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """(diffusers' network of random weights, the shapes of what it is given)."""
    torch.manual_seed(0)
    if name == "small":
        return diffusers.UNet2DModel(**SMALL), {"size": 32, "channels": 3, "tokens": None}
    sd = diffusers.UNet2DConditionModel(cross_attention_dim=768, sample_size=64)
    return sd, {"size": 64, "channels": 4, "tokens": (77, 768)}


def ours(folder: str, batch: dict[str, np.ndarray], dtype: str) -> dict[str, Any]:
    """Functions of no argument, "train" and "apply", and the step with its arguments."""
    found = load_network(folder, dtype=dtype)
    network = found.network

    def predict(params: Any, batch: Any) -> Any:
        cond = {"tokens": batch["tokens"]} if "tokens" in batch else None
        return network.apply(params, batch["x"], batch["t"], cond)

    def loss_fn(params: Any, ctx: Any, batch: Any, key: Any) -> Any:
        return ((predict(params, batch) - batch["wanted"]) ** 2).mean((1, 2, 3)), {}, None

    tx = adamw(1e-5, 0, 1000, weight_decay=0.01)
    plain = make_train_step(loss_fn, tx, None)
    step, apply = jax.jit(plain, donate_argnums=0), jax.jit(predict)
    on_device = jax.device_put(batch)
    state, key = init_state(jax.tree.map(jax.numpy.array, found.params), tx, None), jax.random.key(0)
    analytic = flops(plain, state, on_device, key)
    said = step.lower(state, on_device, key).compile().cost_analysis()
    held = {"state": state}

    def train() -> float:
        held["state"], metrics = step(held["state"], on_device, key)
        return float(metrics["loss"])

    return {
        "train": train,
        "apply": lambda: np.asarray(apply(found.params, on_device)),
        "flops": {
            "analytic": analytic,
            "compiled": (said[0] if isinstance(said, list) else said or {}).get("flops", float("nan")),
        },
        "parameters": sum(x.size for x in jax.tree.leaves(found.params)),
    }


def theirs(model: Any, batch: dict[str, np.ndarray], dtype: str, compiled: bool) -> dict[str, Any]:
    """The same of diffusers."""
    model = model.to(DEVICE).train()
    x, wanted = (torch.from_numpy(batch[n].transpose(0, 3, 1, 2).copy()).to(DEVICE) for n in ("x", "wanted"))
    given = {"encoder_hidden_states": torch.from_numpy(batch["tokens"]).to(DEVICE)} if "tokens" in batch else {}
    t = torch.from_numpy(batch["t"]).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01)
    called: Callable[..., Any] = torch.compile(model) if compiled else model

    def predict() -> torch.Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16"):
            return called(x, t, return_dict=False, **given)[0]

    def train() -> float:
        optimizer.zero_grad()
        loss = ((predict().float() - wanted) ** 2).mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def apply() -> np.ndarray:
        with torch.inference_mode():
            return predict().float().cpu().numpy().transpose(0, 2, 3, 1)

    return {"train": train, "apply": apply}


def paired(mine: Callable[[], Any], peer: Callable[[], Any], rounds: int, name: str) -> dict[str, Any]:
    """Medians of seconds and of the rounds' ratios, after one call of each, whose results are compared."""
    first = (np.asarray(mine()), np.asarray(peer()))
    error = float(np.max(np.abs(first[0] - first[1])) / max(1.0, float(np.abs(first[1]).max())))
    seconds: list[tuple[float, float]] = []
    for done in range(rounds):
        pair = {}
        for who, call in (("a", mine), ("b", peer)) if done % 2 == 0 else (("b", peer), ("a", mine)):
            start = time.perf_counter()
            call()
            pair[who] = time.perf_counter() - start
        seconds.append((pair["a"], pair["b"]))
        print(f"{name} {done + 1}/{rounds}: ours {pair['a']:.4f} s, diffusers {pair['b']:.4f} s", flush=True)
    ratios = sorted(b / a for a, b in seconds)
    return {
        "seconds_ours": statistics.median(a for a, _ in seconds),
        "seconds_diffusers": statistics.median(b for _, b in seconds),
        "ratio": statistics.median(ratios),
        "ratio_low_high": [ratios[0], ratios[-1]],
        "difference": error,
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", default="small", choices=("small", "sd15"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    peer, shapes = peer_of(arguments.network)
    rng, size, channels = np.random.default_rng(0), shapes["size"], shapes["channels"]
    batch = {n: rng.normal(size=(arguments.batch, size, size, channels)).astype(np.float32) for n in ("x", "wanted")}
    batch["t"] = rng.integers(0, 1000, arguments.batch).astype(np.float32)
    if shapes["tokens"]:
        batch["tokens"] = rng.normal(size=(arguments.batch, *shapes["tokens"])).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        mine = ours(folder, batch, arguments.dtype)
    other = theirs(peer, batch, arguments.dtype, arguments.compile)
    results = {name: paired(mine[name], other[name], arguments.rounds, name) for name in ("apply", "train")}
    counts = mine["flops"]
    if GPU:  # XLA does not count what cuDNN does
        counts = {"analytic": counts["analytic"]}
    else:
        counts["compiled_over_analytic"] = counts["compiled"] / counts["analytic"]
    about: dict[str, Any] = {
        "network": arguments.network,
        "parameters": mine["parameters"],
        "batch": arguments.batch,
        "dtype": arguments.dtype,
        "peer_compiled": arguments.compile,
        "rounds": arguments.rounds,
        "device": torch.cuda.get_device_name() if GPU else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "optax": optax.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "flops_of_the_step": counts,
    }
    for name, found in results.items():
        print(name, json.dumps(found))
    print(f"{mine['parameters']:,} parameters; operations of a step: {counts}")
    out = arguments.out or ROOT / "benchmarks" / "results" / f"unet_speed_{jax.default_backend()}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(about | {"results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
