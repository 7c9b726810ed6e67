"""The one table of what every key of every config may be.

A row is "group.key", or "group[name].key" where the key means something else for the constructor of that name. A test walks
the constructors and fails for a key without a row. Zero or None mean "off" where that is the habit: `clip_norm`,
`weight_decay`, dropout rates, `data.shift`, `data.noise`, `loss.chunk`, `data.workers` (as many as there are cores).
What would make training silently stand still or go uphill lies outside: rates below 0 and at 1, decays at 1, scales of 0.
"""

from __future__ import annotations

from diffusion_jax.build import NETWORKS, PAIRS, PREDICTIONS, SCHEDULES, SOURCES, TIMES, TOKENIZERS, WEIGHTS
from diffusion_jax.build.guidance import GUIDANCE
from diffusion_jax.build.ranges import (
    BELOW_ONE,
    Range,
    choice,
    either,
    flag,
    number,
    numbers,
    optional,
    patterns,
    share,
    text,
    whole,
)  # fmt: skip
from diffusion_jax.build.samplers import GRIDS, SOLVERS
from diffusion_jax.data.pictures.preprocess import FILTERS
from diffusion_jax.nets import CLIP_MODELS
from diffusion_jax.nets.clip import TOWERS
from diffusion_jax.nets.vit import ACTIVATIONS, INITS
from diffusion_jax.process.denoiser import TIME_INPUTS
from diffusion_jax.process.prediction import KINDS
from diffusion_jax.process.times import MODE_RANGE

__all__ = ["RANGES", "REMAT", "range_of", "row_of"]

REMAT = (
    "checkpoint_dots", "checkpoint_dots_with_no_batch_dims", "dots_saveable", "dots_with_no_batch_dims_saveable",
    "everything_saveable", "nothing_saveable",
)  # fmt: skip
"""The policies of `jax.checkpoint_policies` that take no argument."""

_TIME = number(0.0, 1.0, of="a time")
_BETA = number(0.0, 1e4, above=True, usual=0.1)
_SIGMA = number(0.0, 1e6, above=True, usual=0.01, of="a noise level")
_POSITIVE = number(0.0, above=True, usual=1.0)
_SPREAD = number(0.0, 1e6, above=True, usual=0.5, of="a standard deviation")
_LEVEL = Range(
    "a noise level of at least 0, perhaps infinite", lambda value: type(value) in (int, float) and value >= 0
)
_BASES = tuple(name for name in SCHEDULES if name != "shifted")
_SIZE = whole(1, 65536)

