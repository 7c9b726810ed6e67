"""The names of a U-Net's weights in diffusers' files, as entries (`entries`): UNet2DModel and UNet2DConditionModel.

Linear maps of a transformer's ends are 1x1 convolutions in some files (`use_linear_projection` false), which is a matter of
shape alone; old files of plain attention say query, key, value and proj_attn (`renamed`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion_jax.convert.entries import Entry, Rule, conv, linear, plain

__all__ = ["Names", "entries", "joined", "renamed"]

_OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_DOUBLE = re.compile(r"\.(Conv2d_0)\.")


def renamed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors by today's names; old ones of attention and of the convolutions that change the size are known."""

    def name(old: str) -> str:
        if ".attentions." in old:
            for before, after in _OLD.items():
                old = old.replace(before, after)
        return _DOUBLE.sub(".conv.", old)

    return {name(old): value for old, value in tensors.items()}


def entries(config: Mapping[str, Any], *, projections: str = "conv") -> list[Entry]:
    """All entries of a U-Net whose keyword arguments are `config`, as `unet_config.from_diffusers` gives them.

    `projections` is how the ends of its transformers lie in the file: "conv" or "linear".
    """
    return Names(config, projections).all()


class Names:
    """What the entries of one network share; the names are diffusers', and another layout has its own."""

    ENDS = ("conv_in", "conv_norm_out", "conv_out")
    BLOCK: Mapping[str, str] = {
        "norm1": "norm1", "conv1": "conv1", "embed": "time_emb_proj", "norm2": "norm2", "conv2": "conv2",
        "shortcut": "conv_shortcut",
    }  # fmt: skip
    DOWN, UP = "conv", "conv"

    def down_place(self, level: int, at: int) -> tuple[str, str]:
        """Of a block on the way down, and of the attention after it."""
        return f"down_blocks.{level}.resnets.{at}", f"down_blocks.{level}.attentions.{at}"

    def down_change(self, level: int) -> str:
        """Of what halves the size after a level."""
        return f"down_blocks.{level}.downsamplers.0"

    def middle_place(self, at: int) -> str:
        """Of the first block, the attention and the second block of the middle: 0, 1, 2."""
        return ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")[at]

    def up_place(self, place: int, at: int) -> tuple[str, str]:
        """As `down_place`; `place` counts the levels from the lowest."""
        return f"up_blocks.{place}.resnets.{at}", f"up_blocks.{place}.attentions.{at}"

    def up_change(self, place: int) -> str:
        """Of what doubles the size after a level."""
        return f"up_blocks.{place}.upsamplers.0"

    def __init__(self, config: Mapping[str, Any], projections: str) -> None:
        self.config, self.square = config, projections == "conv"
        self.heard = dict(config.get("hearing", {}))
        base = config["channels"][0]
        self.base, self.width = base, self.heard.get("width") or 4 * base
        self.embedding = self.width * (2 if self.heard.get("joins") else 1)

    def all(self) -> list[Entry]:
        """Every entry of the layout, in the order of the network."""
        c = self.config
        widths, layers, count = c["channels"], c["layers"], len(c["channels"])
        entering = c["in_channels"] + (c.get("image") or 0) + (4 if self.heard.get("hint") else 0)
        found = self._conv("conv_in", self.ENDS[0], entering, widths[0], c.get("kernel_in", 3))
        found += self._hearing()
        kept, width = [widths[0]], widths[0]
        for i in range(count):
            ours = f"down/{i}"
            for j in range(layers[i]):
                block, attention = self.down_place(i, j)
                found += self._block(f"{ours}/blocks/{j}", block, width, widths[i])
                width = widths[i]
                kept.append(width)
                if c["down"][i] != "plain":
                    depth = _depth(c["transformer_layers"], i, j) if c["down"][i] == "cross" else 1
                    found += self._attention(
                        f"{ours}/attentions/{j}", attention, c["down"][i], i, depth, heads=c["heads"][i]
                    )
            if i < count - 1:
                kept.append(width)
                found += self._change(f"{ours}/change", self.down_change(i), c["resample"][i], width, self.DOWN)
        if c["middle"] is not None:
            found += self._middle()
        for place, i in enumerate(reversed(range(count))):
            ours = f"up/{place}"
            for j in range(layers[i] + 1):
                block, attention = self.up_place(place, j)
                found += self._block(f"{ours}/blocks/{j}", block, width + kept.pop(), widths[i])
                width = widths[i]
                if c["up"][i] != "plain":
                    depths = c.get("up_transformer_layers") or c["transformer_layers"]
                    depth = _depth(depths, i, j) if c["up"][i] == "cross" else 1
                    heads = (c.get("up_heads") or c["heads"])[i]
                    found += self._attention(f"{ours}/attentions/{j}", attention, c["up"][i], i, depth, heads=heads)
            if i:
                found += self._change(f"{ours}/change", self.up_change(place), c["up_resample"][i], width, self.UP)
        found += _norm("norm_out", self.ENDS[1], width)
        return found + self._conv("conv_out", self.ENDS[2], width, c["out_channels"], c.get("kernel_out", 3))

    def _conv(self, ours: str, theirs: str, features_in: int, features_out: int, size: int) -> list[Entry]:
        bias = plain(f"{ours}/bias", f"{theirs}.bias", (features_out,))
        return [conv(ours, theirs, features_in, features_out, size), bias]

    def _block(self, ours: str, theirs: str, features_in: int, features_out: int) -> list[Entry]:
        told = features_out * (2 if self.config["modulation"] == "scale_shift" else 1)
        name = {part: f"{theirs}.{there}" for part, there in self.BLOCK.items()}
        found = [
            *_norm(f"{ours}/norm1", name["norm1"], features_in),
            *self._conv(f"{ours}/conv1", name["conv1"], features_in, features_out, 3),
            *linear(f"{ours}/embed", name["embed"], self.embedding, told),
            *_norm(f"{ours}/norm2", name["norm2"], features_out),
            *self._conv(f"{ours}/conv2", name["conv2"], features_out, features_out, 3),
        ]
        if features_in != features_out:
            found += self._conv(f"{ours}/shortcut", name["shortcut"], features_in, features_out, 1)
        return found

    def _change(self, ours: str, theirs: str, kind: str, width: int, name: str) -> list[Entry]:
        if kind == "pool":
            return []
        if kind == "resnet":
            return self._block(ours, theirs, width, width)
        return self._conv(f"{ours}/conv", f"{theirs}.{name}", width, width, 3)

    def _middle(self) -> list[Entry]:
        c, kind = self.config, self.config["middle"]
        width = c["channels"][-1]
        found = self._block("middle/blocks/0", self.middle_place(0), width, width)
        if kind == "single":
            return found
        if kind != "plain":
            depth = _depth(c["transformer_layers"], len(c["channels"]) - 1, 0) if kind == "cross" else 1
            only = bool(c.get("middle_only_text"))
            normed = kind != "attention" or c.get("middle_groups", 1) != 0
            found += self._attention(
                "middle/attention", self.middle_place(1), kind, -1, depth,
                heads=c.get("middle_heads") or c["heads"][-1], only=only, normed=normed,
            )  # fmt: skip
        return found + self._block("middle/blocks/1", self.middle_place(2), width, width)

    def _attention(
        self,
        ours: str,
        theirs: str,
        kind: str,
        at: int,
        depth: int,
        *,
        heads: int = 1,
        only: bool | None = None,
        normed: bool = True,
    ) -> list[Entry]:
        width = self.config["channels"][at]
        if kind != "cross":
            only = self.config["only_text"][at] if kind == "added" and only is None else bool(only)
            return self._pixels(
                ours, theirs, kind, width, self.config["context"][at] if kind == "added" else 0, heads, only, normed
            )
        if not self.config.get("dual"):
            return self._transformer(ours, theirs, width, at, depth)
        first = self._transformer(f"{ours}/transformers/0", f"{theirs}.transformers.0", width, at, depth)
        return first + self._transformer(f"{ours}/transformers/1", f"{theirs}.transformers.1", width, at, depth)

    def _pixels(
        self, ours: str, theirs: str, kind: str, width: int, context: int, heads: int, only: bool, normed: bool
    ) -> list[Entry]:
        """Attention of the kinds "attention" and "added". How many `heads` it has is of no matter to diffusers' names."""
        found = _norm(f"{ours}/norm", f"{theirs}.group_norm", width) if normed else []
        if kind == "attention":
            found += joined(f"{ours}/qkv", [f"{theirs}.{part}" for part in ("to_q", "to_k", "to_v")], width, width)
            return found + linear(f"{ours}/out", f"{theirs}.to_out.0", width, width)
        found += linear(f"{ours}/q", f"{theirs}.to_q", width, width)
        if not only:
            found += joined(f"{ours}/kv", [f"{theirs}.to_k", f"{theirs}.to_v"], width, width)
        found += joined(f"{ours}/text_kv", [f"{theirs}.add_k_proj", f"{theirs}.add_v_proj"], context, width)
        if self.config.get("text_norm"):
            found += _norm(f"{ours}/text_norm", f"{theirs}.norm_cross", context)
        return found + linear(f"{ours}/out", f"{theirs}.to_out.0", width, width)

    def _transformer(self, ours: str, theirs: str, width: int, at: int, depth: int) -> list[Entry]:
        found = [
            *_norm(f"{ours}/norm", f"{theirs}.norm", width),
            *self._end(f"{ours}/proj_in", f"{theirs}.proj_in", width),
            *self._end(f"{ours}/proj_out", f"{theirs}.proj_out", width),
        ]
        context, only = self.config["context"][at], self.config["only_text"][at]
        for layer in range(depth):
            here, there = f"{ours}/blocks/layers", f"{theirs}.transformer_blocks.{layer}"
            block: list[Entry] = []
            for name, source in (("attn1", context if only else None), ("attn2", context)):
                keys = [f"{there}.{name}.{part}" for part in ("to_q", "to_k", "to_v")]
                if source is None:
                    block += joined(f"{here}/{name}/qkv", keys, width, width, bias=False)
                else:
                    block += linear(f"{here}/{name}/q", keys[0], width, width, bias=False)
                    block += joined(f"{here}/{name}/kv", keys[1:], source, width, bias=False)
                block += linear(f"{here}/{name}/out", f"{there}.{name}.to_out.0", width, width)
            for name in ("norm1", "norm2", "norm3"):
                block += _norm(f"{here}/{name}", f"{there}.{name}", width)
            block += linear(f"{here}/ff_in", f"{there}.ff.net.0.proj", width, 8 * width)
            block += linear(f"{here}/ff_out", f"{there}.ff.net.2", 4 * width, width)
            found += [dataclasses.replace(entry, layer=layer) for entry in block]
        return found

    def _end(self, ours: str, theirs: str, width: int) -> list[Entry]:
        if not self.square:
            return linear(ours, theirs, width, width)
        rule = Rule(lambda a: [a[0][:, :, 0, 0].T], lambda a: [a[0].T[:, :, None, None]])
        weight = Entry((f"{ours}/kernel",), (f"{theirs}.weight",), ((width, width, 1, 1),), rule)
        return [weight, plain(f"{ours}/bias", f"{theirs}.bias", (width,))]

    def _hearing(self) -> list[Entry]:
        heard, width, base = self.heard, self.width, self.base
        features = heard.get("time_features") or base
        found: list[Entry] = []
        if heard.get("time") == "fourier":
            found.append(plain("hearing/features/frequencies", "time_proj.weight", (features // 2,)))
        elif heard.get("time") == "learned":
            found.append(plain("hearing/features/table", "time_proj.weight", (heard["steps"], features)))
        found += _mlp("hearing/time_mlp", "time_embedding", features, width)
        if heard.get("guidance"):
            theirs = "time_embedding.cond_proj"
            found += linear("hearing/time_mlp/guidance", theirs, heard["guidance"], features, bias=False)
        if heard.get("classes"):
            found.append(plain("hearing/label", "class_embedding.weight", (heard["classes"], width)))
        if heard.get("level"):
            found += _mlp("hearing/level", "class_embedding", features, width)
        found += self._vectors()
        if heard.get("ids"):
            size = heard.get("pooled", 0) + heard["ids"] * heard["id_features"]
            found += _mlp("hearing/ids_mlp", "add_embedding", size, width)
        if heard.get("pool_heads"):
            size = heard["tokens"]
            found += [
                *_norm("hearing/pool/norm1", "add_embedding.norm1", size),
                plain("hearing/pool/position", "add_embedding.pool.positional_embedding", (1, size), reshaped=(size,)),
                *linear("hearing/pool/proj", "add_embedding.proj", size, width),
                *_norm("hearing/pool/norm2", "add_embedding.norm2", width),
            ]
            for part in "qkv":
                found += linear(f"hearing/pool/{part}", f"add_embedding.pool.{part}_proj", size, size)
        return found + self._tokens()

    def _vectors(self) -> list[Entry]:
        heard, width = self.heard, self.width
        found: list[Entry] = []
        kind, size = heard.get("embedding_by", "mlp"), heard.get("embedding")
        if size and kind == "mlp":
            found += _mlp("hearing/embedding/mlp", "class_embedding", size, width)
        elif size and kind in ("linear", "linear_norm"):
            of_picture = bool(heard.get("hint")) or heard.get("pooled_by") == "linear_norm"
            theirs = "add_embedding.image_proj" if of_picture or kind == "linear_norm" else "class_embedding"
            found += linear("hearing/embedding/linear", theirs, size, width)
            if kind == "linear_norm":
                found += _norm("hearing/embedding/norm", "add_embedding.image_norm", width)
        if heard.get("pooled") and not heard.get("ids"):
            found += linear("hearing/pooled/linear", "add_embedding.text_proj", heard["pooled"], width)
            found += _norm("hearing/pooled/norm", "add_embedding.text_norm", width)
        if heard.get("hint"):
            sizes = [3, 16, 16, 32, 32, 96, 96, 256, 4]
            for i in range(8):
                theirs = f"add_embedding.input_hint_block.{2 * i}"
                found += self._conv(f"hearing/hint/{i}", theirs, sizes[i], sizes[i + 1], 3)
        return found

    def _tokens(self) -> list[Entry]:
        heard = self.heard
        kind, found = heard.get("tokens_by"), []
        if kind == "text":
            found += linear("hearing/text_map", "encoder_hid_proj", heard["tokens"], heard["context"])
        elif kind == "text_image":
            found += linear("hearing/text_map", "encoder_hid_proj.text_proj", heard["tokens"], heard["context"])
        if kind in ("image", "text_image"):
            size = heard.get("image_tokens", 32) * heard["context"]
            found += linear("hearing/image_map/linear", "encoder_hid_proj.image_embeds", heard["embedding"], size)
        if kind == "image":
            found += _norm("hearing/image_map/norm", "encoder_hid_proj.norm", heard["context"])
        return found


def _depth(depths: Sequence[Any], level: int, at: int) -> int:
    given = depths[level]
    return given if isinstance(given, int) else given[at]


def _norm(ours: str, theirs: str, width: int) -> list[Entry]:
    return [plain(f"{ours}/scale", f"{theirs}.weight", (width,)), plain(f"{ours}/bias", f"{theirs}.bias", (width,))]


def _mlp(ours: str, theirs: str, features: int, width: int) -> list[Entry]:
    first = linear(f"{ours}/linear_1", f"{theirs}.linear_1", features, width)
    return first + linear(f"{ours}/linear_2", f"{theirs}.linear_2", width, width)


def joined(ours: str, theirs: Sequence[str], features_in: int, width: int, *, bias: bool = True) -> list[Entry]:
    """Several maps [width, features_in] there, one with their outputs side by side here."""
    parts = len(theirs)
    kernel = Rule(
        lambda arrays: [np.concatenate([a.T for a in arrays], axis=1)],
        lambda arrays: [a.T for a in np.split(arrays[0], parts, axis=1)],
    )
    names = tuple(f"{name}.weight" for name in theirs)
    found = [Entry((f"{ours}/kernel",), names, ((width, features_in),) * parts, kernel)]
    if bias:
        side = Rule(lambda arrays: [np.concatenate(arrays)], lambda arrays: np.split(arrays[0], parts))
        found.append(Entry((f"{ours}/bias",), tuple(f"{name}.bias" for name in theirs), ((width,),) * parts, side))
    return found
