"""Published weights, ready to be used: `load_pretrained("clip-vit-base-patch32")` is a `ClipRun` like one's own.

The folder or file is read by `convert.load_clip`; the vocabulary of the tokenizer lies in a Hugging Face folder, or is
pointed to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax import build, convert
from diffusion_jax.nets import clip_model
from diffusion_jax.run import ClipRun
from diffusion_jax.typing import Tokenizer, UserError

__all__ = ["load_pretrained"]


def load_pretrained(
    path: str | Path,
    *,
    model: str | None = None,
    tokenizer: str | Path | Tokenizer | None = None,
    image_size: int | None = None,
    context_length: int | None = None,
    activation: str | None = None,
    dtype: str = "auto",
) -> ClipRun:
    """The CLIP or SigLIP in a folder or file of OpenAI's, open_clip's or Hugging Face's, as a `ClipRun`.

    `model` is a name of `nets.CLIP_MODELS`, for weights that do not say what they are. `tokenizer` is a path
    (bpe_simple_vocab_16e6.txt.gz, a folder with vocab.json and merges.txt, SigLIP's .model file) or a tokenizer; by default
    what lies beside the weights. `image_size` and `context_length` interpolate the positions. `activation` overrides that of
    the config, as for SigLIP weights that were trained further with another.

    Raises UserError as `convert.load_clip`, and where no vocabulary is found.
    """
    path = Path(path)
    given = None if model is None else clip_model(model)
    config, params = convert.load_clip(path, config=given, image_size=image_size, context_length=context_length)
    for tower in ("vision", "text"):
        if tower not in config:
            raise UserError(f"{str(path)!r} holds one tower of CLIP only; convert.load_clip reads it")
        if activation is not None:
            config[tower]["activation"] = activation
    prepared: Mapping[str, Any] = config.pop("preprocess")
    spec = {"name": "clip", "dtype": dtype, **config}
    settings = {"system": "clip", "model": spec, "preprocess": dict(prepared), "data": {"name": "pretrained"}}
    network = build.clip_network(spec)
    if tokenizer is None or isinstance(tokenizer, str | Path):
        vocabulary = _vocabulary(path, tokenizer, bool(config["logit_bias"]))
        found = build.tokenizer(vocabulary, config["text"]["context_length"])
    else:
        found = tokenizer
    size = config["text"]["vocabulary_size"]
    if found.vocabulary_size > size:
        raise UserError(
            f"the tokenizer has {found.vocabulary_size} ids, the text tower {size}: they do not belong together"
        )
    run_config = ConfigDict(settings)
    return ClipRun(path, run_config, network, params, found, build.preprocess(prepared, config))


def _vocabulary(path: Path, given: str | Path | None, siglip: bool) -> dict[str, str]:
    """The tokenizer group for a vocabulary: the one given, or what lies beside the weights."""
    if given is not None:
        return {"name": "siglip" if siglip else "bpe", "path": str(given)}
    folder = path if path.is_dir() else path.parent
    names = (
        ("spiece.model", "tokenizer.model")
        if siglip
        else ("vocab.json", "tokenizer.json", "bpe_simple_vocab_16e6.txt.gz")
    )
    for name in names:
        if (folder / name).is_file():
            return {
                "name": "siglip" if siglip else "bpe",
                "path": str(folder / name if siglip or name[0] == "b" else folder),
            }
    raise UserError(
        f"no vocabulary beside the weights in {str(folder)!r} (none of {', '.join(names)}): give tokenizer=PATH"
    )
