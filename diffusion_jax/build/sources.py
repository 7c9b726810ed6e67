"""The groups `data`, `tokenizer` and `preprocess`: what is read, and how it becomes a network's input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diffusion_jax.build.constructors import Spec, accepts, construct
from diffusion_jax.data.pictures.preprocess import HALF, Preprocess
from diffusion_jax.data.sources import digits
from diffusion_jax.data.sources.caption_folder import CaptionFolder
from diffusion_jax.data.sources.tar_shards import TarShards
from diffusion_jax.data.sources.tfds_captions import TfdsCaptions
from diffusion_jax.data.text.word_tokenizer import WordTokenizer
from diffusion_jax.typing import Tokenizer, UserError, one_of

__all__ = [
    "PAIRS",
    "READING",
    "SOURCES",
    "TOKENIZERS",
    "one_data",
    "pairs",
    "preprocess",
    "reading",
    "source",
    "source_size",
    "tokenizer",
]

SOURCES: dict[str, Callable[..., Any]] = {"digits": digits.load_digits}
PAIRS: dict[str, Callable[..., Any]] = {"folder": CaptionFolder, "tar": TarShards, "tfds": TfdsCaptions}
"""Pictures with captions of one's own; each takes a `split`."""
READING: dict[str, Any] = {
    "crop": "random", "crop_scale": (0.9, 1.0), "on_error": "raise", "workers": 0, "eval_pairs": 512,
}  # fmt: skip
"""How the pictures of `PAIRS` are read, beside the keys of the source itself."""


def source(spec: Spec, split: str) -> Any:
    """The data of a config's `data` group; `split` is "train", "validation" or "test"."""
    return SOURCES[one_of("data", spec["name"], SOURCES)](split)


def one_data(name: str) -> str:
    """`name` when it is one of the data that there are, else a UserError."""
    return one_of("data", name, {**SOURCES, **PAIRS})


def pairs(spec: Spec, split: str) -> Any:
    """The pictures and captions of a config's `data` group in a split."""
    own = {key: value for key, value in spec.items() if key not in READING}
    return construct("data", PAIRS, own, split=split)


def reading(spec: Spec) -> dict[str, Any]:
    """How the pictures of a config's `data` group are read: `READING` with what the group says."""
    made = {key: spec.get(key, default) for key, default in READING.items()}
    one_of("data.crop", made["crop"], ("random", "center"))
    one_of("data.on_error", made["on_error"], ("raise", "skip"))
    for key, least in (("workers", 0), ("eval_pairs", 2)):
        if not isinstance(made[key], int) or made[key] < least:
            raise UserError(f"config key 'data.{key}' is {made[key]!r}; it is a whole number of at least {least}")
    return made


def source_size(spec: Spec) -> dict[str, int]:
    """The image_size and channels of the images of a config's `data` group."""
    height, _, channels = source(spec, "train")[0]["image"].shape
    return {"image_size": height, "channels": channels}


def _words(context_length: int) -> WordTokenizer:
    """The word tokenizer over what the digits' captions can say."""
    return WordTokenizer(digits.VOCABULARY, context_length)


def _bpe(path: str, context_length: int) -> Tokenizer:
    """CLIP's tokenizer on a vocabulary of the user's."""
    from diffusion_jax.data.text.bpe import BpeTokenizer

    return BpeTokenizer.load(path, context_length=context_length)


def _siglip(path: str, context_length: int) -> Tokenizer:
    """SigLIP's tokenizer on a SentencePiece model of the user's."""
    from diffusion_jax.data.text.siglip_tokenizer import SiglipTokenizer

    return SiglipTokenizer.load(path, context_length)


TOKENIZERS: dict[str, Callable[..., Tokenizer]] = {"words": _words, "bpe": _bpe, "siglip": _siglip}


def tokenizer(spec: Spec | None, context_length: int) -> Tokenizer:
    """The tokenizer of a config's `tokenizer` group; without one, the words of the digits' captions."""
    return construct("tokenizer", TOKENIZERS, spec or {"name": "words"}, context_length=context_length)


def preprocess(spec: Spec | None, sizes: Mapping[str, Any]) -> Preprocess:
    """How pictures become the input of a dual encoder of these sizes, from a config's `preprocess` group.

    Without one, OpenAI's way, or SigLIP's for a model with a logit bias. `size`, the short side before the crop, is the
    model's image_size unless it is given; the crop is always image_size. UserError for a size below it.
    """
    options = dict(spec or {})
    if not spec and sizes["logit_bias"]:
        options = {"mean": HALF, "std": HALF, "resize": "squash"}
    edge = sizes["vision"]["image_size"]
    accepts("preprocess", Preprocess, options, ("crop",))
    crop = None if options.get("size", edge) == edge else edge
    return Preprocess(**{"size": edge, **options, "crop": crop})
