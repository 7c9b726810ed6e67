"""A training step and inference of a U-Net beside diffusers': the same weights, the same CPU, in turn, as paired ratios.

    python benchmarks/unet_speed.py [--batch 8] [--size 32] [--rounds 9] [--out FILE]

Needs the extra `parity`. A round times each of the two once, one after the other, and the ratio is the median of the rounds'
(above 1: ours is faster). The network is UNet2DModel of 64, 128 and 128 channels, two blocks a level, attention at the level
between, 6.5 million parameters; the step is forward, backward of the squared error and AdamW in float32. Beside the times stand
the multiplications of the compiled step over those that convolutions and matrix products need.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from diffusion_jax.convert import entries
from diffusion_jax.convert.unet_config import from_diffusers
from diffusion_jax.convert.unet_keys import entries as names
from diffusion_jax.nets import Network, UNet
from diffusion_jax.train.flops import flops

ROOT = Path(__file__).parents[1]
SIZES = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [64, 128, 128],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}


def peer() -> Any:
    """diffusers' network, whose last layers are not zero."""
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**SIZES)


def ours(model: Any, x: np.ndarray, t: np.ndarray, y: np.ndarray) -> tuple[dict[str, Callable[[], Any]], float]:
    """Functions of no argument, a training step and a prediction; the compiled step's share of what is needed."""
    config = from_diffusers(json.loads(model.to_json_string()) | {"_class_name": "UNet2DModel"}, "the peer")
    tensors = {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}
    params = jax.tree.map(jnp.asarray, entries.read(names(config), tensors, "the peer", lambda name: False))
    network, tx = Network(lambda rngs: UNet(rngs, **config)), optax.adamw(1e-4, weight_decay=0.01)

    def loss(params: Any, x: Any, t: Any, y: Any) -> Any:
        return ((network.apply(params, x, t, None) - y) ** 2).mean()

    def step(params: Any, state: Any, x: Any, t: Any, y: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(params, x, t, y)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    state = tx.init(params)
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, x, t, y).compile()
    cost = lowered.cost_analysis()
    needed = flops(jax.value_and_grad(loss), params, x, t, y)
    held = {"params": jax.tree.map(jnp.array, params), "state": state}
    given = [jnp.asarray(array) for array in (x, t, y)]

    def train() -> float:
        held["params"], held["state"], value = lowered(held["params"], held["state"], *given)
        return float(value)

    predict = jax.jit(lambda params, x, t: network.apply(params, x, t, None))
    return {"train": train, "predict": lambda: np.asarray(predict(params, *given[:2]))}, cost["flops"] / needed


def theirs(model: Any, x: np.ndarray, t: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The same of diffusers."""
    pixels, wanted = (torch.from_numpy(array.transpose(0, 3, 1, 2).copy()) for array in (x, y))
    times = torch.from_numpy(t)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)

    def train() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(pixels, times).sample, wanted)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def predict() -> np.ndarray:
        with torch.inference_mode():
            return model(pixels, times).sample.numpy().transpose(0, 2, 3, 1)

    return {"train": train, "predict": predict}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "unet_speed_cpu.json")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    rng = np.random.default_rng(0)
    shape = (arguments.batch, arguments.size, arguments.size, 3)
    x, y = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    t = rng.integers(0, 1000, arguments.batch).astype(np.float32)
    model = peer()
    mine, share = ours(model, x, t, y)
    other = theirs(model, x, t, y)
    results: dict[str, Any] = {}
    for name in ("predict", "train"):
        first = (mine[name](), other[name]())  # compiles, and shows that both do the same
        error = float(np.max(np.abs(np.asarray(first[0]) - np.asarray(first[1]))))
        seconds: list[tuple[float, float]] = []
        for done in range(arguments.rounds):
            taken = {}
            for which in ("ours", "theirs") if done % 2 == 0 else ("theirs", "ours"):
                start = time.perf_counter()
                (mine if which == "ours" else other)[name]()
                taken[which] = time.perf_counter() - start
            seconds.append((taken["ours"], taken["theirs"]))
            print(
                f"{name} {done + 1}/{arguments.rounds}: ours {taken['ours']:.3f} s, diffusers {taken['theirs']:.3f} s"
            )
        ratios = sorted(b / a for a, b in seconds)
        results[name] = {
            "seconds_ours": statistics.median(a for a, _ in seconds),
            "seconds_diffusers": statistics.median(b for _, b in seconds),
            "ratio": statistics.median(ratios),
            "ratio_low_high": [ratios[0], ratios[-1]],
            "difference": error,
        }
        print(name, json.dumps(results[name]), flush=True)
    results["flops_over_needed"] = share
    versions = {"jax": jax.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
    about = {"batch": arguments.batch, "size": arguments.size, "rounds": arguments.rounds, "cores": os.cpu_count()}
    about |= {"python": platform.python_version(), **versions}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(about | {"results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
