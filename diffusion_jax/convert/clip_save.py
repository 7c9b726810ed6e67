"""CLIP and SigLIP weights written, as OpenAI's, open_clip's and Hugging Face's files.

    config, params = load_clip("path/to/clip-vit-base-patch32")
    save_clip("out", config, params, "open_clip")

Weights that were half-precision, written in the dtype they came in, are bit for bit the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.convert.clip_config import preprocess_of
from diffusion_jax.convert.clip_config_out import to_hf, to_open_clip
from diffusion_jax.convert.clip_keys import entries
from diffusion_jax.convert.entries import write
from diffusion_jax.convert.files import cast, write_json, write_tensors
from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["FORMATS", "save_clip"]

FORMATS = ("hf", "open_clip", "openai")


def save_clip(
    path: str | Path, config: Mapping[str, Any], params: Params, format: str = "hf", *, dtype: str = "float32"
) -> Path:
    """Writes a model for other libraries and returns the file of its weights.

    "hf": a folder with config.json, preprocessor_config.json and model.safetensors; "open_clip": a folder with
    open_clip_config.json and open_clip_model.safetensors; "openai": a state dict, `.pt` (needs PyTorch) or `.safetensors`.
    Raises UserError for what a format cannot hold and for parameters that do not fit `config`.
    """
    path = Path(path)
    one_of("format", format, FORMATS)
    model = {key: value for key, value in config.items() if key != "preprocess"}
    prepared = config.get("preprocess") or preprocess_of(model)
    if format == "openai" and (model.get("logit_bias") or model["text"].get("activation") != "quick_gelu"):
        raise UserError("OpenAI's format is for QuickGELU models without a bias; nearest: 'open_clip' or 'hf'")
    tensors = cast(write(entries(model, "hf" if format == "hf" else "open_clip"), params, f"format {format!r}"), dtype)
    if format == "openai":
        vision = model["vision"]
        sizes = {"input_resolution": vision["image_size"], "context_length": model["text"]["context_length"]}
        sizes |= {"vocab_size": model["text"]["vocabulary_size"]}
        write_tensors(path, tensors | {name: np.array(value) for name, value in sizes.items()})
        return path
    if path.suffix in {".safetensors", ".pt", ".bin"}:
        raise UserError(f"format {format!r} writes a folder, not {str(path)!r}; nearest: {str(path.with_suffix(''))!r}")
    if format == "hf":
        configs = dict(zip(("config.json", "preprocessor_config.json"), to_hf(model, prepared)))
        file = path / "model.safetensors"
    else:
        configs = {"open_clip_config.json": to_open_clip(model, prepared)}
        file = path / "open_clip_model.safetensors"
    write_tensors(file, tensors)
    for name, value in configs.items():
        write_json(path / name, value)
    return file
