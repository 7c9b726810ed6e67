"""A training step and inference of CLIP beside open_clip: the same weights, the same CPU, in turn, as paired ratios.

    python benchmarks/clip_speed.py [--model ViT-B-32] [--batch 8] [--rounds 9] [--out FILE]

Needs the extra `parity`. A round times each of the two once, one after the other, and the ratio is the median of the rounds'
(above 1: ours is faster). The training step is forward, backward and AdamW in float32; so is open_clip's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "parity"), str(ROOT / "tests" / "convert")]

import conftest  # noqa: E402, F401
import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import torch  # noqa: E402
from families import Family, make, published  # noqa: E402
from filled import inputs  # noqa: E402

from diffusion_jax.convert import load_clip  # noqa: E402
from diffusion_jax.nets import CLIP, Network  # noqa: E402
from diffusion_jax.systems.clip.loss import clip_loss  # noqa: E402
from diffusion_jax.train.optim import adamw  # noqa: E402
from diffusion_jax.train.state import init_state  # noqa: E402
from diffusion_jax.train.step import make_train_step  # noqa: E402


def ours(folder: str, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """Functions of no argument: a training step, the image encoder, the text encoder."""
    config, params = load_clip(folder)
    network = Network(lambda rngs: CLIP(rngs, **{k: config[k] for k in ("embed", "vision", "text", "logit_bias")}))
    tx = adamw(1e-5, 0, 1000, weight_decay=0.2)
    state = init_state(jax.tree.map(jax.numpy.asarray, params), tx, None)
    step = jax.jit(make_train_step(clip_loss(network.apply), tx, None), donate_argnums=0)
    held = {"state": state}

    def train() -> float:
        held["state"], metrics = step(held["state"], batch, jax.random.key(0))
        return float(metrics["loss"])

    encode = {name: jax.jit(network.method(f"encode_{name}")) for name in ("image", "text")}
    fixed = jax.tree.map(jax.numpy.asarray, params)
    return {
        "train": train,
        "image": lambda: np.asarray(encode["image"](fixed, batch["image"]).embedding),
        "text": lambda: np.asarray(encode["text"](fixed, batch["tokens"]).embedding),
    }


def theirs(model: Any, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """The same of open_clip."""
    import open_clip

    pixels = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy())
    tokens = torch.from_numpy(batch["tokens"].astype(np.int64))
    loss_fn = open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.2)

    def train() -> float:
        optimizer.zero_grad()
        image, text, scale = model(pixels, tokens)
        loss = loss_fn(image, text, scale)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def image() -> np.ndarray:
        with torch.inference_mode():
            return model.encode_image(pixels).numpy()

    def text() -> np.ndarray:
        with torch.inference_mode():
            return model.encode_text(tokens).numpy()

    return {"train": train, "image": image, "text": text}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "clip_speed_cpu.json")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    family = Family(arguments.model, "", lambda: published(arguments.model, quick=True), "open_clip")
    with tempfile.TemporaryDirectory() as folder:
        model, _ = make(family, folder)
        images, tokens = inputs(model.visual.image_size[0], 49408, 77)
        rows = np.arange(arguments.batch) % len(images)
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((arguments.batch, *images.shape[1:])).astype(np.float32)
        batch = {"image": images[rows] + 0.1 * noise, "tokens": tokens[rows].astype(np.int32)}
        mine, peer = ours(folder, batch), theirs(model, batch)
    results = {}
    for name in ("image", "text", "train"):
        first = (mine[name](), peer[name]())  # compiles, and shows that both do the same
        error = float(np.max(np.abs(np.asarray(first[0]) - np.asarray(first[1]))))
        seconds: list[tuple[float, float]] = []
        for done in range(arguments.rounds):
            pair = []
            for run in (mine[name], peer[name]) if done % 2 == 0 else (peer[name], mine[name]):
                start = time.perf_counter()
                run()
                pair.append(time.perf_counter() - start)
            seconds.append((pair[0], pair[1]) if done % 2 == 0 else (pair[1], pair[0]))
            print(
                f"{name} {done + 1}/{arguments.rounds}: ours {seconds[-1][0]:.3f} s, open_clip {seconds[-1][1]:.3f} s"
            )
        ratios = sorted(b / a for a, b in seconds)
        results[name] = {
            "seconds_ours": statistics.median(a for a, _ in seconds),
            "seconds_open_clip": statistics.median(b for _, b in seconds),
            "ratio": statistics.median(ratios),
            "ratio_low_high": [ratios[0], ratios[-1]],
            "difference": error,
        }
        print(name, json.dumps(results[name]), flush=True)
    import open_clip

    versions = {"jax": jax.__version__, "torch": torch.__version__, "open_clip": open_clip.__version__}
    about = {"model": arguments.model, "batch": arguments.batch, "rounds": arguments.rounds, "cores": os.cpu_count()}
    about |= {"python": platform.python_version(), "optax": optax.__version__, **versions}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(about | {"results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
