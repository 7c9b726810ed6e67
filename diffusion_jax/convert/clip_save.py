"""CLIP and SigLIP weights written, as OpenAI's, open_clip's and Hugging Face's files.

    config, params = load_clip("path/to/clip-vit-base-patch32")
    save_clip("out", config, params, "open_clip")

A format is a way to say what a model is, and none says everything: OpenAI's tells neither heads nor eps, open_clip's no
number of channels. So a model is told in the format and read back from what was told, in memory, before a file is
made; what comes back as something else is refused by name. Then everything is written aside, read by `load_clip`, compared
(settings, preprocessing, every bit of the weights), and only then moved to where it was asked for.

Weights that were half-precision, written in the dtype they came in, are bit for bit the same.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.convert.clip import WEIGHTS, described, load_clip
from diffusion_jax.convert.clip_compare import completed, differences
from diffusion_jax.convert.clip_config import preprocess_of
from diffusion_jax.convert.clip_config_out import to_hf, to_open_clip
from diffusion_jax.convert.clip_keys import entries
from diffusion_jax.convert.entries import flatten, write
from diffusion_jax.convert.files import (
    SAFETENSORS,
    TORCH,
    cast,
    in_reach,
    needs_torch,
    staged,
    write_json,
    write_tensors,
)
from diffusion_jax.typing import Params, UserError, one_of

__all__ = ["FORMATS", "check_place", "save_clip"]

Config = dict[str, Any]
FORMATS = ("hf", "open_clip", "openai")
_NEAREST = {"hf": ("open_clip", "openai"), "open_clip": ("hf", "openai"), "openai": ("open_clip", "hf")}
_FILES = {"hf": "model.safetensors", "open_clip": "open_clip_model.safetensors"}


@dataclasses.dataclass(frozen=True)
class _Told:
    """A model in the words of a format: its tensors, its config files, and what a reader makes of both."""

    tensors: dict[str, np.ndarray]
    files: dict[str, Config]
    config: Config


def save_clip(
    path: str | Path,
    config: Mapping[str, Any],
    params: Params,
    format: str = "hf",
    *,
    dtype: str = "float32",
    beside: Mapping[str, bytes] | None = None,
) -> Path:
    """Writes a model for other libraries and returns the file of its weights.

    "hf": a folder with config.json, preprocessor_config.json and model.safetensors; "open_clip": a folder with
    open_clip_config.json and open_clip_model.safetensors; "openai": a state dict, `.pt` (needs PyTorch) or `.safetensors`.
    `beside` are more files of the folder by name, such as those of a vocabulary.

    Raises UserError, and leaves what was there as it was: for settings that the format cannot hold (named, with the nearest
    format that can), for parameters that do not fit `config`, are not finite or not within the reach of `dtype`, for a
    folder in which other weights would be found first, and where what was written does not read back the same.
    """
    path = Path(path)
    one_of("format", format, FORMATS)
    check_place(path, format)
    model = completed({key: value for key, value in config.items() if key != "preprocess"})
    if "vision" in model:
        model["preprocess"] = config.get("preprocess") or preprocess_of(model)
    told = _held(model, params, format)
    if beside and format == "openai":
        raise UserError(f"format 'openai' is one file: nothing lies beside it ({', '.join(beside)})")
    tensors = in_reach(told.tensors, dtype)
    with staged(path, folder=format != "openai") as place:
        file = place if format == "openai" else place / _FILES[format]
        write_tensors(file, tensors)
        for name, value in told.files.items():
            write_json(place / name, value)
        for name, content in (beside or {}).items():
            (place / name).write_bytes(content)
        _read_back(file, model, params, dtype)
    return path if format == "openai" else path / file.name


def check_place(path: Path, format: str) -> None:
    """UserError where `path` is no place for a format, or holds weights that a reader would find first.

    "openai" in `.pt` needs PyTorch, which is asked for here: before any work.
    """
    if format == "openai":
        if os.path.isdir(path):
            raise UserError(
                f"format 'openai' writes a .pt or .safetensors file, and {str(path)!r} is a folder; "
                f"nearest: {str(path / 'model.safetensors')!r}"
            )
        if path.suffix not in (*SAFETENSORS, *TORCH):
            raise UserError(
                f"format 'openai' writes a .pt or .safetensors file, not {str(path)!r}; nearest: {f'{path}.safetensors'!r}"
            )
        if path.suffix in TORCH:
            needs_torch(path)
        return
    if path.suffix in {".safetensors", ".pt", ".bin"}:
        raise UserError(f"format {format!r} writes a folder, not {str(path)!r}; nearest: {str(path.with_suffix(''))!r}")
    if os.path.exists(path) and not path.is_dir():
        raise UserError(f"{str(path)!r} is a file; format {format!r} writes a folder")
    first = [n for n in WEIGHTS[: WEIGHTS.index(_FILES[format])] if os.path.isfile(path / n)]
    if first:
        raise UserError(f"{str(path)!r} holds {first[0]}, which would be read in place of {_FILES[format]}: remove it")


def _held(model: Config, params: Params, format: str) -> _Told:
    """The model in a format. UserError for what it cannot hold, with the nearest format that holds everything."""
    told, lost = _tell(model, params, format)
    if told is not None and not lost:
        return told
    others = (name for name in _NEAREST[format] if _tell(model, params, name)[1] == "")
    nearest = next(others, None)
    hint = f"nearest: {nearest!r}" if nearest else "nor can any other format"
    raise UserError(f"format {format!r} cannot hold this model: {lost}; {hint}")


def _tell(model: Config, params: Params, format: str) -> tuple[_Told | None, str]:
    """(the model in a format, what of it is lost there, in words)."""
    try:
        rules = entries(model, "hf" if format == "hf" else "open_clip")
        files = _files(model, format)
    except UserError as error:
        return None, str(error)
    tensors = write(rules, params, f"format {format!r}")
    if format == "openai":
        tensors |= _sizes(model)
    try:
        found = described(tensors, json.loads(json.dumps(files)), f"format {format!r}: ")
    except UserError as error:
        return None, str(error)
    lost = differences(model, found)
    words = ", ".join(f"{one.key} {one.first!r} would come back as {one.second!r}" for one in lost)
    return _Told(tensors, files, found), words


def _files(model: Config, format: str) -> dict[str, Config]:
    """The config files of a format. UserError for a model that it has no words for."""
    alone = [tower for tower in ("vision", "text") if tower not in model]
    if alone and format != "hf":
        raise UserError(f"its models have two towers; this one is without {alone[0]}")
    if format == "hf":
        config, prepared = to_hf(model, model.get("preprocess"))
        return {"config.json": config} | ({} if prepared is None else {"preprocessor_config.json": prepared})
    return {"open_clip_config.json": to_open_clip(model, model["preprocess"])} if format == "open_clip" else {}


def _sizes(model: Config) -> dict[str, np.ndarray]:
    """What OpenAI's archives say beside their weights."""
    text = model["text"]
    sizes = {"input_resolution": model["vision"]["image_size"], "context_length": text["context_length"]}
    sizes |= {"vocab_size": text["vocabulary_size"]}
    return {name: np.array(value) for name, value in sizes.items()}


def _read_back(file: Path, config: Config, params: Params, dtype: str) -> None:
    """UserError unless `load_clip` gives the same settings, and every bit of the weights at `dtype`."""
    found, weights = load_clip(file)
    wrong = [one.key for one in differences(config, found)]
    wanted = cast({name: np.asarray(leaf) for name, leaf in flatten(params)}, dtype)
    got = dict(flatten(weights))
    wrong += sorted(wanted.keys() ^ got.keys())
    wrong += [
        name for name in wanted.keys() & got.keys()
        if wanted[name].astype(np.float32).tobytes() != np.asarray(got[name], np.float32).tobytes()
    ]  # fmt: skip
    if wrong:
        raise UserError(
            f"what was written does not read back the same, and is not kept: {len(wrong)} differ, the first {wrong[0]}"
        )
