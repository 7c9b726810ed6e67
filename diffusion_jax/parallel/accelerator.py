"""Which device JAX runs on, said in one line, with what to install when an accelerator stands idle, and how it is set up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import jax
import jaxlib

from diffusion_jax.typing import UserError

__all__ = ["configure", "idle_accelerator", "spread_convolutions"]

YNN = "xla_cpu_experimental_ynn_fusion_type"


def idle_accelerator() -> str | None:
    """The line to show when the machine has a GPU or TPU and JAX runs on the CPU; None otherwise, or when asked for."""
    if jax.default_backend() != "cpu" or os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return None
    found = {
        "cuda": Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists(),
        "tpu": Path("/dev/accel0").exists() or "TPU_NAME" in os.environ,
    }
    for extra, here in found.items():
        if here:
            device = "an NVIDIA GPU" if extra == "cuda" else "a TPU"
            return f"this machine has {device}, but JAX runs on the CPU: pip install -e '.[{extra}]' makes JAX use it"
    return None


def spread_convolutions() -> None:
    """Has convolutions of fewer than 128 filters use all cores of a CPU, by `XLA_FLAGS`; before JAX's first computation.

    In jaxlib 0.10 XLA gives them to YNNPACK, which does them on one core: a training step of a U-Net takes a quarter longer
    (`benchmarks/unet_speed.py`). The products and sums stay with it. Other versions, which have all cores at work or may not
    know the flag, and a choice of the user's are left as they are.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if jaxlib.__version__.startswith("0.10.") and YNN not in flags:
        kinds = ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in ("INDIVIDUAL_DOT", "REDUCE"))
        os.environ["XLA_FLAGS"] = f"{flags} --{YNN}={kinds}".strip()


def configure(say: Callable[[str], None], *, devices: bool = True) -> None:
    """Turns on the compilation cache and all cores, and says where the command runs; without `devices` warnings alone."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "diffusion_jax" / "compiled"))
    jax.config.update("jax_compilation_cache_dir", cache)
    spread_convolutions()
    try:
        found = jax.devices()
    except RuntimeError as error:
        # JAX_PLATFORMS asks for a backend that is not installed or finds no device.
        raise UserError(f"JAX finds no device: {str(error).splitlines()[0]}") from error
    if devices:
        say(f"JAX {jax.__version__} on {len(found)} x {found[0].device_kind}")
    line = idle_accelerator()
    if line is not None:
        say(line)
