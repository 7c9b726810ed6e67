"""The networks that have the properties of every network: how each is made, what goes in, what of the answer counts."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffusion_jax.nets import (
    CLIP,
    GLIDE,
    MLP,
    AutoencoderKL,
    DiT,
    EDM2UNet,
    ModifiedResNet,
    Network,
    PriorTransformer,
    Stack,
    TextProjection,
    TextTransformer,
    UNet,
    VectorMLP,
    VisionTransformer,
)
from diffusion_jax.nets.layers import LayerNorm, Linear

BATCH = 8
TOWER = {"width": 16, "layers": 2, "heads": 2}
VISION = {**TOWER, "image_size": 8, "channels": 1, "patch": 4}
TEXT = {**TOWER, "vocabulary_size": 20, "context_length": 6}
PROJECTION = {"embedding": 5, "tokens": 4, "width": 6, "context": 7, "count": 2}
SIGLIP = {"init": "glorot", "eps": 1e-6, "activation": "gelu_tanh"}
HOW = ("scan", "remat", "norm", "dtype")


class Own(nnx.Module):
    """A network as a researcher would bring it: points moved by layers that hear the time and a row of numbers."""

    reads: ClassVar = ("shift",)

    def __init__(self, rngs, *, scan=False, remat=None, norm="saved", dtype=jnp.float32):
        self.enter, self.leave = Linear(6, 8, rngs, dtype=dtype), Linear(8, 3, rngs, dtype=dtype)
        self.layers = Stack(lambda rngs: OwnLayer(rngs, norm, dtype), 3, rngs, scan=scan, remat=remat)

    def __call__(self, x, time, cond, *, key=None, train=False):
        heard = jnp.concatenate([x, time[:, None], cond["shift"]], axis=1)
        return self.leave(self.layers(self.enter(heard), key=key, train=train)).astype(jnp.float32)


class OwnLayer(nnx.Module):
    def __init__(self, rngs, norm, dtype):
        self.norm, self.linear = LayerNorm(8, norm=norm, dtype=dtype), Linear(8, 8, rngs, dtype=dtype)

    def __call__(self, x, *, key=None, train=False):
        return x + jnp.tanh(self.linear(self.norm(x)))


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(BATCH, *shape)), jnp.float32)


def words(seed):
    """Token rows of several lengths that end in the largest id."""
    rows = np.random.default_rng(seed).integers(1, 19, (BATCH, 6))
    rows[np.arange(BATCH), 2 + np.arange(BATCH) % 4] = 19
    return jnp.asarray(rows)


def towers(cls, **given):
    """CLIP, which says to its towers, and not itself, how they are computed."""
    return lambda rngs, **how: cls(rngs, **{**given, **{part: {**given[part], **how} for part in ("vision", "text")}})


def embedding(out):
    return out.embedding


def heard(out):
    return out["embedding"], out["tokens"]


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A network: `make(rngs, **how)`, what goes in by a seed, and the arrays of the answer that count.

    `frozen` is a pattern of parameters that no gradient reaches; `step` that of finite differences; `how` the ways of
    computing that it can be told; `unconditional` one of a class that could read more, `zero` one that begins with the
    answer 0, and `slow` one that `make test-all` alone tries.
    """

    cls: type
    options: dict[str, Any]
    inputs: Callable[[int], tuple[Any, ...]]
    answer: Callable[[Any], Any] = lambda out: out
    frozen: str = "^$"
    step: float = 0.05
    how: tuple[str, ...] = HOW
    unconditional: bool = False
    zero: bool = False
    slow: bool = False

    def network(self, **how):
        make = towers(self.cls, **self.options) if self.cls is CLIP else functools.partial(self.cls, **self.options)
        return Network(lambda rngs: make(rngs, **how))


