"""From config groups to objects, through plain tables of constructors.

A group is {"name": ..., other keys}: the name picks the constructor, the other keys are its keyword arguments. A name
or a key that does not exist is a `UserError` with the nearest one, before anything is traced.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import process, sampling
from diffusion_jax.data import digits
from diffusion_jax.data.caption_folder import CaptionFolder
from diffusion_jax.data.preprocess import HALF, Preprocess
from diffusion_jax.data.tar_shards import TarShards
from diffusion_jax.data.tfds_captions import TfdsCaptions
from diffusion_jax.data.tokenizer import WordTokenizer
from diffusion_jax.nets import CLIP, CLIP_MODELS, DiT, Network, TextTransformer, complete
from diffusion_jax.nets.clip import TOWERS
from diffusion_jax.process import weighting
from diffusion_jax.process.importance import Importance
from diffusion_jax.process.prediction import KINDS
from diffusion_jax.train.ema import Ema
from diffusion_jax.train.optim import adamw
from diffusion_jax.typing import Schedule, Solver, Tokenizer, UserError, one_of

__all__ = [
    "GRIDS",
    "NETWORKS",
    "SCHEDULES",
    "SOLVERS",
    "SOURCES",
    "TIMES",
    "TOKENIZERS",
    "WEIGHTS",
    "clip_network",
    "clip_sizes",
    "compute_dtype",
    "construct",
    "dit_network",
    "ema",
    "grid",
    "loss",
    "optimizer",
    "preprocess",
    "schedule",
    "solver",
    "source",
    "source_size",
    "tokenizer",
]

Spec: TypeAlias = Mapping[str, Any] | ConfigDict
"""A config group; ml_collections does not call its own a Mapping."""

SCHEDULES: dict[str, Callable[..., Any]] = {
    "vp_linear": process.VPLinear,
    "sub_vp": process.SubVP,
    "cosine": process.Cosine,
    "ve": process.VE,
    "edm": process.EDM,
    "rectified_flow": process.RectifiedFlow,
    "discrete": process.Discrete,
}
SOLVERS: dict[str, Callable[..., Any]] = {
    "ddpm": sampling.DDPM,
    "ddim": sampling.DDIM,
    "euler": sampling.Euler,
    "heun": sampling.Heun,
    "euler_ancestral": sampling.EulerAncestral,
    "edm_stochastic": sampling.EDMStochastic,
    "restart": sampling.Restart,
    "euler_maruyama": sampling.EulerMaruyama,
    "predictor_corrector": sampling.PredictorCorrector,
    "exponential_euler": sampling.ExponentialEuler,
    "dpm_solver": sampling.DPMSolver,
    "dpm_solver_pp": sampling.DPMSolverPP,
    "unipc": sampling.UniPC,
    "deis": sampling.DEIS,
    "ipndm": sampling.IPNDM,
    "pndm": sampling.PNDM,
    "lms": sampling.LMS,
    "sa_solver": sampling.SASolver,
    "consistency": sampling.ConsistencyMultistep,
    "adaptive_ode": sampling.AdaptiveODE,
}
GRIDS: dict[str, Callable[..., np.ndarray]] = {
    "uniform": sampling.uniform,
    "logsnr": sampling.logsnr_uniform,
    "karras": sampling.karras,
    "quadratic": sampling.quadratic,
    "discrete": sampling.discrete,
}
TIMES: dict[str, Callable[..., Any]] = {
    "uniform": process.times.uniform,
    "stratified": process.times.stratified,
    "logit_normal": process.times.logit_normal,
    "log_normal": process.times.log_normal,
    "mode": process.times.mode,
    "cosmap": process.times.cosmap,
    "importance": Importance,
}
WEIGHTS: dict[str, Callable[..., weighting.Weighting]] = {
    "simple": weighting.simple,
    "eps_simple": weighting.eps_simple,
    "flow_matching": weighting.flow_matching,
    "vlb": weighting.vlb,
    "vlb_discrete": weighting.vlb_discrete,
    "likelihood": weighting.likelihood,
    "edm": weighting.edm,
    "min_snr": weighting.min_snr,
    "p2": weighting.p2,
    "sigmoid": weighting.sigmoid,
}
SOURCES: dict[str, Callable[..., Any]] = {"digits": digits.load_digits}
PAIRS: dict[str, Callable[..., Any]] = {"folder": CaptionFolder, "tar": TarShards, "tfds": TfdsCaptions}
"""Pictures with captions of one's own; each takes a `split`."""
READING: dict[str, Any] = {
    "crop": "random", "crop_scale": (0.9, 1.0), "on_error": "raise", "workers": 0, "eval_pairs": 512,
}  # fmt: skip
"""How the pictures of `PAIRS` are read, beside the keys of the source itself."""
PREDICTIONS = (*KINDS, "edm")


