"""configs/clip_b16.py compiled for a TPU pod that is not there: the memory of a chip at the true batch, by XLA's plan.

    python benchmarks/clip_pod.py [--topology v5e:8x16] [--out FILE] [--only NAME]

Needs `pip install -e '.[tpu]'` on Linux, and no TPU: the compiler comes with it. No array is made and nothing runs, so that
these are plans of memory, not speeds. About a minute a case on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from diffusion_jax import build
from diffusion_jax.config import load_config
from diffusion_jax.nets import Network
from diffusion_jax.parallel.mesh import batch_sharding, make_mesh, replicated
from diffusion_jax.parallel.rules import split_over_mesh
from diffusion_jax.systems.clip.network import clip_network, clip_sizes
from diffusion_jax.systems.clip.task import CLAMP, recipe_loss
from diffusion_jax.train.state import init_state, state_shardings
from diffusion_jax.train.step import make_train_step

CONFIG = str(Path(__file__).parents[1] / "configs" / "clip_b16.py")
CASES: dict[str, tuple[str, dict[str, str]]] = {
    "as written": ("", {}),
    "nothing saved": ("", {"model.remat": "nothing_saveable"}),
    "whole logits": ("", {"loss.chunk": "0"}),
    "batch 131072": ("", {"batch_size": "131072", "loss.micro_batches": "4"}),
    "batch 131072, whole logits": ("", {"batch_size": "131072", "loss.micro_batches": "4", "loss.chunk": "0"}),
    "flip": (":flip", {}),
    "accumulate": (":accumulate", {}),
    "siglip": (":siglip", {}),
    "fsdp 16": ("", {"mesh.fsdp": "16"}),
    "ViT-L-14, nothing saved": ("", {"model.preset": "ViT-L-14-quickgelu", "model.remat": "nothing_saveable"}),
}
OUT = Path(__file__).parent / "results" / "clip_pod_tpu_compiled.json"


def planned(variant: str, overrides: dict[str, str], devices: Any) -> dict[str, Any]:
    """Bytes of one chip for a training step: what it is given (state, batch), and what it makes on the way."""
    config = load_config(CONFIG + variant, {"model.dtype": "bfloat16", **overrides})
    mesh = make_mesh(**dict(config.get("mesh") or {}), devices=devices)
    network: Network = clip_network(config.model)
    sizes = clip_sizes(config.model)
    loss_fn = recipe_loss(config, network, build.preprocess(config.preprocess, sizes), mesh=mesh)
    tx, ema = build.optimizer(config.optimizer, config.steps, clamp=CLAMP), build.ema(config.ema)
    params = jax.eval_shape(network.init, jax.eval_shape(jax.random.key, 0))
    state = jax.eval_shape(lambda params: init_state(params, tx, ema), params)
    layout = state_shardings(state, split_over_mesh(params, mesh), mesh)
    rows, everywhere = batch_sharding(mesh), replicated(mesh)
    side, context, size = sizes["vision"]["image_size"], sizes["text"]["context_length"], config.batch_size
    shapes = {"image": ((size, side, side, 3), jnp.uint8), "tokens": ((size, context), jnp.int32)}
    if config.loss.identity:
        shapes["identity"] = ((size,), jnp.int32)
    batch = {name: jax.ShapeDtypeStruct(*shape, sharding=rows) for name, shape in shapes.items()}
    given = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, layout)
    key = jax.eval_shape(jax.random.key, 0)
    step = jax.jit(make_train_step(loss_fn, tx, ema), donate_argnums=0, out_shardings=(layout, everywhere))
    began = time.perf_counter()
    try:
        memory = step.lower(given, batch, key).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"fits": False, "said": str(error).splitlines()[0][:200]}
    return {
        "fits": True,
        "argument_bytes": int(memory.argument_size_in_bytes),
        "temporary_bytes": int(memory.temp_size_in_bytes),
        "peak_bytes": int(memory.peak_memory_in_bytes),
        "compile_seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Compiles every case, prints a line of each and writes the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:8x16", help="as jax.experimental.topologies names it")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", choices=CASES, help="one case")
    args = parser.parse_args()
    devices = topologies.get_topology_desc(platform="tpu", topology_name=args.topology).devices
    rows = []
    for name in [args.only] if args.only else CASES:
        found = planned(*CASES[name], devices)
        rows.append({"case": name, "overrides": dict(zip(("variant", "keys"), CASES[name])), **found})
        told = (
            f"peak {found['peak_bytes'] / 2**30:.2f} GiB, {found['argument_bytes'] / 2**30:.2f} of them the state, "
            f"compiled in {found['compile_seconds']} s"
            if found["fits"]
            else found["said"]
        )
        print(f"{name}: {told}", flush=True)
    versions = {"jax": jax.__version__, "jaxlib": jax.lib.__version__, "python": platform.python_version()}
    results = {"versions": versions, "topology": args.topology, "chips": len(devices), "rows": rows}
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
