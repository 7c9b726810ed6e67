"""What the converters of the systems share: the places that `diffusion-jax convert` may write at."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from diffusion_jax.convert.files import SAFETENSORS, TORCH
from diffusion_jax.files import check_file, check_folder
from diffusion_jax.typing import UserError

__all__ = ["check_out", "refuse_positions"]


def check_out(arguments: argparse.Namespace, layout: str) -> Path:
    """`--out`: a folder for layout "diffusers", else a file of weights. UserError for what is there, without --overwrite, and
    for a place that cannot be written at."""
    out = Path(arguments.out)
    if os.path.exists(out) and not arguments.overwrite and (out.is_file() or any(out.iterdir())):
        raise UserError(f"--out {str(out)!r} exists; choose another, or --overwrite to replace its weights")
    if layout == "diffusers":
        return check_folder(out)
    if out.suffix not in (*SAFETENSORS, *TORCH):
        near = f"{out}.safetensors"
        raise UserError(f"--out {str(out)!r}: format {layout!r} is a .safetensors or .pt file; nearest: {near!r}")
    return check_file(out)


def refuse_positions(arguments: argparse.Namespace, what: str) -> None:
    """UserError for options that change the positions of a CLIP, of `what` has none."""
    for option in ("image_size", "context_length"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option.replace('_', '-')} changes the positions of a CLIP, and {what} has none")