ROWS = {
    "DiT": Row(
        DiT,
        VISION
        | {
            "pooled": 6,
            "context": 5,
            "classes": 4,
            "embedding": 3,
            "image": 2,
            "level": True,
            "augment": 9,
            "image_tokens": 2,
        },
        lambda seed: (
            normal(seed, 8, 8, 1),
            500 + 200 * normal(seed + 1),
            {
                "pooled": normal(seed + 2, 6),
                "tokens": normal(seed + 3, 4, 5),
                "length": 1 + (seed + jnp.arange(BATCH)) % 4,
                "label": (seed + jnp.arange(BATCH)) % 4,
                "embedding": normal(seed + 4, 3),
                "image": normal(seed + 5, 8, 8, 2),
                "level": jax.nn.sigmoid(normal(seed + 6)),
                "augment": normal(seed + 7, 9),
            },
        ),
        step=2e-3,  # the level's features have 1000 radians from 0 to 1
        zero=True,
    ),
    "DiT without a condition": Row(
        DiT,
        VISION,
        lambda seed: (normal(seed, 8, 8, 1), 500 + 200 * normal(seed + 1), None),
        unconditional=True,
        zero=True,
    ),
    "UNet": Row(
        UNet,
        {
            "in_channels": 1,
            "channels": (8, 16),
            "layers": 1,
            "down": ("added", "cross"),
            "middle": "attention",
            "heads": 2,
            "groups": 4,
            "modulation": "scale_shift",
            "image": 2,
            "classes": 4,
            "level": True,
            "embedding": 3,
            "pooled": 5,
            "ids": 2,
            "augment": 9,
            "tokens": 6,
            "hearing": {"guidance": 4, "hint": True, "id_features": 4},
        },
        lambda seed: (
            normal(seed, 4, 4, 1),
            5 + normal(seed + 1),
            {
                "label": (seed + jnp.arange(BATCH)) % 4,
                "level": 5 + normal(seed + 2),
                "embedding": normal(seed + 3, 3),
                "pooled": normal(seed + 4, 5),
                "ids": 5 + normal(seed + 5, 2),
                "augment": normal(seed + 6, 9),
                "guidance": 1.2 + 0.01 * normal(seed + 7),
                "tokens": normal(seed + 8, 4, 6),
                "length": 1 + (seed + jnp.arange(BATCH)) % 4,
                "image": normal(seed + 9, 4, 4, 2),
                "hint": normal(seed + 10, 32, 32, 3),
            },
        ),
        step=2e-3,  # a guidance scale's features have 1000 radians from 1 to 2
        zero=True,
    ),
    "UNet without a condition": Row(
        UNet,
        {
            "in_channels": 1,
            "channels": (8, 16),
            "layers": 1,
            "down": ("plain", "attention"),
            "groups": None,
            "resample": "resnet",
            "filter": "binomial",
            "pyramid": True,
            "block": "convnext",
            "hearing": {"time": "fourier", "fourier_log": True, "fourier_scale": 1.0},
        },
        lambda seed: (normal(seed, 6, 4, 1), jnp.exp(normal(seed + 1)), None),
        frozen="frequencies$",
        step=0.02,
        unconditional=True,
        zero=True,
        slow=True,
    ),
    "GLIDE": Row(
        GLIDE,
        {
            "in_channels": 1,
            "vocabulary_size": 20,
            "context_length": 6,
            "text_width": 8,
            "text_layers": 2,
            "text_heads": 2,
            "image": 1,
            "unet": {"channels": (8,), "layers": 1, "down": "added", "middle": "added", "heads": 2, "groups": 4},
        },
        lambda seed: (
            normal(seed, 4, 4, 1),
            500 + 200 * normal(seed + 1),
            {
                "words": words(seed),
                "length": 1 + (seed + jnp.arange(BATCH)) % 5,
                "image": normal(seed + 2, 4, 4, 1),
            },
        ),
        zero=True,
        slow=True,
    ),
    "EDM2UNet": Row(
        EDM2UNet,
        {
            "image_size": 8,
            "in_channels": 1,
            "width": 8,
            "channels": (1, 2),
            "layers": 1,
            "attention": (4,),
            "head_dim": 8,
            "classes": 4,
        },
        lambda seed: (normal(seed, 8, 8, 1), normal(seed + 1) / 4, {"label": (seed + jnp.arange(BATCH)) % 3}),
        frozen="(frequencies|phases)$",
        how=("remat", "dtype"),
        zero=True,
    ),
    "VectorMLP": Row(
        VectorMLP,
        {"dim": 6, "width": 16, "layers": 2, "pooled": 5, "embedding": 3, "classes": 4},
        lambda seed: (
            normal(seed, 6),
            500 + 200 * normal(seed + 1),
            {
                "pooled": normal(seed + 2, 5),
                "embedding": normal(seed + 3, 3),
                "label": (seed + jnp.arange(BATCH)) % 4,
            },
        ),
        zero=True,
    ),
    "PriorTransformer": Row(
        PriorTransformer,
        {"dim": 6, "pooled": 5, "context": 4, "context_length": 6, **TOWER, "pooled_norm": True, "norm_in": True},
        lambda seed: (
            normal(seed, 6),
            500 + 200 * normal(seed + 1),
            {
                "pooled": normal(seed + 2, 5),
                "tokens": normal(seed + 3, 6, 4),
                "length": 1 + (seed + jnp.arange(BATCH)) % 6,
            },
        ),
        frozen="^(mean|std)$",
        zero=True,
    ),
    "TextProjection": Row(
        TextProjection,
        PROJECTION,
        lambda seed: (normal(seed, 5), normal(seed + 1, 5), normal(seed + 2, 3, 4), 1 + (seed + jnp.arange(BATCH)) % 3),
        answer=heard,
        frozen="^null_embedding$",
        how=("norm", "dtype"),
    ),
    "TextProjection without a picture": Row(
        TextProjection,
        PROJECTION,
        lambda seed: (None, normal(seed + 1, 5), normal(seed + 2, 3, 4), 1 + (seed + jnp.arange(BATCH)) % 3),
        answer=heard,
        how=("norm", "dtype"),
    ),
    "MLP": Row(
        MLP,
        {"widths": (16, 16), "classes": 3, "features": 4, "std": 1.0},
        lambda seed: (normal(seed, 2), normal(seed + 1), normal(seed + 2, 3)),
        frozen="^frequencies$",
        how=("dtype",),
        zero=True,
    ),
    "AutoencoderKL": Row(
        AutoencoderKL,
        {
            "in_channels": 1,
            "out_channels": 1,
            "channels": (8, 16),
            "layers": 1,
            "latent_channels": 2,
            "groups": 4,
            "attends": (False, True),
        },
        lambda seed: (normal(seed, 4, 8, 1),),
        how=("remat", "norm", "dtype"),
        unconditional=True,
        slow=True,
    ),
    "CLIP": Row(
        CLIP,
        {"embed": 12, "vision": VISION, "text": TEXT},
        lambda seed: (normal(seed, 8, 8, 1), words(seed)),
        answer=lambda out: (out.image, out.text),
    ),
    "SigLIP's vision tower": Row(
        VisionTransformer,
        VISION | SIGLIP | {"pool": "map", "embed": 12},
        lambda seed: (normal(seed, 8, 8, 1),),
        answer=embedding,
    ),
    "SigLIP's text tower": Row(
        TextTransformer, TEXT | SIGLIP | {"pool": "last", "embed": 12}, lambda seed: (words(seed),), answer=embedding
    ),
    "ResNet": Row(
        ModifiedResNet,
        {"image_size": 32, "channels": 1, "width": 8, "layers": (3, 1, 1, 1), "embed": 12},
        lambda seed: (normal(seed, 32, 32, 1),),
        answer=embedding,
        frozen="(mean|var)$",
        step=1e-3,
        how=("scan", "remat", "dtype"),
    ),
    "a network of one's own": Row(
        Own, {}, lambda seed: (normal(seed, 3), normal(seed + 1), {"shift": normal(seed + 2, 2)})
    ),
}
