"""What the keys of every system may be, and how a row of such a table is found.

A row is "group.key", or "group[name].key" where the key means something else for the constructor of that name. A test walks
the constructors and fails for a key without a row. Zero or None mean "off" where that is the habit: `clip_norm`,
`weight_decay`, dropout rates, `data.shift`, `data.noise`, `loss.chunk`, `data.workers` (as many as there are cores).
What would make training silently stand still or go uphill lies outside: rates below 0 and at 1, decays at 1, scales of 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from diffusion_jax.build.learning import AVERAGES, OPTIMIZERS
from diffusion_jax.build.ranges import (
    BELOW_ONE,
    Range,
    choice,
    either,
    flag,
    named,
    number,
    numbers,
    one_number,
    optional,
    patterns,
    share,
    text,
    texts,
    whole,
)  # fmt: skip
from diffusion_jax.build.sources import SOURCES
from diffusion_jax.data.pictures.cropping import CROPS
from diffusion_jax.data.pictures.preprocess import RESIZE
from diffusion_jax.data.pictures.resizing import FILTERS

__all__ = ["RANGES", "REMAT", "SIZE", "range_of", "row_of", "whole_of"]

REMAT = (
    "checkpoint_dots", "checkpoint_dots_with_no_batch_dims", "dots_saveable", "dots_with_no_batch_dims_saveable",
    "everything_saveable", "nothing_saveable",
)  # fmt: skip
"""The policies of `jax.checkpoint_policies` that take no argument."""

SIZE = whole(1, 65536)
LEVELS = numbers(whole(0, 255), 3, of="three levels in 0 .. 255, of red, green and blue")

RANGES: dict[str, Range] = {
    "workdir": text("the path of a folder to write, as text"),
    "seed": whole(0, 2**32 - 1, say_high=True),
    "steps": whole(1),
    "batch_size": whole(1),
    "log_every": whole(1),
    "eval_every": whole(1),
    "checkpoint_every": whole(1),
    "locked": patterns("a list of patterns of parameters' paths, such as ('^visual/',); () locks nothing"),
    "data.name": named("data", SOURCES),
    "data.shift": number(0.0, 8.0, of="a number of pixels"),
    "data.augment": number(0.0, 1.0, of="a probability", usual=0.12),
    "data.augment_flips": number(0.0, 1.0, of="a probability", usual=1.0),
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
    "data.caption_key": optional(text("the name of a key or column, as text"), "the first known one"),
    "data[tfds].caption_key": text("the name of a feature, as text"),
    "data.data_dir": optional(text("the path of a folder, as text", path=True), "TFDS's own"),
    "data.image_key": optional(text("the name of an array or column, as text"), "the first known one"),
    "data[tar].image_key": optional(text("the ending of the pictures, as text, such as jpg"), "the only one of a key"),
    "data[tfds].image_key": text("the name of a feature, as text"),
    "data.label_key": optional(text("the name of a key, array, file, column or feature, as text"), "the first known one"),
    "data.class_names": optional(
        either(text("the path of a file of names, as text"), texts("a list of the names of the classes")), "the data's own"
    ),
    "data.classes": optional(text("the path of a JSON file, as text", path=True), "the folders' names"),
    "data.templates": optional(
        either(text("the name of templates, as text"), texts("a list of templates such as ('a photo of a {}.',)")),
        "no captions of the names of classes",
    ),
    "data.crop": choice("data.crop", CROPS),
    "data.crop_scale": numbers(
        number(0.0, 1.0, above=True), 2, of="two shares of the area above 0 and at most 1, rising, such as (0.9, 1.0)",
        rising=True,
    ),
    "data.flip": flag(),
    "data.on_error": choice("data.on_error", ("raise", "skip")),
    "data.error_share": number(0.0, 1.0, of="a share"),
    "data.workers": whole(0, 1024),
    "data.eval_pairs": whole(2),
    "preprocess.size": optional(SIZE, "the model's image_size, or that of the pictures"),
    "preprocess.channels": optional(one_number("3, or 1 for grey", 1, 3), "those of the model, or of the pictures"),
    "preprocess.resize": choice("preprocess.resize", RESIZE),
    "preprocess.interpolation": choice("preprocess.interpolation", FILTERS),
    "preprocess.exif": flag(),
    "preprocess.background": optional(
        either(text("the name of a colour, as text"), LEVELS), "what is transparent is seen as it is stored"
    ),
    "model.dtype": choice("dtype", ("auto", "float32", "bfloat16")),
    "model.scan": flag(),
    "model.remat": optional(choice("model.remat", REMAT), "none"),
    "model.norm": choice("model.norm", ("saved", "plain")),
    "optimizer.name": named("optimizer", OPTIMIZERS),
    "optimizer.learning_rate": number(1e-12, usual=1e-3, of="a number above 0, finite and"),
    "optimizer.warmup_steps": whole(0),
    "optimizer.schedule": choice("schedule", ("cosine", "constant", "inverse_sqrt")),
    "optimizer.reference_steps": whole(1),
    "optimizer.end_scale": number(0.0, 1.0, of="a share"),
    "optimizer.momentum": share(usual=0.95),
    "optimizer.b1": share(usual=0.9),
    "optimizer.b2": share(usual=0.999),
    "optimizer.eps": number(1e-15, 1.0),
    "optimizer.weight_decay": number(0.0, 100.0),
    "optimizer.clip_norm": optional(number(0.0), "off, as is 0"),
    "optimizer.no_decay": patterns("a list of patterns of the paths of parameters that do not decay"),
    "optimizer.hidden": patterns("a list of patterns of the paths of kernels that Muon turns"),
    "ema.name": named("ema", AVERAGES),
    "ema.decay": share(usual=0.999),
    "ema.images": number(1.0, 1e12, usual=500_000.0, of="a number of images"),
    "ema.ramp": number(0.0, 1e3, of="a share of the images seen"),
    "ema.width": number(0.0, 0.2886, above=True, usual=0.1, of="a relative width"),
    "ema.warmup": flag(),
    "mesh.data": whole(-1, 10**6),
    "mesh.fsdp": whole(-1, 10**6),
    "mesh.tensor": whole(1, 10**6),
}  # fmt: skip


def row_of(rows: Mapping[str, Range], group: str, name: str | None, key: str) -> str:
    """The row of a key in a group whose constructor is called `name`.

    A schedule within a schedule has the rows of one, a part of several the rows of what it is a part of.
    """
    within = "schedule" if group == "schedule.base" and f"{group}.{key}" not in rows else whole_of(group)
    own = f"{within}[{name}].{key}"
    return own if own in rows else f"{within}.{key}" if within else key


def whole_of(key: str) -> str:
    """A key or group of one part of several, `condition.parts.NAME.drop`, as that of a whole: `condition.drop`."""
    return re.sub(r"\.parts\.[^.]+(?=\.|$)", "", key)


def range_of(rows: Mapping[str, Range], group: str, name: str | None, key: str) -> Range:
    """What a key may be. KeyError for one that has no row."""
    return rows[row_of(rows, group, name, key)]
