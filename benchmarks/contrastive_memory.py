"""Temporary memory of contrastive training as compiled: losses against the batch, whole steps against micro-batches.

    python benchmarks/contrastive_memory.py [--out FILE] [--embed 512] [--chunk 1024]

No array is made: each program is lowered on shapes and compiled, and XLA's own plan of its buffers is read. Bytes are those
of one device; the losses are on 1 and on 8 simulated CPU devices, the whole gradient of a CLIP ViT-B/32 on 1. Under a
minute on two cores; no accelerator.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import jaxlib
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from diffusion_jax.contrastive import infonce, sigmoid_loss
from diffusion_jax.nets import CLIP, Network
from diffusion_jax.nets.presets import clip_model
from diffusion_jax.systems.clip.loss import clip_loss
from diffusion_jax.typing import Context

BATCHES = (1024, 2048, 4096, 8192, 16384, 32768)
DEVICES = (1, 8)
WAYS = ("plain", "rows", "blocks")
MICRO_BATCHES = (1, 2, 4, 8, 16)
TOWERS, TOWERS_BATCH = "ViT-B-32", 1024
OUT = Path(__file__).parent / "results" / "contrastive_memory_cpu.json"


def planned(lowered: Any) -> int:
    """Bytes of temporary buffers of a lowered program on one device, by XLA's plan."""
    return int(lowered.compile().memory_analysis().temp_size_in_bytes)


def temporary_bytes(loss: str, way: str, batch: int, devices: int, embed: int, chunk: int) -> int:
    """XLA's temporary buffers of one device for the mean loss and its gradients, in bytes.

    way: "plain" (the formula, spread by XLA), "rows" (own rows against all columns), "blocks" (`chunk` columns at a time).
    """
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    options: dict[str, Any] = {
        "plain": {}, "rows": {"mesh": mesh, "axes": ("data",)}, "blocks": {"mesh": mesh, "axes": ("data",), "chunk": chunk},
    }[way]  # fmt: skip

    def mean(image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        if loss == "infonce":
            return infonce(image, text, scale, **options).mean()
        return sigmoid_loss(image, text, scale, bias, **options).mean()

    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    embedding = jax.ShapeDtypeStruct((batch, embed), jnp.float32, sharding=rows)
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    step = jax.jit(jax.value_and_grad(mean, (0, 1, 2, 3)), out_shardings=(whole, (rows, rows, whole, whole)))
    return planned(step.lower(embedding, embedding, scalar, scalar))


def step_bytes(micro_batches: int, chunk: int) -> int:
    """XLA's temporary buffers for the gradient of a whole CLIP of `TOWERS_BATCH` pairs, scanned layers, float32."""
    sizes = clip_model(TOWERS, vision={"scan": True}, text={"scan": True})
    network = Network(lambda rngs: CLIP(rngs, **sizes))
    encoders = (network.method("encode_image"), network.method("encode_text"))
    loss_fn = clip_loss(network.apply, encoders=encoders, micro_batches=micro_batches, chunk=chunk)
    key = jax.eval_shape(jax.random.key, 0)
    side, context = sizes["vision"]["image_size"], sizes["text"]["context_length"]
    batch = {
        "image": jax.ShapeDtypeStruct((TOWERS_BATCH, side, side, 3), jnp.float32),
        "tokens": jax.ShapeDtypeStruct((TOWERS_BATCH, context), jnp.int32),
    }
    step = jax.jit(jax.grad(lambda params, batch, key: loss_fn(params, Context(), batch, key)[0].mean()))
    return planned(step.lower(jax.eval_shape(network.init, key), batch, key))


def table(rows: list[dict[str, Any]], loss: str) -> str:
    """Markdown: a line a batch, a column a way and number of devices, in MB (10^6 bytes)."""
    lines = ["| batch | " + " | ".join(f"{way}, {n} dev." for n in DEVICES for way in WAYS) + " |"]
    lines += ["|---" * (1 + len(DEVICES) * len(WAYS)) + "|"]
    sizes = {(r["loss"], r["way"], r["batch"], r["devices"]): r["temporary_bytes"] for r in rows}
    for batch in BATCHES:
        cells = [f"{sizes[loss, way, batch, n] / 1e6:,.1f}" for n in DEVICES for way in WAYS]
        lines += [f"| {batch} | " + " | ".join(cells) + " |"]
    return "\n".join(lines)


def main() -> None:
    """Measures every case, writes the numbers and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--embed", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=1024)
    args = parser.parse_args()
    cases = [(loss, way, n, b) for loss in ("infonce", "sigmoid") for n in DEVICES for way in WAYS for b in BATCHES]
    rows, started = [], time.perf_counter()
    for done, (loss, way, devices, batch) in enumerate(cases, 1):
        size = temporary_bytes(loss, way, batch, devices, args.embed, args.chunk)
        rows += [{"loss": loss, "way": way, "devices": devices, "batch": batch, "temporary_bytes": size}]
        spent = time.perf_counter() - started
        left = spent / done * (len(cases) - done)
        print(
            f"[{done}/{len(cases)}] {loss} {way} batch {batch} on {devices}: {size / 1e6:,.1f} MB; {left:.0f} s left",
            flush=True,
        )
    towers = []
    for count in MICRO_BATCHES:
        towers += [{"micro_batches": count, "temporary_bytes": step_bytes(count, args.chunk)}]
        size = towers[-1]["temporary_bytes"]
        print(f"{TOWERS}, batch {TOWERS_BATCH}, {count} micro-batches: {size / 1e9:.2f} GB", flush=True)
    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "python": platform.python_version()}
    settings = {"embed": args.embed, "chunk": args.chunk, "dtype": "float32", "platform": "cpu, simulated devices"}
    settings |= {"towers": TOWERS, "towers_batch": TOWERS_BATCH}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results = {"versions": versions, "settings": settings, "rows": rows, "towers": towers}
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    for loss in ("infonce", "sigmoid"):
        print(f"\n{loss}, MB of one device\n{table(rows, loss)}")
    print(f"\nwrote {args.out}")


if __name__ == "__main__":
    main()
