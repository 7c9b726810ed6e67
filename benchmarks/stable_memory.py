"""Stable Diffusion 1.5 and XL compiled for a chip that is not there: what drawing, decoding and fine-tuning need of its memory.

    python benchmarks/stable_memory.py [--out FILE] [--only NAME] [--again]

Needs `pip install -e '.[tpu]'` on Linux, and no TPU: the compiler comes with it. No array is made and nothing runs, so that
these are XLA's plans for one chip with 95 GB (v5p), of which the peak is compared with 16, 24 and 80 GB. Networks compute in
bfloat16. A row has the weights of its own part alone: text encoders and autoencoder stand beside a U-Net that draws.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from diffusion_jax.nets import Network, UNet, unet_model, vae_keywords, vae_model
from diffusion_jax.nets.vae import tiled
from diffusion_jax.process import Discrete, denoiser
from diffusion_jax.process.weighting import simple
from diffusion_jax.sampling import DDIM, classifier_free, discrete, sample
from diffusion_jax.systems.diffusion.loss import diffusion_loss
from diffusion_jax.train.ema import Ema
from diffusion_jax.train.lora import init_lora, lora_frozen, lora_loss
from diffusion_jax.train.optim import adamw
from diffusion_jax.train.state import TrainState, init_state
from diffusion_jax.train.step import make_train_step

OUT = Path(__file__).parent / "results" / "stable_memory_tpu_compiled.json"
MODELS = {"sd-1.5": (64, 768), "sdxl": (128, 2048)}
GIB = 2**30


def condition(model: str, batch: int) -> dict[str, Any]:
    """What the U-Net is told, as shapes."""
    found = {"tokens": jax.ShapeDtypeStruct((batch, 77, MODELS[model][1]), jnp.float32)}
    if model == "sdxl":
        found |= {"pooled": jax.ShapeDtypeStruct((batch, 1280), jnp.float32)}
        found |= {"ids": jax.ShapeDtypeStruct((batch, 6), jnp.float32)}
    return found


def unet(model: str, remat: str | None = None) -> Network:
    """The U-Net of its published sizes, which computes in bfloat16."""
    return Network(lambda rngs: UNet(rngs, **unet_model(model), dtype=jnp.bfloat16, remat=remat))


def weights(network: Network, dtype: Any) -> Any:
    """Its parameters as shapes."""
    shapes = jax.eval_shape(network.init, jax.eval_shape(jax.random.key, 0))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)


def drawing(model: str, batch: int, dtype: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """30 guided steps of DDIM."""
    network, schedule, edge = unet(model), Discrete("scaled_linear"), MODELS[model][0]
    ts = discrete(30, schedule)

    def draw(params: Any, x1: Any, cond: Any, away: Any) -> Any:
        model_ = classifier_free(denoiser(network.apply, params, schedule, "eps", "index"), away, 7.5)
        keys = jax.random.split(jax.random.key(0), batch)
        return sample(model_, schedule, DDIM(), x1, ts, keys, cond)

    x1 = jax.ShapeDtypeStruct((batch, edge, edge, 4), jnp.float32)
    return draw, (weights(network, dtype), x1, condition(model, batch), condition(model, batch))


def decoding(model: str, tile: int | None) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """One picture from its latent, whole or in tiles of so many latents."""
    make, config = vae_keywords(vae_model("sdxl-vae" if model == "sdxl" else "kl-f8"))
    network = Network(lambda rngs: make(rngs, **config, dtype=jnp.bfloat16))
    decode = network.method("decode")

    def run(params: Any, z: Any) -> Any:
        return decode(params, z) if tile is None else tiled(lambda part: decode(params, part), z, tile)

    edge = MODELS[model][0]
    return run, (weights(network, jnp.float32), jax.ShapeDtypeStruct((1, edge, edge, 4), jnp.float32))


def tuning(model: str, remat: str | None, rank: int | None) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A step on one latent with AdamW: of adapters of a rank, or of the whole U-Net with its average."""
    network, schedule, edge = unet(model, remat), Discrete("scaled_linear"), MODELS[model][0]
    loss = diffusion_loss(
        network.apply, schedule, prediction="eps", time="index", space="eps", weight=simple(),
        sample_t=lambda key, size, schedule: jax.random.uniform(key, (size,), minval=schedule.t_min),
    )  # fmt: skip
    base, tx, ema = weights(network, jnp.float32), adamw(1e-4, 100, 10_000), None if rank else Ema(0.9999)
    trained, frozen = base, None
    if rank is not None:
        trained = jax.eval_shape(lambda params: init_lora(params, jax.random.key(0), rank=rank), base)
        frozen, loss = lora_frozen(base), lora_loss(loss)
    state = jax.eval_shape(lambda params: init_state(params, tx, ema), trained)
    batch = {"image": jax.ShapeDtypeStruct((1, edge, edge, 4), jnp.float32), "cond": condition(model, 1)}
    step = make_train_step(loss, tx, ema)
    return lambda state, batch: step(state, batch, jax.random.key(0)), (
        dataclasses.replace(state, frozen=frozen),
        batch,
    )


CASES: dict[str, Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]] = {
    f"{model}: {what}": (lambda make=make, model=model: make(model))
    for model in MODELS
    for what, make in {
        "draw 1, float32 weights": lambda model: drawing(model, 1, jnp.float32),
        "draw 1, bfloat16 weights": lambda model: drawing(model, 1, jnp.bfloat16),
        "draw 4, bfloat16 weights": lambda model: drawing(model, 4, jnp.bfloat16),
        "decode 1": lambda model: decoding(model, None),
        "decode 1 in tiles": lambda model: decoding(model, 32),
        "LoRA 8": lambda model: tuning(model, None, 8),
        "LoRA 8, remat": lambda model: tuning(model, "nothing_saveable", 8),
        "whole, remat": lambda model: tuning(model, "nothing_saveable", None),
    }.items()
}


def planned(make: Callable[[], Any], device: Any) -> dict[str, Any]:
    """XLA's plan of memory for one chip, in bytes, and the seconds that it took to compile."""
    run, given = make()
    donated = isinstance(given[0], TrainState)  # as the loop does
    there = SingleDeviceSharding(device)
    began = time.perf_counter()
    lowered = jax.jit(run, in_shardings=there, out_shardings=there, donate_argnums=0 if donated else ()).lower(*given)
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    memory: Any = compiled.memory_analysis()
    peak = memory.peak_memory_in_bytes
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": peak,
        "fits_gib": next((size for size in (16, 24, 80) if peak < 0.95 * size * GIB), None),
        "compile_seconds": round(seconds, 1),
    }


def main() -> None:
    """Compiles every case, and writes the file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", default="", help="the cases whose names hold this")
    parser.add_argument("--again", action="store_true", help="also those that the file has of the same versions")
    arguments = parser.parse_args()
    device = topologies.get_topology_desc(platform="tpu", topology_name="v5p:2x2x1").devices[0]
    versions = {"jax": jax.__version__, "python": platform.python_version()}
    there = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    rows = there["rows"] if there.get("versions") == versions else []
    done = set() if arguments.again else {row["case"] for row in rows}
    for name, make in CASES.items():
        if arguments.only in name and name not in done:
            row = {"case": name, **planned(make, device)}
            rows = [other for other in rows if other["case"] != name] + [row]
            print(json.dumps(row), flush=True)
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps({"versions": versions, "chip": "v5p", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
