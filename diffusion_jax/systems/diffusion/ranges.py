"""What the keys of a diffusion config may be, beside those of every system (`build.key_ranges`)."""

from __future__ import annotations

from diffusion_jax.build.guidance import GUIDANCE
from diffusion_jax.build.key_ranges import SIZE
from diffusion_jax.build.networks import NETWORKS
from diffusion_jax.build.noising import PREDICTIONS, SCHEDULES, TIMES, WEIGHTS
from diffusion_jax.build.ranges import (
    BELOW_ONE,
    Range,
    choice,
    either,
    flag,
    members,
    named,
    number,
    numbers,
    optional,
    share,
    text,
    whole,
)  # fmt: skip
from diffusion_jax.build.samplers import GRIDS, SOLVERS
from diffusion_jax.nets.unet.blocks import ACTIVATIONS
from diffusion_jax.nets.unet.config import BLOCKS, CONFIGURABLE, MODULATIONS, RESAMPLES, TEXTS
from diffusion_jax.process.network_time import TIME_INPUTS
from diffusion_jax.process.prediction import KINDS
from diffusion_jax.process.times import MODE_RANGE
from diffusion_jax.systems.diffusion.conditions import CONDITIONS
from diffusion_jax.systems.diffusion.conditions.image import IMAGE_KINDS
from diffusion_jax.systems.diffusion.embedding_scale import SCALINGS
from diffusion_jax.systems.diffusion.spaces import SPACES

__all__ = ["RANGES"]

_TIME = number(0.0, 1.0, of="a time")
_BETA = number(0.0, 1e4, above=True, usual=0.1)
_SIGMA = number(0.0, 1e6, above=True, usual=0.01, of="a noise level")
_POSITIVE = number(0.0, above=True, usual=1.0)
_SPREAD = number(0.0, 1e6, above=True, usual=0.5, of="a standard deviation")
_LEVEL = Range(
    "a noise level of at least 0, perhaps infinite", lambda value: type(value) in (int, float) and value >= 0
)
_ATTENDED = numbers(whole(1, 8192), of="a list of the pictures' sizes with attention, such as (16, 8)")
_BASES = tuple(name for name in SCHEDULES if name != "shifted")

RANGES: dict[str, Range] = {
    "model.name": named("model", NETWORKS),
    "condition.name": named("condition", CONDITIONS),
    "condition.encoder": text("the path of a CLIP run or of published weights, as text", path=True),
    "condition.cache": optional(text("the path of a folder, as text"), "nothing is kept on disk"),
    "condition.drop": share(usual=0.1),
    "condition.parts": members(
        "a group of conditions by names of yours, {'label': {'name': 'label'}, 'image': {'name': 'image'}}, on the command "
        "line --config.condition.parts.label.name=label --config.condition.parts.image.name=image"
    ),
    "condition.tokens": flag(),
    "condition.kind": choice("condition.kind", IMAGE_KINDS),
    "condition.factor": whole(2, 1024),
    "condition.sample_level": number(0.0, 1.0, of="a noise level"),
    "space.name": named("space", SPACES),
    "space.encoder": text("the path of a CLIP run or of published weights, as text", path=True),
    "space.autoencoder": text("the path of an autoencoder, a run or published weights, as text", path=True),
    "space.scaling": choice("space.scaling", SCALINGS),
    "space.cache": optional(text("the path of a folder, as text"), "x0 is made in the step"),
    "prediction": choice("prediction", PREDICTIONS),
    "time": choice("time", TIME_INPUTS),
    "sigma_data": number(0.0, above=True, usual=0.5, of="a standard deviation"),
    "model.patch": whole(1, 8192),
    "model.width": SIZE,
    "model.layers": whole(1, 1024),
    "model.heads": whole(1, 4096),
    "model.mlp_ratio": number(0.0, 64.0, above=True, usual=4.0),
    "model.time_scale": number(0.0, 1e6, above=True, usual=1.0),
    "model.dropout_rate": share(usual=0.1),
    "model.time_shift": number(0.0, 1.0),
    "model.time_width": optional(SIZE, "the width"),
    "model.time_act": choice("model.time_act", ACTIVATIONS),
    "model.query": flag(),
    "model.pooled_norm": flag(),
    "model.norm_in": flag(),
    "model.out_dim": optional(SIZE, "as many as the vector has"),
    "model.out_channels": optional(SIZE, "as many as the picture has"),
    "model.eps": number(1e-12, 1.0, usual=1e-6),
    "model.preset": optional(choice("model.preset", CONFIGURABLE), "the sizes that are given"),
    "model.channels": optional(numbers(SIZE, of="a list of the levels' widths, such as (64, 128, 128)"), "the preset's"),
    "model[edm2_unet].channels": numbers(
        whole(1, 64), of="a list of the levels' multiples of the width, such as (1, 2, 3, 4)"
    ),
    "model[unet].layers": optional(whole(1, 64), "the preset's, or 2"),
    "model[unet].heads": optional(whole(1, 4096), "by head_dim, or one"),
    "model.head_dim": optional(SIZE, "by heads"),
    "model[edm2_unet].head_dim": SIZE,
    "model.attention": optional(_ATTENDED, "the preset's"),
    "model[edm2_unet].attention": _ATTENDED,
    "model.text": choice("model.text", TEXTS),
    "model.resample": optional(choice("model.resample", RESAMPLES), "the preset's, or conv"),
    "model.modulation": optional(choice("model.modulation", MODULATIONS), "the preset's, or scale_shift"),
    "model.block": optional(choice("model.block", BLOCKS), "the preset's, or resnet"),
    "model.image_tokens": whole(0, 64),
    "model.groups": optional(whole(1, 1024), "the preset's, or of each norm min(channels / 4, 32)"),
    "model[unet].dropout_rate": optional(share(usual=0.1), "the preset's, or 0"),
    "schedule.name": named("schedule", SCHEDULES),
    "schedule.base": named("schedule.base", _BASES),
    "schedule.base.name": named("schedule.base", _BASES),
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
    "loss.space": choice("loss.space", KINDS),
    "loss.weight": named("loss.weight", WEIGHTS),
    "loss.times": named("loss.times", TIMES),
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
    "sampler.solver": named("solver", SOLVERS),
    "sampler.grid": named("grid", GRIDS),
    "sampler.num_steps": whole(1, 10**6),
    "sampler.guidance_scale": number(0.0, 1e6, usual=3.0),
    "sampler.guidance": optional(named("guidance", GUIDANCE), "classifier_free"),
    "sampler.guidance.name": named("guidance", GUIDANCE),
    "sampler.guidance.channels": optional(whole(1), "all"),
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
