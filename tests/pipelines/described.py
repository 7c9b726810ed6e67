"""A pipeline's folder from a small description: its JSON and text files, and weights that a name makes.

Weights are drawn by NumPy from a seed that is the tensor's name, so that the description alone is kept, and the same folder is
made where there is no PyTorch.
"""

import json
import math
import re
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def weights(part: str, name: str, shape: list[int]) -> np.ndarray:
    """float16, of a size at which every part of a network is heard."""
    # Each block of a DiT holds a copy of one embedding of time and class.
    name = re.sub(r"^transformer_blocks\.\d+\.(?=norm1\.emb\.)", "", name)
    rng = np.random.default_rng(zlib.crc32(f"{part}/{name}".encode()))
    noise = rng.standard_normal(shape)
    if len(shape) < 2:
        return (float(name.endswith("weight")) + 0.1 * noise).astype(np.float16)
    return (noise / math.sqrt(math.prod(shape[1:]))).astype(np.float16)


def build(description: Path, folder: Path) -> Path:
    """Writes the folder of a description `{"files": {path: text}, "tensors": {path: {name: shape}}}`."""
    told = json.loads(description.read_text())
    for path, text in told["files"].items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    for path, tensors in told["tensors"].items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        made = {name: weights(path.split("/")[0], name, shape) for name, shape in tensors.items()}
        save_file(made, folder / path, metadata={"format": "pt"})
    return folder