RANGES: dict[str, Range] = {
    "system": choice("system", ("clip", "diffusion")),
    "workdir": text("the path of a folder to write, as text"),
    "seed": whole(0, 2**32 - 1, say_high=True),
    "steps": whole(1),
    "batch_size": whole(1),
    "log_every": whole(1),
    "eval_every": whole(1),
    "checkpoint_every": whole(1),
    "locked": patterns("a list of patterns of parameters' paths, such as ('^visual/',); () locks nothing"),
    "text_encoder": text("the path of a CLIP run, as text", path=True),
    "prediction": choice("prediction", PREDICTIONS),
    "time": choice("time", TIME_INPUTS),
    "sigma_data": number(0.0, above=True, usual=0.5, of="a standard deviation"),
    "data.name": choice("data", (*SOURCES, *PAIRS)),
    "data.shift": number(0.0, 8.0, of="a number of pixels"),
    "data.noise": number(0.0, 10.0, of="a standard deviation"),
    "data.path": text("the path of the pictures, as text", path=True),
    "data[tfds].path": text("the name of a dataset, as text"),
    "data.captions": optional(text("the name of a table in the folder, as text"), "the only one there"),
    "data.image_column": optional(text("the name of a column, as text"), "the first known one"),
    "data.caption_column": optional(text("the name of a column, as text"), "the first known one"),
    "data.empty": choice("data.empty", ("refuse", "drop")),
    "data.validation": number(0.0, BELOW_ONE, of="the share of the pictures that are held out,", above=True, usual=0.1),
    "data.test": share(of="the share of the pictures that are kept for a test", usual=0.1),
    "data.index": optional(text("the path of a folder, as text", path=True), "beside the shards"),
    "data.caption_key": optional(text("a key of KEY.json, as text"), "the first known one"),
    "data[tfds].caption_key": text("the name of a feature, as text"),
    "data.data_dir": optional(text("the path of a folder, as text", path=True), "TFDS's own"),
    "data.image_key": optional(text("the ending of the pictures, as text, such as jpg"), "the only one of a key"),
    "data[tfds].image_key": text("the name of a feature, as text"),
    "data.crop": choice("data.crop", ("random", "center")),
    "data.crop_scale": numbers(
        number(0.0, 1.0, above=True), 2, of="two shares of the area above 0 and at most 1, rising, such as (0.9, 1.0)",
        rising=True,
    ),
    "data.on_error": choice("data.on_error", ("raise", "skip")),
    "data.workers": whole(0, 1024),
    "data.eval_pairs": whole(2),
    "tokenizer.name": choice("tokenizer", TOKENIZERS),
    "tokenizer.path": text("the path of a vocabulary, as text", path=True),
    "preprocess.mean": numbers(number(-10.0, 10.0), 3, of="three numbers, of red, green and blue"),
    "preprocess.std": numbers(number(0.0, 10.0, above=True), 3, of="three numbers above 0, of red, green and blue"),
    "preprocess.resize": choice("preprocess.resize", ("shortest", "squash")),
    "preprocess.size": optional(_SIZE, "the model's image_size"),
    "preprocess.interpolation": choice("preprocess.interpolation", FILTERS),
    "preprocess.rgb": choice("preprocess.rgb", ("after", "before")),
    "preprocess.centre": choice("preprocess.centre", ("round", "floor")),
    "preprocess.exif": flag(),
    "zero_shot.path": text("the path of a folder of classes, as text; '' measures nothing", empty=True, path=True),
    "zero_shot.classes": optional(text("the path of a JSON file, as text", path=True), "the folders' names"),
    "zero_shot.templates": text("the name of templates or the path of a file of them, as text", path=True),
    "weights.path": text("the path of weights, as text; '' begins with fresh ones", empty=True, path=True),
    "weights.model": optional(text("the name of a published model, as text", empty=True), "the weights say it"),
    "weights.preprocess": choice("weights.preprocess", ("same", "config")),
    "model.name": choice("model", NETWORKS),
    "model.dtype": choice("dtype", ("auto", "float32", "bfloat16")),
    "model.embed": optional(_SIZE, "the preset's"),
    "model.preset": optional(choice("model.preset", ("", *CLIP_MODELS)), "none"),
    "model.logit_bias": flag(),
    "model.scan": flag(),
    "model.remat": optional(choice("model.remat", REMAT), "none"),
    "model.norm": choice("model.norm", ("saved", "plain")),
    "model.patch": whole(1, 8192),
    "model.width": _SIZE,
    "model.layers": whole(1, 1024),
    "model.heads": whole(1, 4096),
    "model.mlp_ratio": number(0.0, 64.0, above=True, usual=4.0),
    "model.time_scale": number(0.0, 1e6, above=True, usual=1.0),
    "model.dropout_rate": share(usual=0.1),
    "model.vision.tower": choice("model.vision.tower", TOWERS),
    "model.vision.image_size": whole(1, 8192),
    "model.vision.channels": whole(1, 1024),
    "model.vision.patch": whole(1, 8192),
    "model.vision.width": _SIZE,
    "model.vision[resnet].width": whole(2, 4096),
    "model.vision.layers": whole(1, 1024),
    "model.vision[resnet].layers": numbers(
        whole(1, 1024), 4, of="four whole numbers of at least 1, such as (3, 4, 6, 3)"
    ),
    "model.vision.heads": whole(1, 4096),
    "model.vision[resnet].heads": optional(whole(1, 4096), "one for 64 features"),
    "model.vision.mlp_ratio": number(0.0, 64.0, above=True, usual=4.0),
    "model.vision.pool": choice("model.vision.pool", ("avg", "class", "map")),
    "model.vision.pre_norm": flag(),
    "model.vision.norm_after_pool": flag(),
    "model.vision.activation": choice("model.vision.activation", ACTIVATIONS),
    "model.vision.init": choice("model.vision.init", INITS),
    "model.vision.eps": number(1e-12, 0.1),
    "model.vision.patch_dropout": share(usual=0.5),
    "model.vision.trim": flag(),
    "model.text.context_length": whole(2, 65536),
    "model.text.width": _SIZE,
    "model.text.layers": whole(1, 1024),
    "model.text.heads": whole(1, 4096),
    "model.text.mlp_ratio": number(0.0, 64.0, above=True, usual=4.0),
    "model.text.pool": choice("model.text.pool", ("end", "first", "last")),
    "model.text.causal": optional(flag(), "that of the pool's family"),
    "model.text.proj_bias": optional(flag(), "that of the pool's family"),
    "model.text.projected": flag(),
    "model.text.end_token": optional(whole(0), "the largest of a row"),
    "model.text.activation": choice("model.text.activation", ACTIVATIONS),
    "model.text.init": choice("model.text.init", INITS),
    "model.text.eps": number(1e-12, 0.1),
    "schedule.name": choice("schedule", SCHEDULES),
    "schedule.base": choice("schedule.base", _BASES),
    "schedule.base.name": choice("schedule.base", _BASES),
    "schedule.shift": number(0.0, 1e3, above=True, usual=1.0),
    "schedule.beta_min": _BETA,
    "schedule.beta_max": _BETA,
    "schedule.t_min": _TIME,
    "schedule.t_max": _TIME,
    "schedule.sigma_min": _SIGMA,
    "schedule.sigma_max": _SIGMA,
    "schedule.betas": either(
        choice("schedule.betas", ("linear", "scaled_linear", "cosine")),
        numbers(number(0.0, BELOW_ONE, above=True), of="a list of numbers above 0 and below 1"),
    ),
    "schedule.num_steps": optional(whole(2, 10**6), "1000"),
    "schedule.beta_start": optional(number(0.0, BELOW_ONE, above=True), "the table's"),
    "schedule.beta_end": optional(number(0.0, BELOW_ONE, above=True), "the table's"),
    "schedule.zero_terminal_snr": flag(),
    "loss.name": choice("loss", ("infonce", "sigmoid")),
    "loss.chunk": whole(0),
    "loss.micro_batches": whole(1),
    "loss.identity": flag(),
    "loss.space": choice("loss.space", KINDS),
    "loss.weight": choice("loss.weight", WEIGHTS),
    "loss.times": choice("loss.times", TIMES),
    "loss.drop": share(usual=0.1),
    "loss.uncertainty": flag(),
    "loss.weight_options.num_steps": whole(1, 10**6),
    "loss.weight_options.sigma_data": _SPREAD,
    "loss.weight_options.gamma": _POSITIVE,
    "loss.weight_options.k": _POSITIVE,
    "loss.weight_options.bias": number(-20.0, 20.0),
    "loss.times_options.location": number(-20.0, 20.0),
    "loss.times_options.scale": number(0.0, 20.0, above=True, usual=1.0),
    "loss.times_options[mode].scale": number(*MODE_RANGE),
    "loss.times_options.bins": whole(1, 10**4),
    "loss.times_options.history": whole(1, 10**4),
    "loss.times_options.uniform": number(0.0, 1.0, above=True, usual=0.001, of="a share"),
    "optimizer.name": choice("optimizer", ("adamw",)),
    "optimizer.learning_rate": number(1e-12, usual=1e-3, of="a number above 0, finite and"),
    "optimizer.warmup_steps": whole(0),
    "optimizer.schedule": choice("schedule", ("cosine", "constant")),
    "optimizer.end_scale": number(0.0, 1.0, of="a share"),
    "optimizer.b1": share(usual=0.9),
    "optimizer.b2": share(usual=0.999),
    "optimizer.eps": number(1e-15, 1.0),
    "optimizer.weight_decay": number(0.0, 100.0),
    "optimizer.clip_norm": optional(number(0.0), "off, as is 0"),
    "optimizer.no_decay": patterns("a list of patterns of the paths of parameters that do not decay"),
    "ema.decay": share(usual=0.999),
    "ema.warmup": flag(),
    "mesh.data": whole(-1, 10**6),
    "mesh.fsdp": whole(-1, 10**6),
    "sampler.solver": choice("solver", SOLVERS),
    "sampler.grid": choice("grid", GRIDS),
    "sampler.num_steps": whole(1, 10**6),
    "sampler.guidance_scale": number(0.0, 1e6, usual=3.0),
    "sampler.guidance": optional(choice("guidance", GUIDANCE), "classifier_free"),
    "sampler.guidance.name": choice("guidance", GUIDANCE),
    "sampler.guidance.eta": number(),
    "sampler.guidance.momentum": number(-1.0, 1.0),
    "sampler.guidance.norm_threshold": either(
        number(0.0, above=True), Range("infinite (no cap)", lambda value: value == float("inf"))
    ),
    "sampler.guidance.zero_above": number(0.0, 1.0),
    "sampler.guidance.rescale": optional(number(0.0, 1.0, of="a share"), "off"),
    "sampler.guidance.threshold": optional(number(0.0, 1.0, of="a share", above=True), "off"),
    "sampler.guidance.clip": optional(number(0.0, above=True), "off"),
    "sampler.guidance.interval": optional(
        numbers(_LEVEL, 2, of="a low and a high noise level, such as (0.3, 5)", rising=True), "everywhere"
    ),
}  # fmt: skip


def row_of(group: str, name: str | None, key: str) -> str:
    """The row of a key in a group whose constructor is called `name`; a schedule within a schedule has the rows of one."""
    within = "schedule" if group == "schedule.base" and f"{group}.{key}" not in RANGES else group
    own = f"{within}[{name}].{key}"
    return own if own in RANGES else f"{within}.{key}" if within else key


def range_of(group: str, name: str | None, key: str) -> Range:
    """What a key may be. KeyError for one that has no row."""
    return RANGES[row_of(group, name, key)]
