"""CLIP and diffusion in JAX: trained, joined, sampled and measured by one small research codebase.

`load_run("runs/digits")` gives a trained run; `process` and `sampling` work with any denoiser of your own.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__", "load_config", "load_pretrained", "load_run", "train_run"]

_LAZY = {
    "load_config": "diffusion_jax.config",
    "load_pretrained": "diffusion_jax.systems.table",
    "load_run": "diffusion_jax.systems.table",
    "train_run": "diffusion_jax.training",
}


def __getattr__(name: str) -> Any:
    """The calls that need the whole package are imported when they are first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'diffusion_jax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
