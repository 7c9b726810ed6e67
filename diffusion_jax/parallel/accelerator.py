"""Which device JAX runs on, said in one line, with what to install when an accelerator stands idle."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import jax

from diffusion_jax.typing import UserError

__all__ = ["configure", "idle_accelerator"]


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


def configure(say: Callable[[str], None], *, devices: bool = True) -> None:
    """Turns on the persistent compilation cache and says where the command runs; without `devices` warnings alone."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "diffusion_jax" / "compiled"))
    jax.config.update("jax_compilation_cache_dir", cache)
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
