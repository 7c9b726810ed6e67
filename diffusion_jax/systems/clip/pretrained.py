"""Published weights, ready to be used, or to be trained further: `load_pretrained("clip-vit-base-patch32")` is a `ClipRun`.

The folder or file is read by `convert.load_clip`; the vocabulary of the tokenizer lies in a Hugging Face folder, or is
pointed to. Weights are worth something in the model that they were made for alone: what a config, or a name given by hand,
says otherwise than the weights' own files is refused here, for it would run and be wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffusion_jax import build, convert
from diffusion_jax.convert.clip_compare import OPENING, differences
from diffusion_jax.convert.clip_config_open_clip import names_a_tokenizer
from diffusion_jax.convert.files import read_json
from diffusion_jax.data.pictures.preprocess import HALF, Preprocess
from diffusion_jax.nets import CLIP_MODELS, clip_model
from diffusion_jax.systems.clip.network import clip_network
from diffusion_jax.systems.clip.run import ClipRun, check_end, preprocess_group
from diffusion_jax.typing import Params, Tokenizer, UserError, one_of, path_of

__all__ = ["initial_params", "load_pretrained", "read_weights", "vocabulary_beside"]

_log = logging.getLogger(__name__)


def read_weights(
    path: str | Path, model: str | None = None, *, image_size: int | None = None, context_length: int | None = None
) -> tuple[dict[str, Any], Params]:
    """`convert.load_clip`, where `model` names what the weights are in case that nothing beside them does.

    Raises UserError, with the name that fits where there is one, when the weights' own files say another model.
    """
    if model is None:
        return convert.load_clip(path, image_size=image_size, context_length=context_length)
    named = clip_model(model)
    config, params = convert.load_clip(path, silent=named)
    wrong = differences({**config, "preprocess": None}, named)
    if wrong:
        told = ", ".join(f"{one.key} {one.first!r}, not {one.second!r}" for one in wrong)
        fits = _name(config)
        raise UserError(
            f"{str(path)!r} is no {model!r} by what its own files say: {told}; "
            + (f"nearest: {fits!r}, or no name" if fits else "give no name")
        )
    if image_size is not None:
        config, params = convert.resize_image(config, params, image_size)
    if context_length is not None:
        config, params = convert.resize_text(config, params, context_length)
    return config, params


def _name(config: Mapping[str, Any]) -> str | None:
    """The published model that a config is."""
    model = {key: value for key, value in config.items() if key != "preprocess"}
    return next((name for name in CLIP_MODELS if not differences(model, clip_model(name))), None)


def load_pretrained(
    path: str | Path,
    *,
    model: str | None = None,
    tokenizer: str | Path | Tokenizer | None = None,
    image_size: int | None = None,
    context_length: int | None = None,
    activation: str | None = None,
    dtype: str = "auto",
    exif: bool = False,
) -> ClipRun:
    """The CLIP or SigLIP in a folder or file of OpenAI's, open_clip's or Hugging Face's, as a `ClipRun`.

    `model` is a name of `nets.CLIP_MODELS`, for weights that do not say what they are (refused where they say another).
    `tokenizer` is a path
    (bpe_simple_vocab_16e6.txt.gz, a folder with vocab.json and merges.txt, SigLIP's .model file) or a tokenizer; by default
    what lies beside the weights. `image_size` and `context_length` interpolate the positions. `activation` overrides that of
    the config, as for SigLIP weights that were trained further with another. `exif` turns photographs as their camera
    was held; open_clip, with which the embeddings agree, does not.

    Raises UserError as `convert.load_clip`, and where no vocabulary is found.
    """
    path = path_of("path", path)
    for folder in (path, path / "diffusion", path / "clip"):
        if (folder / "config.json").is_file() and "system" in read_json(folder / "config.json"):
            raise UserError(f"{str(path)!r} is a run: load_run reads it")
    config, params = read_weights(path, model, image_size=image_size, context_length=context_length)
    _whole(path, config)
    for tower in ("vision", "text") if activation is not None else ():
        config[tower]["activation"] = activation
    prepared: Mapping[str, Any] = {**config.pop("preprocess"), "exif": exif}
    spec = {"name": "clip", "dtype": dtype, **config}
    settings = {"system": "clip", "model": spec, "preprocess": dict(prepared), "data": {"name": "pretrained"}}
    network = clip_network(spec)
    siglip = _siglip(config)
    if not siglip and (tokenizer is None or isinstance(tokenizer, str | Path)):
        _check_named_tokenizer(path)
    if tokenizer is None:
        beside = vocabulary_beside(path, siglip)
        if beside is None:
            folder = path if path.is_dir() else path.parent
            names = ", ".join(_VOCABULARIES[siglip])
            raise UserError(
                f"no vocabulary beside the weights in {str(folder)!r} (none of {names}): put it there, or give "
                "tokenizer=PATH, on the command line --tokenizer PATH"
            )
        tokenizer = build.tokenizer(beside, config["text"]["context_length"])
    elif isinstance(tokenizer, str | Path):
        spec = {"name": "siglip" if siglip else "bpe", "path": str(tokenizer)}
        tokenizer = build.tokenizer(spec, config["text"]["context_length"])
    size = config["text"]["vocabulary_size"]
    if tokenizer.vocabulary_size > size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocabulary_size} ids, the text tower {size}: they do not belong together"
        )
    check_end(tokenizer, config["text"])
    run_config = ConfigDict(settings)
    return ClipRun(path, run_config, network, params, tokenizer, build.preprocess(prepared, config))


def _siglip(config: Mapping[str, Any]) -> bool:
    """Whether the texts are SigLIP's: told by its tower, for other models may have been trained with its loss."""
    return config["vision"].get("pool") == "map"


def _check_named_tokenizer(path: Path) -> None:
    """UserError where the weights' config names a tokenizer that is not CLIP's: its words would have other ids."""
    file = (path if path.is_dir() else path.parent) / "open_clip_config.json"
    named = names_a_tokenizer(read_json(file)) if file.is_file() else None
    if named is not None:
        raise UserError(
            f"{file!s}: text_cfg: the tokenizer {named!r} is neither CLIP's nor SigLIP's: give tokenizer= an object of yours"
        )


def _whole(path: str | Path, config: Mapping[str, Any]) -> None:
    if "vision" not in config or "text" not in config:
        raise UserError(f"{str(path)!r} holds one tower of CLIP only; convert.load_clip reads it")


_VOCABULARIES = {
    True: ("spiece.model", "tokenizer.model"),
    False: ("vocab.json", "tokenizer.json", "bpe_simple_vocab_16e6.txt.gz"),
}


def vocabulary_beside(path: str | Path, siglip: bool) -> dict[str, str] | None:
    """The `tokenizer` group of the vocabulary that lies beside weights; None where none does."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    for name in _VOCABULARIES[siglip]:
        if (folder / name).is_file():
            place = folder if name.endswith(".json") else folder / name
            return {"name": "siglip" if siglip else "bpe", "path": str(place)}
    return None


def initial_params(
    spec: build.Spec | None, model: Mapping[str, Any], tokenizer: Tokenizer, prepare: Preprocess | None
) -> Params | None:
    """The weights that training begins with, of a config's `weights` group; None for fresh ones, where it has no path.

    {"path", "model", "preprocess"}: where they lie, their name if they do not say it, and "same" (the default), or "config"
    to train with another preparation of pictures than the weights had. `model` is the config's (keyword arguments of
    `nets.CLIP`, every size told), `tokenizer` and `prepare` are its own; None for images in [-1, 1], taken as they are.

    Raises UserError when anything that changes what is computed differs between the weights and the config: a setting of the
    towers, the preparation of pictures, the vocabulary that lies beside the weights.
    """
    if not spec or not spec.get("path"):
        return None
    build.accepts("weights", lambda path, model=None, preprocess="same": None, spec)
    path, kept = spec["path"], one_of("weights.preprocess", spec.get("preprocess") or "same", ("same", "config"))
    config, params = read_weights(path, spec.get("model") or None)
    prepared = config.pop("preprocess", None) or {}
    _whole(path, config)
    _same_model(path, config, model)
    if kept == "same":
        _same_preparation(path, prepared, prepare)
    beside = vocabulary_beside(path, _siglip(config))
    if beside is not None and build.tokenizer(beside, tokenizer.context_length) != tokenizer:
        raise UserError(
            f"weights {path!r} have another vocabulary beside them than the config's: the same ids would be other words; "
            f"set tokenizer.name={beside['name']} tokenizer.path={beside['path']}"
        )
    return jax.tree.map(jnp.asarray, params)


def _same_model(path: str, config: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    wrong = differences(config, model)
    if not wrong:
        return
    told = ", ".join(f"model.{one.key} {one.first!r} there, {one.second!r} here" for one in wrong)
    fits = _name(config)
    advice = []
    if fits:
        advice.append(f"model.preset={fits} with model.vision and model.text emptied")
    else:
        decided = {
            "text.vocabulary_size": "the tokenizer of the weights",
            "vision.channels": "data of as many channels",
        }
        advice += [decided.get(one.key, f"model.{one.key}={one.first}") for one in wrong]
    sizes = {"vision.image_size": "--image-size", "text.context_length": "--context-length"}
    if all(one.key in sizes for one in wrong):
        options = " ".join(f"{sizes[one.key]} {one.second}" for one in wrong)
        advice = [f"{' '.join(advice)}, or begin with `diffusion-jax convert {path} {options} --out NEW`"]
    raise UserError(f"weights {path!r} are of another model than the config's: {told}; set {', '.join(advice)}")


def _same_preparation(path: str, prepared: Mapping[str, Any], prepare: Preprocess | None) -> None:
    # Without one, images are taken as they are, in [-1, 1], and nothing is resized.
    here = {**prepared, "mean": HALF, "std": HALF} if prepare is None else preprocess_group(prepare)
    bare: dict[str, Any] = {"embed": None}
    wrong = differences({**bare, "preprocess": prepared}, {**bare, "preprocess": here})
    if wrong:
        told = ", ".join(f"{one.key} {one.first!r} there, {one.second!r} here" for one in wrong)
        keys = " ".join(f"{one.key}={str(one.first).replace(' ', '')}" for one in wrong)
        raise UserError(
            f"weights {path!r} were made of pictures prepared otherwise: {told}; set {keys}, "
            "or weights.preprocess=config to train them with the config's"
        )
    for key in OPENING:
        if key in prepared and prepared[key] != here[key]:
            _log.info("weights %r were made with preprocess.%s=%r; here it is %r", path, key, prepared[key], here[key])