def accepts(what: str, make: Callable[..., Any], keys: Iterable[str], given: Iterable[str] = ()) -> None:
    """UserError when `make` takes no keyword of one of these names, or cannot do without one that is not among them.

    Those in `given` are not the user's to set.
    """
    keys = list(keys)
    # The signature of an nnx class itself is that of its metaclass's call.
    signature = inspect.signature(make.__init__ if inspect.isclass(make) else make)
    known = {name: p for name, p in signature.parameters.items() if name not in {"self", "rngs", *given}}
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{what} takes no {key!r}{hint} (it takes {', '.join(known) or 'nothing'})")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in keys:
            raise UserError(f"{what} is without {name!r}, which it needs")


def construct(what: str, table: Mapping[str, Callable[..., Any]], spec: Spec, **given: Any) -> Any:
    """table[spec["name"]](**rest of spec, **given)."""
    rest = dict(spec)
    name = one_of(what, rest.pop("name"), table)
    accepts(f"{what} {name!r}", table[name], rest, given)
    return table[name](**rest, **given)


def schedule(spec: Spec) -> Schedule:
    """The schedule of a config's `schedule` group."""
    return construct("schedule", SCHEDULES, spec)


def loss(spec: Spec) -> dict[str, Any]:
    """The `space`, `weight` and `sample_t` of a config's `loss` group, for `systems.diffusion_loss`.

    The optional groups `weight_options` and `times_options` hold the keyword arguments of the weighting and the times.
    """
    accepts("loss", _loss_options, spec)
    weight, times = one_of("loss.weight", spec["weight"], WEIGHTS), one_of("loss.times", spec["times"], TIMES)
    chosen = {}
    for key in ("weight_options", "times_options"):
        chosen[key] = spec.get(key, {})
        if not isinstance(chosen[key], Mapping | ConfigDict):
            raise UserError(f"config key 'loss.{key}' is {chosen[key]!r}; it is a group of keys")
    sampler, options = TIMES[times], chosen["times_options"]
    stateful = inspect.isclass(sampler)
    accepts(f"loss.times {times!r}", sampler, options, () if stateful else ("key", "n", "schedule"))
    return {
        "space": one_of("loss.space", spec["space"], KINDS),
        "weight": construct("loss.weight", WEIGHTS, {"name": weight, **chosen["weight_options"]}),
        "sample_t": sampler(**options) if stateful else functools.partial(sampler, **options),
    }


def _loss_options(
    space: str,
    weight: str,
    times: str,
    drop: float,
    weight_options: Any = None,
    times_options: Any = None,
    uncertainty: bool = False,
) -> None:
    """The keys of a diffusion config's `loss` group; those with a default may be absent."""


def solver(name: str, **options: Any) -> Solver:
    """A solver by its name, e.g. solver("ddim", eta=0.5)."""
    return construct("solver", SOLVERS, {"name": name, **options})


def grid(name: str, num_steps: int, schedule: Schedule) -> np.ndarray:
    """The times of `num_steps` steps from the schedule's noise to its data, descending, float64 [num_steps + 1]."""
    return GRIDS[one_of("grid", name, GRIDS)](num_steps, schedule)


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


def contrastive_loss(spec: Spec | None, *, logit_bias: bool) -> dict[str, Any]:
    """The `loss` group of a CLIP config: name ("infonce", "sigmoid"), chunk, micro_batches, identity.

    `chunk` is 0 for whole logits, or how many columns of them stand at once on a device. Without a group, the loss that
    the model was made for. UserError for numbers that are no sizes, and for "sigmoid" without a logit bias.
    """
    options: dict[str, Any] = {
        "name": "sigmoid" if logit_bias else "infonce",
        "chunk": 0,
        "micro_batches": 1,
        "identity": False,
    }
    for key, value in dict(spec or {}).items():
        options[one_of("config key of loss:", key, options)] = value
    one_of("loss", options["name"], ("infonce", "sigmoid"))
    for key, least in (("chunk", 0), ("micro_batches", 1)):
        if not isinstance(options[key], int) or options[key] < least:
            raise UserError(f"config key 'loss.{key}' is {options[key]!r}; it is a whole number of at least {least}")
    if options["name"] == "sigmoid" and not logit_bias:
        raise UserError("loss 'sigmoid' needs model.logit_bias=True; nearest: loss 'infonce'")
    return options


def source_size(spec: Spec) -> dict[str, int]:
    """The image_size and channels of the images of a config's `data` group."""
    height, _, channels = source(spec, "train")[0]["image"].shape
    return {"image_size": height, "channels": channels}


def _words(context_length: int) -> WordTokenizer:
    """The word tokenizer over what the digits' captions can say."""
    from diffusion_jax.data.captions import VOCABULARY

    return WordTokenizer(VOCABULARY, context_length)


def _bpe(path: str, context_length: int) -> Tokenizer:
    """CLIP's tokenizer on a vocabulary of the user's."""
    from diffusion_jax.data.bpe import BpeTokenizer

    return BpeTokenizer.load(path, context_length=context_length)


def _siglip(path: str, context_length: int) -> Tokenizer:
    """SigLIP's tokenizer on a SentencePiece model of the user's."""
    from diffusion_jax.data.siglip_tokenizer import SiglipTokenizer

    return SiglipTokenizer.load(path, context_length)


TOKENIZERS: dict[str, Callable[..., Tokenizer]] = {"words": _words, "bpe": _bpe, "siglip": _siglip}


