"""`diffusion-jax convert` of fine-tuned runs: their LoRA as a file of PEFT, or the whole pipeline as a folder of diffusers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from diffusion_jax.convert import save_lora
from diffusion_jax.convert.files import DTYPES, SAFETENSORS
from diffusion_jax.files import check_file, check_folder
from diffusion_jax.pipelines.fine_tuning.run import FineTuned
from diffusion_jax.runs import holds_run
from diffusion_jax.systems.table import load_run
from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["FORMATS", "convert", "whole_scale"]

FORMATS = ("peft", "diffusers")


def whole_scale(lora: Params) -> Params:
    """The same adapters with alpha the rank, and alpha / rank in B: files tell alpha beside the tensors, where many that read
    LoRAs do not look."""
    if not isinstance(lora, dict):
        return lora
    if lora.keys() != {"A", "B", "alpha"}:
        return {name: whole_scale(node) for name, node in lora.items()}
    rank, alpha = float(lora["A"].shape[-1]), lora["alpha"]
    scale = (alpha / rank).reshape(alpha.shape + (1,) * (lora["B"].ndim - alpha.ndim))
    return {"A": lora["A"], "B": lora["B"] * scale, "alpha": np.full_like(alpha, rank)}


def convert(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Writes what a run learned: by default a LoRA where it trained one, else the pipeline."""
    source, out = Path(arguments.path), Path(arguments.out)
    if not holds_run(source):
        raise UserError(
            f"format {arguments.format!r} is written of fine-tuned runs, and {str(source)!r} holds none; a LoRA's file is "
            "read as it is (sample --lora)"
        )
    for option in ("image_size", "context_length", "model"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option.replace('_', '-')} is not for a fine-tuned run")
    run = load_run(source, which=arguments.weights)
    if not isinstance(run, FineTuned):
        raise UserError(f"the run in {str(source)!r} is of system {run.config.get('system')!r}, which has no LoRA")
    layout = arguments.format or FORMATS[0 if run.adapts else 1]
    one_of("--format", layout, FORMATS)
    one_of("--dtype", arguments.dtype, DTYPES)
    if layout == "diffusers":
        check_folder(out)
        if out.suffix in SAFETENSORS:
            raise UserError(
                f"--out {str(out)!r} is named as a file, and a pipeline is written as a folder; nearest: {out.stem!r}"
            )
        if out.exists() and any(out.iterdir()):
            raise UserError(
                f"--out {str(out)!r} holds something: a pipeline is written as a new folder; choose another"
            )
        run.pipeline.save(out, arguments.dtype)
        say(f"the pipeline with what was learned is written to {out}, for diffusers and `sample --pretrained`")
        return 0
    if not run.adapts:
        raise UserError(
            f"the run in {str(source)!r} trained the whole U-Net, of which there is no LoRA; nearest: 'diffusers'"
        )
    if check_file(out).exists() and not arguments.overwrite:
        raise UserError(f"--out {str(out)!r} exists; choose another, or --overwrite to replace it")
    lora = whole_scale(jax.tree.map(np.asarray, run.params))
    save_lora(out, {"unet": lora}, unet=run.base.unet_config, linear=run.base.linear, dtype=arguments.dtype)
    count = sum(leaf.size for leaf in jax.tree.leaves(lora))
    say(f"{count / 1e6:.2f} million parameters of a LoRA written to {out}, for diffusers and `sample --lora`")
    return 0
