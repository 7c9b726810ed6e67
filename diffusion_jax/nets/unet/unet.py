"""The U-Net of diffusion (arXiv 1505.04597, 2006.11239): from the sizes of DDPM and ADM to those of GLIDE, Karlo and Stable
Diffusion.

    skips = [conv_in(xt)]; down: each level's outputs join the skips; middle; up: each block takes the last skip; norm, act,
    conv_out.

`levels` says what stands at one resolution, `attention` the three kinds of attention, `embedding` what time and condition
become. Its options are those in which the published families differ; `presets` has the families by name.

The condition is a dict of the entries that the network has sizes for: `label` [batch], `embedding` [batch, d], `pooled` [batch,
d], `ids` [batch, n], `level` [batch], `augment` [batch, k] and `guidance` [batch] go into the embedding; `tokens` [batch, keys,
d] with `length` [batch] are attended to, all of them without it; `image` [batch, height, width, c] is joined to xt by channels,
and so is `hint` [batch, 8 height, 8 width, 3], a control made small by convolutions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from diffusion_jax.nets.entries import check_entries
from diffusion_jax.nets.unet.blocks import activation
from diffusion_jax.nets.unet.convolution import Conv, GroupNorm, Shrunk, nearest_divisor
from diffusion_jax.nets.unet.hearing import Hearing
from diffusion_jax.nets.unet.levels import Down, How, Level, Middle, Up
from diffusion_jax.typing import UserError

__all__ = ["UNet"]


class UNet(nnx.Module):
    """Noised images [batch, height, width, channels], time [batch], condition -> the network's prediction, float32.

    `channels` are the widths of the levels, the finest first, and `first` that before them (the finest's); what is one value a
    level may be a sequence in the same order. `layers` blocks on the way down and one more on the way up, with attention of
    kind `down` and `up` ("plain", "attention", "added", "cross") and `heads` heads, or heads of `head_dim` channels; `resample`
    is how the size changes between levels: "conv", "resnet" or "pool", by `filter`. `middle` is a kind, "single" or None.
    `groups` None are min(channels / 4, 32); `middle_groups` are those of the middle's attention, 0 for no norm. `classes`,
    `embedding`, `pooled`, `ids`, `augment` and `tokens` are sizes of the condition's entries, `image` the channels of what is
    joined, None where it has none; how they are heard is `hearing`, keywords of `Hearing`. `pyramid` adds the picture, made
    smaller by convolutions, to each level's beginning (arXiv 2011.13456, appendix H), `centre` maps [0, 1] to [-1, 1] first,
    `divide` divides the output by the time.
    """

    reads: ClassVar[tuple[str, ...]] = (
        "label", "embedding", "pooled", "ids", "level", "augment", "guidance", "tokens", "length", "image", "hint",
    )  # fmt: skip
    optional: ClassVar[tuple[str, ...]] = ("length",)

    @staticmethod
    def sizes(
        shape: tuple[int, ...],
        entries: Mapping[str, tuple[int, ...]],
        counts: Mapping[str, int] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """The keywords that follow from an example's `shape` and from the `entries` of its condition, as `DiT.sizes`.

        Raises UserError for examples that are no pictures, for an image of another size than the example's, and for labels of
        unknown number.
        """
        if len(shape) != 3:
            raise UserError(f"a U-Net draws pictures [height, width, channels], not arrays {tuple(shape)}")
        check_entries("a U-Net", shape, entries, counts)
        last = {name: size[-1] for name, size in entries.items() if size}
        return {
            "in_channels": shape[2],
            "classes": counts["label"] if "label" in entries else None,
            "level": "level" in entries,
            **{name: last.get(name) for name in ("embedding", "pooled", "ids", "augment", "tokens", "image")},
        }

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        in_channels: int,
        out_channels: int | None = None,
        channels: Sequence[int] = (128, 256, 256, 256),
        first: int | None = None,
        layers: int | Sequence[int] = 2,
        down: str | Sequence[str] = "plain",
        up: str | Sequence[str] | None = None,
        up_attends: str = "each",
        middle: str | None = "attention",
        heads: int | Sequence[int] | None = None,
        head_dim: int | Sequence[int] | None = None,
        up_heads: int | Sequence[int] | None = None,
        middle_heads: int | None = None,
        context: int | Sequence[int | None] | None = None,
        transformer_layers: int | Sequence[Any] = 1,
        up_transformer_layers: Sequence[Any] | None = None,
        only_text: bool | Sequence[bool] = False,
        middle_only_text: bool | None = None,
        resample: str | Sequence[str] = "conv",
        up_resample: str | Sequence[str] | None = None,
        filter: str = "box",
        resample_shortcut: bool = False,
        padding: int = 1,
        modulation: str = "shift",
        activate: bool | Sequence[bool] = True,
        middle_activate: bool | None = None,
        groups: int | None = 32,
        middle_groups: int | None = None,
        eps: float = 1e-5,
        act: str = "silu",
        act_out: str | None = None,
        out_scale: float | Sequence[float] = 1.0,
        middle_scale: float | None = None,
        text_norm: str | None = None,
        dual: bool = False,
        block: str = "resnet",
        kernel_in: int = 3,
        kernel_out: int = 3,
        centre: bool = False,
        divide: bool = False,
        pyramid: bool = False,
        image: int | None = None,
        classes: int | None = None,
        level: bool = False,
        embedding: int | None = None,
        pooled: int | None = None,
        ids: int | None = None,
        augment: int | None = None,
        tokens: int | None = None,
        hearing: Mapping[str, Any] = MappingProxyType({}),
        dropout_rate: float = 0.0,
        scan: bool = False,
        remat: str | None = None,
        norm: str = "saved",
        dtype: Any = jnp.float32,
    ) -> None:
        count = len(channels)

        def each(what: str, given: Any) -> list[Any]:
            """One value a level."""
            if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
                return [given] * count
            if len(given) != count:
                raise UserError(
                    f"{what} {tuple(given)} are {len(given)} for {count} levels of channels {tuple(channels)}"
                )
            return list(given)

        layer_counts, down_kinds = each("layers", layers), each("down", down)
        up_kinds = each("up", down_kinds if up is None else up)
        down_changes = each("resample", resample)
        up_changes = each("up_resample", down_changes if up_resample is None else up_resample)
        sizes = {
            "classes": classes, "embedding": embedding, "pooled": pooled, "ids": ids, "augment": augment, "tokens": tokens,
        }  # fmt: skip
        heard = {name: size for name, size in sizes.items() if size is not None}
        heard = heard | ({"level": True} if level else {}) | dict(hearing)
        contexts = each("context", heard.get("context", heard.get("tokens")) if context is None else context)
        texts = each("only_text", only_text)
        lowest_attends = middle not in (None, "plain", "single") and middle_heads is None
        attends = [kinds != ("plain", "plain") for kinds in zip(down_kinds, up_kinds, strict=True)]
        attends[-1] = attends[-1] or lowest_attends
        head_counts = _head_counts(channels, each("heads", heads), each("head_dim", head_dim), attends)
        up_counts = head_counts if up_heads is None else each("up_heads", up_heads)
        depths = each("transformer_layers", transformer_layers)
        up_depths = depths if up_transformer_layers is None else each("up_transformer_layers", up_transformer_layers)

        self.channels_in, self.image, self.levels = in_channels, image, count
        self.centre, self.divide = centre, divide
        entrance = channels[0] if first is None else first
        self.hearing = Hearing(rngs, base=entrance, **({"act": act, "norm": norm, "dtype": dtype} | heard))
        common = How(
            self.hearing.width, groups, None, eps, act, modulation, True, 1.0, dropout_rate, block, filter,
            resample_shortcut, padding, text_norm, dual, scan, remat, norm, dtype,
        )  # fmt: skip
        activates, scales = each("activate", activate), each("out_scale", out_scale)
        hows = [dataclasses.replace(common, activate=activates[i], out_scale=float(scales[i])) for i in range(count)]
        entering = in_channels + (image or 0) + self.hearing.hint_channels
        self.conv_in = Conv(entering, entrance, kernel_in, rngs, dtype=dtype)
        kept, width, downs = [entrance], entrance, []
        for i in range(count):
            of = Level(
                channels[i], layer_counts[i], down_kinds[i], head_counts[i], depths[i], contexts[i], texts[i],
                down_changes[i],
            )  # fmt: skip
            last = i == count - 1
            downs.append(Down(width, of, hows[i], rngs, last=last))
            width = channels[i]
            kept += [width] * (layer_counts[i] + (not last))
        self.down = nnx.List(downs)
        of_picture = [entering, *channels]
        steps = [Shrunk(of_picture[i], channels[i], filter, rngs, dtype=dtype) for i in range(count - 1) if pyramid]
        self.pyramid = nnx.List(steps) if pyramid else None
        lowest = None
        if middle is not None:
            only = texts[-1] if middle_only_text is None else middle_only_text
            of = Level(channels[-1], 0, middle, middle_heads or head_counts[-1], depths[-1], contexts[-1], only)
            of_middle = dataclasses.replace(
                hows[-1],
                attention_groups=middle_groups,
                out_scale=hows[-1].out_scale if middle_scale is None else middle_scale,
                activate=hows[-1].activate if middle_activate is None else middle_activate,
            )
            lowest = Middle(of, of_middle, rngs)
        self.middle = lowest
        ups = []
        for i in reversed(range(count)):
            of = Level(
                channels[i], layer_counts[i] + 1, up_kinds[i], up_counts[i], up_depths[i], contexts[i], texts[i],
                up_changes[i], up_attends,
            )  # fmt: skip
            taken = [kept.pop() for _ in range(layer_counts[i] + 1)]
            ups.append(Up(width, taken, of, hows[i], rngs, last=i == 0))
            width = channels[i]
        self.up = nnx.List(ups)
        self.act = activation(act_out or act)
        self.norm_out = GroupNorm(width, common.norm_groups(width), eps=eps, norm=norm, dtype=dtype)
        zeros = jax.nn.initializers.zeros
        self.conv_out = Conv(width, out_channels or in_channels, kernel_out, rngs, kernel_init=zeros, dtype=dtype)

    def __call__(
        self,
        xt: Float[Array, "batch height width channels"],
        t: Float[Array, " batch"],
        cond: dict[str, Array] | None = None,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch height width out"]:
        """The prediction, in whatever space the network is trained for; `t` in the network's own unit.

        UserError for images of other channels, and for an `image` of another size than xt.
        """
        if xt.ndim != 4 or xt.shape[-1] != self.channels_in:
            raise UserError(f"this network takes [batch, height, width, {self.channels_in}]; given {xt.shape}")
        told, hint = self.hearing(t, cond)
        x = 2 * xt - 1 if self.centre else xt
        if self.image is not None:
            x = jnp.concatenate([x, _joined(cond, (*xt.shape[:3], self.image)).astype(x.dtype)], axis=-1)
        if hint is not None:
            x = jnp.concatenate([x, hint.astype(x.dtype)], axis=-1)
        keys = [None if key is None else jax.random.fold_in(key, i) for i in range(2 * self.levels + 1)]
        picture, x = x, self.conv_in(x)
        kept = [x]
        for i, down in enumerate(self.down):
            kept += down(x, told, key=keys[i], train=train)
            if self.pyramid is not None and i < self.levels - 1:
                picture = kept[-1] = (kept[-1] + self.pyramid[i](picture)) / math.sqrt(2)
            x = kept[-1]
        if self.middle is not None:
            x = self.middle(x, told, key=keys[self.levels], train=train)
        for i, up in enumerate(self.up):
            taken = [kept.pop() for _ in range(len(up.blocks))]
            _, height, width, _ = kept[-1].shape if kept else x.shape
            x = up(x, taken, told, (height, width), key=keys[self.levels + 1 + i], train=train)
        y = self.conv_out(self.act(self.norm_out(x))).astype(jnp.float32)
        return y / t.astype(jnp.float32)[:, None, None, None] if self.divide else y


def _head_counts(
    channels: Sequence[int], heads: Sequence[int | None], dims: Sequence[int | None], attends: Sequence[bool]
) -> list[int]:
    """How many heads each level has: as given, or its width over the width of a head; one where neither is said."""
    found = []
    for width, count, dim, needed in zip(channels, heads, dims, attends, strict=True):
        if count is not None and dim is not None:
            raise UserError(f"heads {count} and head_dim {dim} are two ways to say one thing: give one of them")
        if dim is not None and width % dim and needed:
            raise UserError(
                f"head_dim {dim} does not divide the {width} channels of a level; nearest: {nearest_divisor(width, dim)}"
            )
        found.append(count if count is not None else 1 if dim is None else max(1, width // dim))
    return found


def _joined(cond: dict[str, Array] | None, shape: tuple[int, ...]) -> Array:
    if cond is None or "image" not in cond:
        raise UserError("this network joins the condition's 'image' to what it denoises; it was given none")
    if cond["image"].shape != shape:
        raise UserError(f"this network joins an 'image' of {shape[1:]} an example; given {cond['image'].shape[1:]}")
    return cond["image"]
