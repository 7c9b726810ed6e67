"""The groups `data`, `tokenizer` and `preprocess`: what is read, and how it becomes a network's input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusion_jax.build.constructors import Spec, accepts, construct, parameters, wanted
from diffusion_jax.build.own import is_own, pick
from diffusion_jax.build.ranges import short
from diffusion_jax.data.pictures.cropping import CROPS, Crop
from diffusion_jax.data.pictures.preprocess import HALF, Preprocess
from diffusion_jax.data.pictures.survey import channels_of, size_of, survey
from diffusion_jax.data.sources.arrays import PictureArrays
from diffusion_jax.data.sources.caption_folder import PictureFolder
from diffusion_jax.data.sources.class_folder import ClassFolder
from diffusion_jax.data.sources.digits import load_digits
from diffusion_jax.data.sources.parquet import PictureParquet
from diffusion_jax.data.sources.tar_shards import PictureShards
from diffusion_jax.data.sources.tfds_captions import TfdsPictures
from diffusion_jax.data.text.word_tokenizer import WordTokenizer
from diffusion_jax.typing import Source, Tokenizer, UserError, one_of

__all__ = [
    "ALTERED",
    "AUGMENTATION",
    "GENERATIVE",
    "READING",
    "SOURCES",
    "TOKENIZERS",
    "altered",
    "augmentation",
    "beside_source",
    "captioned",
    "check_pictures",
    "cropping",
    "gives_pictures",
    "image_sizes",
    "labelled",
    "pictures",
    "preprocess",
    "reading",
    "source",
    "tokenizer",
]

SOURCES: dict[str, Callable[..., Any]] = {
    "digits": load_digits,
    "folder": PictureFolder,
    "classes": ClassFolder,
    "tar": PictureShards,
    "tfds": TfdsPictures,
    "arrays": PictureArrays,
    "parquet": PictureParquet,
}
"""Each takes a `split`. Those whose `pictures` is true give pictures as files have them, the others arrays in [-1, 1]."""
_LABELS = {
    "folder": "; pictures that lie in a folder a class are data.name=classes",
    "tar": "; it is KEY.cls beside KEY.jpg, or data.label_key=NAME of KEY.json",
}
"""Where a source has labels, as the end of a message."""
READING: dict[str, Any] = {
    "crop": "random", "crop_scale": (0.9, 1.0), "flip": False, "on_error": "raise", "error_share": 0.5, "workers": 0,
    "eval_pairs": 512,
}  # fmt: skip
"""How pictures are read, beside the keys of the source itself."""
AUGMENTATION: dict[str, Any] = {"shift": 0.0, "noise": 0.0}
"""How arrays are altered in training: by up to `shift` pixels, with Gaussian noise of standard deviation `noise`."""
ALTERED: dict[str, Any] = {"augment": 0.0, "augment_flips": 1.0}
"""How the examples of what draws are altered in the step, told to the network: `data.pictures.edm_augmentation`."""


def gives_pictures(spec: Spec) -> bool:
    """Whether the data of a config's `data` group are pictures to be prepared, rather than arrays in [-1, 1]."""
    return bool(getattr(pick("data", spec["name"], SOURCES), "pictures", False))


def beside_source(spec: Spec) -> dict[str, Any]:
    """The keys of a config's `data` group that are not the source's own, with their defaults.

    A source that has a keyword of one of these names takes it itself.
    """
    own = parameters(pick("data", spec["name"], SOURCES))
    beside = (READING if gives_pictures(spec) else AUGMENTATION) | ALTERED
    return {key: default for key, default in beside.items() if key not in own}


def augmentation(spec: Spec) -> dict[str, float]:
    """How arrays are altered in training, as a config's `data` group says; 0 for what the source takes itself."""
    return _said(spec, AUGMENTATION)


