"""CLIP and SigLIP weights read: OpenAI's, open_clip's and Hugging Face's files, without PyTorch.

    config, params = load_clip("path/to/clip-vit-base-patch32")          # a folder with config.json
    config, params = load_clip("ViT-B-32.pt")                            # OpenAI's archive, where PyTorch is installed
    config, params = load_clip("model.safetensors", config=clip_model("ViT-B-32"))    # weights that say nothing else

`config` holds the keyword arguments of `nets.CLIP` and, as "preprocess", how images are prepared. Half-precision weights are
read as float32, which holds them exactly. `clip_save` writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.convert.clip_config import Config, from_openai, preprocess_of
from diffusion_jax.convert.clip_config_hf import from_hf
from diffusion_jax.convert.clip_config_open_clip import from_open_clip
from diffusion_jax.convert.clip_keys import entries, ignored, untexted
from diffusion_jax.convert.clip_preprocess import from_preprocess_cfg, from_preprocessor, resized_preprocess
from diffusion_jax.convert.entries import read
from diffusion_jax.convert.files import find, read_json, read_tensors
from diffusion_jax.convert.positions import resize_image, resize_text
from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["described", "load_clip"]

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
)
_HF_MARKS = ("vision_model.", "text_model.", "visual_projection.", "text_projection.weight")


def load_clip(
    path: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    silent: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    context_length: int | None = None,
) -> tuple[dict[str, Any], Params]:
    """(config, params) of the CLIP or SigLIP in a folder or file; params are float32 NumPy arrays.

    `config` (keyword arguments of `nets.CLIP`, every size told, as of `nets.clip_model`) takes the place of what lies
    beside the weights; `silent` is one for weights beside which nothing lies. `image_size` and `context_length` interpolate the
    learned positions. A folder of one tower of CLIP gives `params` with that tower alone.

    Raises UserError: no or damaged weights, another architecture, all missing, extra and misshapen names at once, and any field
    of a config that changes what the model computes to something that is not here.
    """
    path = Path(path)
    file = find(path, WEIGHTS)
    tensors = read_tensors(file)
    where = repr(str(file))
    hugging = _is_hf(tensors, where)
    if hugging:
        tensors = _prefixed(tensors)
    elif "visual.trunk.pos_embed" not in tensors:
        tensors = {untexted(name): value for name, value in tensors.items()}
    names = ("config.json", "preprocessor_config.json") if hugging else ("open_clip_config.json",)
    told = (file.parent / names[0]).is_file()
    alone = not told and (hugging or "input_resolution" not in tensors)
    if config is None and silent is not None and alone:
        config = _not_by_name(silent, file)
    if config is not None:
        usual = from_preprocessor(None, config, where) if hugging else preprocess_of(config)
        made: Config = {**config, "preprocess": {**usual, **(config.get("preprocess") or {})}}
    elif alone and hugging:
        raise UserError(f"{names[0]} is missing beside the weights {str(file)!r}: it tells the sizes of the model")
    elif alone:
        raise UserError(
            f"{where}: weights alone do not tell the activation and the heads; put open_clip_config.json beside it, or "
            "name the model, as in config=nets.clip_model('ViT-B-32') or --model ViT-B-32"
        )
    else:
        files = {name: read_json(file.parent / name) for name in names if told and (file.parent / name).is_file()}
        made = described(tensors, files, f"{file.parent}/" if told else where)
    found = {key: value for key, value in made.items() if key != "preprocess"}
    if not hugging:  # open_clip's `nonscalar_logit_scale` keeps them as vectors of one
        tensors = {n: v.reshape(()) if n.startswith("logit_") and v.size == 1 else v for n, v in tensors.items()}
    params = read(entries(found, "hf" if hugging else "open_clip"), tensors, where, ignored)
    if image_size is not None:
        old = found["vision"]["image_size"]
        made, params = resize_image(made, params, image_size)
        made["preprocess"] = resized_preprocess(made["preprocess"], old, image_size)
    if context_length is not None:
        made, params = resize_text(made, params, context_length)
    return made, params


def described(tensors: Mapping[str, np.ndarray], files: Mapping[str, Mapping[str, Any]], where: str) -> Config:
    """The `config` of `load_clip` from config files by name and the tensors beside them: Hugging Face's, open_clip's, or none.

    `where` goes before the names of the files in what a UserError says.
    """
    if "config.json" in files:
        found = from_hf(files["config.json"], f"{where}config.json")
        name = "preprocessor_config.json"
        return {**found, "preprocess": from_preprocessor(files.get(name), found, f"{where}{name}")}
    if "open_clip_config.json" in files:
        name = "open_clip_config.json"
        told = files[name]
        bare = "model_cfg" not in told  # open_clip's own list of models says nothing of pictures
        for key in () if bare else told:
            one_of(f"{where}{name}: field", key, ("model_cfg", "preprocess_cfg"))
        found = from_open_clip(told if bare else told["model_cfg"], tensors, f"{where}{name}")
        if bare:
            return {**found, "preprocess": preprocess_of(found)}
        return {
            **found,
            "preprocess": from_preprocess_cfg(told.get("preprocess_cfg") or {}, f"{where}{name}: preprocess_cfg"),
        }
    found = from_openai(tensors, where)
    return {**found, "preprocess": preprocess_of(found)}


_NAMED = {"openai": "quick_gelu", "quickgelu": "quick_gelu", "laion2b": "gelu", "datacomp": "gelu"}
"""What is in the names of published files, and the activation of those models."""


def _not_by_name(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """`config`, unless the name of the weights tells another activation: then a UserError."""
    told = config["text"]["activation"]
    for part, activation in _NAMED.items():
        if part in file.name.lower() and told in ("gelu", "quick_gelu") and told != activation:
            raise UserError(
                f"{str(file)!r} by its name holds weights of activation {activation!r}, and the model named is of {told!r}: "
                f"name one {'with' if activation == 'quick_gelu' else 'without'} -quickgelu, or the file otherwise"
            )
    return dict(config)


def _is_hf(tensors: Mapping[str, np.ndarray], where: str) -> bool:
    """Whether the names are Hugging Face's. UserError when they are no CLIP's at all."""
    if any(re.match(r"(text\.)?(visual|transformer\.resblocks)\.", name) for name in tensors):
        return False
    if any(name.startswith(_HF_MARKS) for name in tensors):
        return True
    if any(re.match(r"(embeddings|encoder\.layers)\.", name) for name in tensors):
        return True
    some = ", ".join(list(tensors)[:3])
    raise UserError(f"{where} holds no CLIP or SigLIP: its {len(tensors)} tensors have names such as {some or 'none'}")


def _prefixed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names of one tower alone, which newer files write without their prefix, with it."""
    if any(name.startswith(("vision_model.", "text_model.")) for name in tensors):
        return dict(tensors)
    prefix = "text_model" if "embeddings.token_embedding.weight" in tensors else "vision_model"
    projections = ("text_projection.", "visual_projection.", "logit_")
    return {n if n.startswith(projections) else f"{prefix}.{n}": value for n, value in tensors.items()}