def tokenizer(spec: Spec | None, context_length: int) -> Tokenizer:
    """The tokenizer of a config's `tokenizer` group; without one, the words of the digits' captions."""
    return construct("tokenizer", TOKENIZERS, spec or {"name": "words"}, context_length=context_length)


def preprocess(spec: Spec | None, sizes: Mapping[str, Any]) -> Preprocess:
    """How pictures become the input of a dual encoder of these sizes, from a config's `preprocess` group.

    Without one, OpenAI's way, or SigLIP's for a model with a logit bias.
    """
    options = dict(spec or {})
    if not spec and sizes["logit_bias"]:
        options = {"mean": HALF, "std": HALF, "resize": "squash"}
    accepts("preprocess", Preprocess, options, ("size",))
    return Preprocess(size=sizes["vision"]["image_size"], **options)


def compute_dtype(name: str) -> Any:
    """The dtype of a network's computation: "auto" is bfloat16 on an accelerator and float32 on a CPU."""
    one_of("dtype", name, ("auto", "float32", "bfloat16"))
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(name)


def clip_sizes(spec: Spec, **given: Any) -> dict[str, Any]:
    """Every size of the dual encoder of a config's `model` group, as keyword arguments of `nets.CLIP`.

    The group has `embed`, `vision` and `text`, or the name of a published model as `preset` and in `vision` and `text` what
    differs from it. `given` are sizes that the data decide: image_size, channels, vocabulary_size; None leaves one
    to the group.
    """
    _model_name(spec, "clip")
    accepts("model 'clip'", _clip_options, [key for key in spec if key != "name"])
    base: Mapping[str, Any] = {"vision": {}, "text": {}}
    if spec.get("preset"):
        base = CLIP_MODELS[one_of("model.preset", spec["preset"], CLIP_MODELS)]
    elif "embed" not in spec or "vision" not in spec or "text" not in spec:
        raise UserError("model 'clip' needs 'embed', 'vision' and 'text', or a 'preset' such as 'ViT-B-16'")
    decided = {key: value for key, value in given.items() if value is not None}
    made: dict[str, Any] = {"embed": spec.get("embed") or base["embed"]}
    made["logit_bias"] = spec.get("logit_bias", base.get("logit_bias", False))
    for key, names in (("vision", ("image_size", "channels")), ("text", ("vocabulary_size",))):
        own = {name: decided[name] for name in names if name in decided}
        options = {**base[key], **spec.get(key, {})}
        make: Callable[..., Any] = TextTransformer
        if key == "vision":
            make = TOWERS[one_of("model.vision.tower", options.get("tower", "vit"), TOWERS)]
        asked = [name for name in options if name != "tower" and (name not in own or name in spec.get(key, {}))]
        accepts(f"model.{key}", make, asked, {*own, *_HOW, "embed"})
        made[key] = {**options, **own}
    return complete(made)


_HOW = ("scan", "remat", "norm", "dtype")


def clip_network(spec: Spec, **given: Any) -> Network:
    """The dual encoder of a config's `model` group; `given` as in `clip_sizes`."""
    model = clip_sizes(spec, **given)
    how = {key: spec[key] for key in ("scan", "remat", "norm") if key in spec}
    how["dtype"] = compute_dtype(spec["dtype"])
    towers = {key: {**model[key], **how} for key in ("vision", "text")}
    return Network(lambda rngs: CLIP(rngs, **{**model, **towers}))


def _clip_options(
    dtype: str,
    embed: int | None = None,
    vision: Any = None,
    text: Any = None,
    preset: str | None = None,
    logit_bias: bool = False,
    scan: bool = False,
    remat: str | None = None,
    norm: str = "saved",
) -> None:
    """The keys of a CLIP config's `model` group; those with a default may be absent."""


def dit_network(spec: Spec, *, image_size: int, channels: int, pooled: int | None, context: int | None) -> Network:
    """The diffusion transformer of a config's `model` group for this image size and condition."""
    _model_name(spec, "dit")
    given: dict[str, Any] = {"image_size": image_size, "channels": channels, "pooled": pooled, "context": context}
    options = {key: value for key, value in spec.items() if key != "name"}
    accepts("model 'dit'", DiT, options, given)
    options["dtype"] = compute_dtype(spec["dtype"])
    return Network(lambda rngs: DiT(rngs, **given, **options))


NETWORKS = {"clip": clip_network, "dit": dit_network}


def _model_name(spec: Spec, wanted: str) -> None:
    name = one_of("model", spec["name"], NETWORKS)
    if name != wanted:
        raise UserError(f"this system trains a model of name {wanted!r}, not {name!r}")


def optimizer(spec: Spec, total_steps: int, **given: Any) -> Any:
    """The optax transformation of a config's `optimizer` group over `total_steps` steps."""
    return construct("optimizer", {"adamw": adamw}, spec, total_steps=total_steps, **given)


def ema(spec: Spec) -> Ema:
    """The parameter average of a config's `ema` group."""
    return construct("ema", {"ema": Ema}, {"name": "ema", **spec})