def _said(spec: Spec, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults with what a config's `data` group says, but for keys that are the source's own."""
    beside = beside_source(spec)
    return {key: spec.get(key, default) if key in beside else default for key, default in defaults.items()}


def altered(spec: Spec) -> dict[str, float]:
    """`ALTERED` with what a config's `data` group says."""
    return _said(spec, ALTERED)


def source(spec: Spec, split: str) -> Any:
    """The data of a config's `data` group; `split` is "train", "validation" or "test"."""
    beside = beside_source(spec)
    made = construct("data", SOURCES, {key: value for key, value in spec.items() if key not in beside}, split=split)
    if is_own(spec["name"]) and not (isinstance(made, Source) and len(made)):
        raise UserError(f"data {spec['name']!r} is no source: it has a length above 0, and examples by number")
    return made


def reading(spec: Spec) -> dict[str, Any]:
    """How the pictures of a config's `data` group are read: `READING` with what the group says."""
    made = _said(spec, READING)
    one_of("data.crop", made["crop"], CROPS)
    one_of("data.on_error", made["on_error"], ("raise", "skip"))
    for key, least in (("workers", 0), ("eval_pairs", 2)):
        if not isinstance(made[key], int) or made[key] < least:
            raise UserError(f"config key 'data.{key}' is {made[key]!r}; it is a whole number of at least {least}")
    return made


def captioned(spec: Spec, data: Any) -> Any:
    """The data of a config's `data` group. UserError where they have no captions, with what gives them some."""
    try:
        first = data[0]
    except UserError:  # of this one: whoever reads it stops or skips it
        return data
    if "captions" in first:
        return data
    told = getattr(data, "uncaptioned", None)
    known, ways = parameters(pick("data", spec["name"], SOURCES)), []
    if "templates" in known and ("label" in first or "label_key" not in known):
        ways.append("data.templates=photo to make them of the names of the classes")
    if "caption_key" in known:
        ways.append("data.caption_key=NAME where they are called otherwise")
    advice = f"; say {', or '.join(ways)}" if ways else ""
    raise UserError(told or f"data {spec['name']!r}: the examples have no captions{advice}")


def labelled(spec: Spec, data: Any) -> Any:
    """The data of a config's `data` group. UserError where the first example has no label, with what gives them one."""
    try:
        first = data[0]
    except UserError:  # of this one: whoever reads it stops or skips it
        return data
    if first.get("label") is not None:
        return data
    named = "label_key" in parameters(pick("data", spec["name"], SOURCES))
    advice = _LABELS.get(spec["name"], "; say data.label_key=NAME where it is called otherwise" if named else "")
    raise UserError(f"data {spec['name']!r}: example 0 has no label, the number of its class{advice}")


def cropping(prepare: Preprocess, options: Spec, *, distort: bool = True) -> Crop:
    """How a picture becomes a row of training, by what `reading` gives: call it with a picture and a generator."""
    return Crop(prepare, options["crop"], tuple(options["crop_scale"]), distort)


def image_sizes(shape: Sequence[int] | None) -> dict[str, int]:
    """The image_size and channels of arrays of a shape, none without one. UserError for those that are no square pictures."""
    if shape is None:
        return {}
    if len(shape) != 3 or shape[0] != shape[1]:
        raise UserError(f"the data hold arrays {tuple(shape)}; a tower takes square pictures [size, size, channels]")
    return {"image_size": shape[0], "channels": shape[2]}


def _words(context_length: int, vocabulary: Sequence[str] | None) -> WordTokenizer:
    """The word tokenizer over what the captions of a source can say, as it tells itself."""
    if vocabulary is None:
        raise UserError("tokenizer 'words' needs data that tell their `vocabulary`, as 'digits' do; nearest: 'bpe'")
    return WordTokenizer(tuple(vocabulary), context_length)


def _bpe(path: str, context_length: int) -> Tokenizer:
    """CLIP's tokenizer on a vocabulary of the user's."""
    from diffusion_jax.data.text.bpe import BpeTokenizer

    return BpeTokenizer.load(path, context_length=context_length)


def _siglip(path: str, context_length: int) -> Tokenizer:
    """SigLIP's tokenizer on a SentencePiece model of the user's."""
    from diffusion_jax.data.text.siglip_tokenizer import SiglipTokenizer

    return SiglipTokenizer.load(path, context_length)


TOKENIZERS: dict[str, Callable[..., Tokenizer]] = {"words": _words, "bpe": _bpe, "siglip": _siglip}


def tokenizer(spec: Spec | None, context_length: int, vocabulary: Sequence[str] | None = None) -> Tokenizer:
    """The tokenizer of a config's `tokenizer` group; without one, of the words in `vocabulary`."""
    spec = spec or {"name": "words"}
    given = {"context_length": context_length, "vocabulary": vocabulary}
    make = pick("tokenizer", spec["name"], TOKENIZERS)
    return construct("tokenizer", TOKENIZERS, spec, **wanted(make, given))


def preprocess(spec: Spec | None, sizes: Mapping[str, Any]) -> Preprocess:
    """How pictures become the input of a dual encoder of these sizes, from a config's `preprocess` group.

    Without one, OpenAI's way, or SigLIP's for a model with a logit bias. `size`, the short side before the crop, is the
    model's image_size unless it is given; the crop is always image_size. `channels` are the model's. UserError for a size
    below the image_size, and for other channels.
    """
    options = dict(spec or {})
    if not spec and sizes["logit_bias"]:
        options = {"mean": HALF, "std": HALF, "resize": "squash"}
    edge = sizes["vision"]["image_size"]
    accepts("preprocess", Preprocess, options, ("crop",))
    own = sizes["vision"].get("channels", 3)
    if options.get("channels") not in (None, own) or own not in (1, 3):
        raise UserError(
            f"config keys 'preprocess.channels' and 'model.vision.channels' are {options.get('channels')} and {own}: "
            "pictures have 3, or 1 for grey, and the model takes what they have"
        )
    options["channels"] = own
    crop = None if options.get("size", edge) == edge else edge
    return Preprocess(**{"size": edge, **options, "crop": crop})


GENERATIVE: dict[str, Any] = {
    "size": None, "channels": None, "resize": "shortest", "interpolation": "bicubic", "exif": True, "background": None,
}  # fmt: skip
"""The group `preprocess` of what draws pictures: levels 0 .. 255 stand for [-1, 1], and only the square is cut."""


def pictures(
    spec: Spec | None, data: Any = None, *, shape: Sequence[int] | None = None, crop: str = "center"
) -> Preprocess:
    """How pictures become the uint8 [size, size, channels] of a model that draws them, from a config's `preprocess` group.

    A `size` or `channels` that the group does not say are those of `shape`, which a run notes, or else of all pictures of
    `data`, told from a sample. With `crop` "none" (of `reading`) pictures are squashed whole, held-out ones too. Its
    `pixels(raw)` is an example, `cropping(..., distort=False)` a row of training. UserError where the pictures are of several
    sizes or some grey and some coloured, and the group does not say which they are to be.
    """
    for key in spec or {}:
        one_of("key of preprocess", key, GENERATIVE)
    options = {**GENERATIVE, **dict(spec or {})}
    known = {"size": options["size"], "channels": options["channels"]}
    if shape is not None:
        known = {"size": known["size"] or shape[0], "channels": known["channels"] or shape[2]}
    if None in known.values():
        found = survey(data)
        known["channels"] = known["channels"] or channels_of(found, "preprocess.channels")
        known["size"] = known["size"] or size_of(found, "preprocess.size")
    made = Preprocess(mean=HALF, std=HALF, **{**options, **known})
    return dataclasses.replace(made, resize="squash") if crop == "none" and made.resize == "shortest" else made


def check_pictures(config: Spec) -> None:
    """UserError for a `preprocess` of data that are no pictures, and for one that cannot be."""
    said = config.get("preprocess")
    if not gives_pictures(config["data"]):
        if said is not None:
            raise UserError(
                f"config key 'preprocess' is {short(dict(said))}: the data {config['data']['name']!r} are arrays, taken as "
                "they are"
            )
        return
    known = {key: value for key, value in (("size", 8), ("channels", 3)) if (said or {}).get(key) is None}
    how = reading(config["data"])
    cropping(pictures({**dict(said or {}), **known}, crop=how["crop"]), how, distort=False)
