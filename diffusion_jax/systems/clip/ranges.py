"""What the keys of a CLIP config may be, beside those of every system (`build.key_ranges`)."""

from __future__ import annotations

from diffusion_jax.build.key_ranges import SIZE
from diffusion_jax.build.ranges import (
    Range,
    choice,
    flag,
    named,
    number,
    numbers,
    optional,
    share,
    text,
    whole,
)  # fmt: skip
from diffusion_jax.build.sources import TOKENIZERS
from diffusion_jax.nets import CLIP_MODELS
from diffusion_jax.nets.clip import TOWERS
from diffusion_jax.nets.vit import ACTIVATIONS, INITS

__all__ = ["RANGES"]

RANGES: dict[str, Range] = {
    "model.name": choice("model", ("clip",)),
    "tokenizer.name": named("tokenizer", TOKENIZERS),
    "tokenizer.path": text("the path of a vocabulary, as text", path=True),
    "preprocess.mean": numbers(number(-10.0, 10.0), 3, of="three numbers, of red, green and blue"),
    "preprocess.std": numbers(number(0.0, 10.0, above=True), 3, of="three numbers above 0, of red, green and blue"),
    "preprocess.rgb": choice("preprocess.rgb", ("after", "before")),
    "preprocess.centre": choice("preprocess.centre", ("round", "floor")),
    "zero_shot.path": text("the path of a folder of classes, as text; '' measures nothing", empty=True, path=True),
    "zero_shot.classes": optional(text("the path of a JSON file, as text", path=True), "the folders' names"),
    "zero_shot.templates": text("the name of templates or the path of a file of them, as text", path=True),
    "weights.path": text("the path of weights, as text; '' begins with fresh ones", empty=True, path=True),
    "weights.model": optional(text("the name of a published model, as text", empty=True), "the weights say it"),
    "weights.preprocess": choice("weights.preprocess", ("same", "config")),
    "model.embed": optional(SIZE, "the preset's"),
    "model.preset": optional(choice("model.preset", ("", *CLIP_MODELS)), "none"),
    "model.logit_bias": flag(),
    "model.vision.tower": choice("model.vision.tower", TOWERS),
    "model.vision.image_size": whole(1, 8192),
    "model.vision.channels": whole(1, 1024),
    "model.vision.patch": whole(1, 8192),
    "model.vision.width": SIZE,
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
    "model.text.width": SIZE,
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
    "loss.name": choice("loss", ("infonce", "sigmoid")),
    "loss.chunk": whole(0),
    "loss.micro_batches": whole(1),
    "loss.identity": flag(),
}  # fmt: skip
