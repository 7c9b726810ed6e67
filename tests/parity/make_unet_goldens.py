"""Writes tests/convert/goldens/unets.npz: what diffusers' U-Nets give on weights that are a function of their names.

/path/to/the/parity/python tests/parity/make_unet_goldens.py
"""

import sys
from pathlib import Path

import diffusers
import numpy as np
import torch

CONVERT = Path(__file__).parents[1] / "convert"
sys.path.insert(0, str(CONVERT))

from filled import fill  # noqa: E402
from unet_cases import CASES, TIMES, given  # noqa: E402


def main() -> None:
    found = {}
    for name, told in CASES.items():
        peer = getattr(diffusers, told["_class_name"])(**{k: v for k, v in told.items() if k != "_class_name"}).eval()
        state = peer.state_dict()
        peer.load_state_dict({k: torch.from_numpy(v) for k, v in fill({k: v.shape for k, v in state.items()}).items()})
        x, cond = given(name)
        more = {}
        if "tokens" in cond:
            more["encoder_hidden_states"] = torch.from_numpy(cond["tokens"])
        if "embedding" in cond:
            more["class_labels"] = torch.from_numpy(cond["embedding"])
        with torch.no_grad():
            y = peer(torch.from_numpy(x.transpose(0, 3, 1, 2)), torch.tensor(TIMES), **more).sample
        found[name] = y.numpy().transpose(0, 2, 3, 1)
    np.savez_compressed(CONVERT / "goldens" / "unets.npz", **found)
    print(f"diffusers {diffusers.__version__}: {', '.join(found)}")


if __name__ == "__main__":
    main()
