"""The names of a U-Net's weights in guided-diffusion's files (ADM, GLIDE, Karlo) and in latent diffusion's (Stable Diffusion).

Both number the blocks on the way down, those that halve included, as `input_blocks`, and those on the way up as
`output_blocks`, to the last of a level what doubles the size is added. Attention's q, k and v are one 1-dimensional
convolution, whose outputs are in one of two orders: "heads" (each head's q, k and v together; ADM but its smallest, GLIDE,
Karlo) or "parts" (all q, all k, all v).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion_jax.convert.entries import Entry, Rule, linear, moved, plain
from diffusion_jax.convert.unet_keys import Names, _norm
from diffusion_jax.typing import UserError, one_of

__all__ = ["ORDERS", "guided_entries"]

ORDERS = ("heads", "parts")


def guided_entries(
    config: Mapping[str, Any], *, order: str = "heads", projections: str = "conv", prefix: str = ""
) -> list[Entry]:
    """All entries of a U-Net in that layout; `config` and `projections` as `unet_keys.entries`, every name after `prefix`.

    Latent diffusion's files have the prefix "model.diffusion_model.". UserError for what the layout has no names for.
    """
    one_of("order", order, ORDERS)
    found = _Guided(config, projections)
    found.order = order
    return moved(found.all(), theirs=prefix)


class _Guided(Names):
    """The other layout."""

    ENDS = ("input_blocks.0.0", "out.0", "out.2")
    BLOCK: Mapping[str, str] = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "embed": "emb_layers.1", "norm2": "out_layers.0",
        "conv2": "out_layers.3", "shortcut": "skip_connection",
    }  # fmt: skip
    DOWN, UP = "op", "conv"
    order = "heads"

    def down_place(self, level: int, at: int) -> tuple[str, str]:
        """Of the block after those of the levels before, and what halves them."""
        index = 1 + sum(self.config["layers"][:level]) + level + at
        return f"input_blocks.{index}.0", f"input_blocks.{index}.1"

    def down_change(self, level: int) -> str:
        """After the level's blocks."""
        return f"input_blocks.{1 + sum(self.config['layers'][: level + 1]) + level}.0"

    def middle_place(self, at: int) -> str:
        """Numbered, without a gap where there is no attention."""
        attends = self.config["middle"] not in ("plain", "single")
        return f"middle_block.{at if attends else min(at, 1)}"

    def _output(self, place: int, at: int) -> int:
        layers = list(reversed(self.config["layers"]))
        return sum(layers[:place]) + place + at

    def up_place(self, place: int, at: int) -> tuple[str, str]:
        """As on the way down."""
        index = self._output(place, at)
        return f"output_blocks.{index}.0", f"output_blocks.{index}.1"

    def up_change(self, place: int) -> str:
        """The last part of the level's last block."""
        level = len(self.config["channels"]) - 1 - place
        last = self._output(place, self.config["layers"][level])
        return f"output_blocks.{last}.{1 if self.config['up'][level] == 'plain' else 2}"

    def _pixels(
        self, ours: str, theirs: str, kind: str, width: int, context: int, heads: int, only: bool, normed: bool
    ) -> list[Entry]:
        if only or self.config.get("text_norm") or not normed:
            raise UserError(
                "guided-diffusion's layout has no attention to text alone, none with a norm of the text, and none without one"
            )
        found = _norm(f"{ours}/norm", f"{theirs}.norm", width)
        if kind == "attention":
            found += self._fused([f"{ours}/qkv"], [3], f"{theirs}.qkv", width, width, heads)
        else:
            found += self._fused([f"{ours}/q", f"{ours}/kv"], [1, 2], f"{theirs}.qkv", width, width, heads)
            found += self._fused([f"{ours}/text_kv"], [2], f"{theirs}.encoder_kv", context, width, heads)
        return found + self._fused([f"{ours}/out"], [1], f"{theirs}.proj_out", width, width, 1)

    def _fused(
        self, ours: list[str], counts: list[int], theirs: str, features_in: int, width: int, heads: int
    ) -> list[Entry]:
        """A 1-dimensional convolution [n width, in, 1] there; one map, or several of `counts` parts of the n, here."""
        total, ordered = sum(counts), self.order == "parts"
        cuts = np.cumsum(counts)[:-1] * width

        def by_part(a: np.ndarray) -> np.ndarray:
            """The rows with all of a part together."""
            rows = a.reshape(heads, total, width // heads, -1)
            return a if ordered else rows.swapaxes(0, 1).reshape(a.shape)

        def by_head(a: np.ndarray) -> np.ndarray:
            rows = a.reshape(total, heads, width // heads, -1)
            return a if ordered else rows.swapaxes(0, 1).reshape(a.shape)

        kernels = Rule(
            lambda arrays: [part.T for part in np.split(by_part(arrays[0][:, :, 0]), cuts)],
            lambda arrays: [by_head(np.concatenate([a.T for a in arrays]))[:, :, None]],
        )
        biases = Rule(
            lambda arrays: np.split(by_part(arrays[0]), cuts), lambda arrays: [by_head(np.concatenate(arrays))]
        )
        rows = total * width
        return [
            Entry(tuple(f"{name}/kernel" for name in ours), (f"{theirs}.weight",), ((rows, features_in, 1),), kernels),
            Entry(tuple(f"{name}/bias" for name in ours), (f"{theirs}.bias",), ((rows,),), biases),
        ]

    def _hearing(self) -> list[Entry]:
        heard, width = self.heard, self.width
        known = {
            "width", "time", "time_features", "cosine_first", "shift", "classes", "tokens", "context", "ids", "id_features",
            "pooled", "embedding", "embedding_by", "act", "time_scale", "post", "final", "guidance", "joins",
            "fourier_scale", "fourier_log", "pooled_by", "image_tokens",
        }  # fmt: skip
        said = [name for name, value in heard.items() if value not in (None, False) and name not in known]
        plainly = heard.get("time", "positional") == "positional" and (
            not heard.get("embedding") or heard.get("embedding_by") == "identity"
        )
        if said or not plainly or any(heard.get(name) for name in ("guidance", "joins")):
            raise UserError(f"guided-diffusion's layout has no names for hearing {', '.join(said) or 'so'}")
        features = heard.get("time_features") or self.base
        found = linear("hearing/time_mlp/linear_1", "time_embed.0", features, width)
        found += linear("hearing/time_mlp/linear_2", "time_embed.2", width, width)
        if heard.get("classes"):
            found.append(plain("hearing/label", "label_emb.weight", (heard["classes"], width)))
        if heard.get("ids"):
            size = (heard.get("pooled") or 0) + heard["ids"] * heard["id_features"]
            found += linear("hearing/ids_mlp/linear_1", "label_emb.0.0", size, width)
            found += linear("hearing/ids_mlp/linear_2", "label_emb.0.2", width, width)
        return found
