"""The weights of LPIPS from a folder that holds them: VGG16's as PyTorch's model zoo has them, and those of its five stages.

    params = load_lpips("lpips")     # a folder with vgg16-397923af.pth and the vgg.pth of the package lpips, by any names

PyTorch's files of before 1.6, which both are, are read without it; .safetensors as well.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffusion_jax.convert.entries import Entry, conv, plain, read
from diffusion_jax.convert.files import SAFETENSORS, TORCH, read_tensors
from diffusion_jax.convert.pickled import read_pickled
from diffusion_jax.typing import Params, UserError

__all__ = ["holds_lpips", "load_lpips", "lpips_entries"]

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
MARKS = frozenset({"features.0.weight", "lin0.model.1.weight"})
"""An array of VGG16's, and one of the stages'."""
IGNORED = ("classifier.", "lin")
"""What else the files hold: VGG16's classifier, and the package's names of weights that are there twice."""


def lpips_entries() -> list[Entry]:
    """Every array: "features/STAGE/PLACE/kernel" and "weights/STAGE" here."""
    found, layer, before = [], 0, 3
    for stage, (width, convolutions) in enumerate(STAGES):
        for place in range(convolutions):
            ours, theirs = f"features/{stage}/{place}", f"features.{layer}"
            found += [conv(ours, theirs, before, width, 3), plain(f"{ours}/bias", f"{theirs}.bias", (width,))]
            layer, before = layer + 2, width
        layer += 1  # the pooling
        found += [plain(f"weights/{stage}", f"lin{stage}.model.1.weight", (1, width, 1, 1), reshaped=(width,))]
    return found


def holds_lpips(folder: str | Path) -> bool:
    """Whether a folder holds one of the two, by the names of its arrays: what is damaged or missing `load_lpips` says."""
    for file in _files(Path(folder)) if Path(folder).is_dir() else ():
        try:
            if not MARKS.isdisjoint(_read(file)):
                return True
        except UserError:  # another file may be whole
            continue
    return False


def load_lpips(folder: str | Path) -> Params:
    """The parameters of `metrics.lpips`, float32. UserError for a folder that lacks some, and for misshapen ones."""
    tensors = _tensors(Path(folder))
    return read(lpips_entries(), tensors, repr(str(folder)), lambda name: name.startswith(IGNORED))


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for file in _files(folder):
        found |= _read(file)
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in (*SAFETENSORS, *TORCH) and file.is_file())


def _read(file: Path) -> dict[str, np.ndarray]:
    if file.suffix in TORCH:
        try:
            return read_pickled(file)
        except UserError:  # a newer file of PyTorch's, which reads it
            pass
    return read_tensors(file)
