"""The names of an autoencoder's weights, as entries (`entries`): diffusers' AutoencoderKL and VQModel, and latent diffusion's.

Latent diffusion counts the levels of the decoder from the finest, diffusers (and this package) from the coarsest. It keeps
attention's maps as 1x1 convolutions; so do some of diffusers' older files, which is a matter of shape alone (`convolved`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion_jax.convert.entries import Entry, Rule, conv, plain
from diffusion_jax.typing import one_of

__all__ = ["LAYOUTS", "vae_entries"]


@dataclasses.dataclass(frozen=True)
class Names:
    """A layout: patterns of places, {i} a level and {j} a block, and the names of parts."""

    down: str
    down_attention: str
    down_change: str
    up: str
    up_attention: str
    up_change: str
    middle: tuple[str, str, str]
    shortcut: str
    norm: str
    maps: tuple[str, str, str, str]
    norm_out: str
    finest_first: bool


NAMES = {
    "diffusers": Names(
        down="down_blocks.{i}.resnets.{j}",
        down_attention="down_blocks.{i}.attentions.{j}",
        down_change="down_blocks.{i}.downsamplers.0.conv",
        up="up_blocks.{i}.resnets.{j}",
        up_attention="up_blocks.{i}.attentions.{j}",
        up_change="up_blocks.{i}.upsamplers.0.conv",
        middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
        shortcut="conv_shortcut",
        norm="group_norm",
        maps=("to_q", "to_k", "to_v", "to_out.0"),
        norm_out="conv_norm_out",
        finest_first=False,
    ),
    "latent": Names(
        down="down.{i}.block.{j}",
        down_attention="down.{i}.attn.{j}",
        down_change="down.{i}.downsample.conv",
        up="up.{i}.block.{j}",
        up_attention="up.{i}.attn.{j}",
        up_change="up.{i}.upsample.conv",
        middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
        shortcut="nin_shortcut",
        norm="norm",
        maps=("q", "k", "v", "proj_out"),
        norm_out="norm_out",
        finest_first=True,
    ),
}
LAYOUTS = tuple(NAMES)


def vae_entries(config: Mapping[str, Any], *, layout: str = "diffusers", convolved: bool = False) -> list[Entry]:
    """All entries of an autoencoder whose complete config is `config`, in one of `LAYOUTS`."""
    at = _Layout(NAMES[one_of("layout", layout, LAYOUTS)], convolved)
    widths, latent, count = config["channels"], config["latent_channels"], len(config["channels"])
    normal = config["kind"] == "kl"
    coded = 2 * latent if normal else latent
    found = _conv("encoder/conv_in", "encoder.conv_in", config["in_channels"], widths[0], 3)
    for i, width in enumerate(widths):
        change = at.names.down_change if i < count - 1 else None
        found += at.level(
            f"encoder/down/{i}", "encoder.", i, (at.names.down, at.names.down_attention, change),
            (widths[max(i - 1, 0)], width), config["layers"], config["attends"][i],
        )  # fmt: skip
    found += at.middle("encoder", widths[-1], config["middle_attention"])
    found += at.end("encoder", widths[-1], coded)
    found += _conv("decoder/conv_in", "decoder.conv_in", latent, widths[-1], 3)
    found += at.middle("decoder", widths[-1], config["middle_attention"])
    for place, i in enumerate(reversed(range(count))):
        change = at.names.up_change if i else None
        found += at.level(
            f"decoder/up/{place}", "decoder.", i if at.names.finest_first else place,
            (at.names.up, at.names.up_attention, change),
            (widths[min(i + 1, count - 1)], widths[i]), config["layers"] + 1, config["up_attends"][i],
        )  # fmt: skip
    found += at.end("decoder", widths[0], config["out_channels"])
    if not normal:
        codes, dim = config["codes"], config["dim"]
        found += _conv("quant", "quant_conv", latent, dim, 1) + _conv("post_quant", "post_quant_conv", dim, latent, 1)
        return [*found, plain("codebook/rows", "quantize.embedding.weight", (codes, dim))]
    if config["quant"]:
        found += _conv("quant", "quant_conv", coded, coded, 1)
    if config["post_quant"]:
        found += _conv("post_quant", "post_quant_conv", latent, latent, 1)
    return found


@dataclasses.dataclass(frozen=True)
class _Layout:
    names: Names
    convolved: bool

    def level(
        self,
        ours: str,
        half: str,
        index: int,
        places: tuple[str, str, str | None],
        widths: tuple[int, int],
        count: int,
        attends: bool,
    ) -> list[Entry]:
        """`count` blocks, the attention after each, and what changes the size."""
        block, attention, change = places
        width, found = widths[1], []
        for j in range(count):
            entering = width if j else widths[0]
            found += self.block(f"{ours}/blocks/{j}", half + block.format(i=index, j=j), entering, width)
            if attends:
                found += self.attention(f"{ours}/attentions/{j}", half + attention.format(i=index, j=j), width)
        if change is not None:
            found += _conv(f"{ours}/change/conv", half + change.format(i=index), width, width, 3)
        return found

    def middle(self, half: str, width: int, attends: bool) -> list[Entry]:
        """Of an encoder or a decoder."""
        first, between, second = (f"{half}.{name}" for name in self.names.middle)
        found = self.block(f"{half}/middle/blocks/0", first, width, width)
        if attends:
            found += self.attention(f"{half}/middle/attention", between, width)
        return found + self.block(f"{half}/middle/blocks/1", second, width, width)

    def end(self, half: str, width: int, features_out: int) -> list[Entry]:
        """Its last norm and convolution."""
        norm = _norm(f"{half}/end/norm", f"{half}.{self.names.norm_out}", width)
        return norm + _conv(f"{half}/end/conv", f"{half}.conv_out", width, features_out, 3)

    def block(self, ours: str, theirs: str, features_in: int, width: int) -> list[Entry]:
        """A residual block."""
        found = [
            *_norm(f"{ours}/norm1", f"{theirs}.norm1", features_in),
            *_conv(f"{ours}/conv1", f"{theirs}.conv1", features_in, width, 3),
            *_norm(f"{ours}/norm2", f"{theirs}.norm2", width),
            *_conv(f"{ours}/conv2", f"{theirs}.conv2", width, width, 3),
        ]
        if features_in != width:
            found += _conv(f"{ours}/shortcut", f"{theirs}.{self.names.shortcut}", features_in, width, 1)
        return found

    def attention(self, ours: str, theirs: str, width: int) -> list[Entry]:
        """q, k and v side by side here."""
        names = [f"{theirs}.{part}" for part in self.names.maps]
        found = _norm(f"{ours}/norm", f"{theirs}.{self.names.norm}", width)
        return found + self.maps(f"{ours}/qkv", names[:3], width) + self.maps(f"{ours}/out", names[3:], width)

    def maps(self, ours: str, theirs: list[str], width: int) -> list[Entry]:
        """[width, width] maps, or 1x1 convolutions, there; one with their outputs side by side here."""
        parts = len(theirs)
        shape = (width, width, 1, 1) if self.convolved else (width, width)
        kernel = Rule(
            lambda arrays: [np.concatenate([a.reshape(width, width).T for a in arrays], axis=1)],
            lambda arrays: [a.T.reshape(shape) for a in np.split(arrays[0], parts, axis=1)],
        )
        bias = Rule(lambda arrays: [np.concatenate(arrays)], lambda arrays: np.split(arrays[0], parts))
        return [
            Entry((f"{ours}/kernel",), tuple(f"{name}.weight" for name in theirs), (shape,) * parts, kernel),
            Entry((f"{ours}/bias",), tuple(f"{name}.bias" for name in theirs), ((width,),) * parts, bias),
        ]


def _conv(ours: str, theirs: str, features_in: int, features_out: int, size: int) -> list[Entry]:
    return [
        conv(ours, theirs, features_in, features_out, size),
        plain(f"{ours}/bias", f"{theirs}.bias", (features_out,)),
    ]


def _norm(ours: str, theirs: str, width: int) -> list[Entry]:
    return [plain(f"{ours}/scale", f"{theirs}.weight", (width,)), plain(f"{ours}/bias", f"{theirs}.bias", (width,))]
