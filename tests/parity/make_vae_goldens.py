"""Writes tests/convert/goldens/vaes.npz: what diffusers' autoencoders give on weights that are a function of their names.

/path/to/the/parity/python tests/parity/make_vae_goldens.py
"""

import sys
from pathlib import Path

import diffusers
import numpy as np
import torch

CONVERT = Path(__file__).parents[1] / "convert"
sys.path.insert(0, str(CONVERT))

from filled import fill  # noqa: E402
from vae_cases import CASES, TILED, pictures  # noqa: E402


def main() -> None:
    found = {}

    def keep(name, value):
        found[name] = value.numpy().transpose(0, 2, 3, 1)

    for name, told in CASES.items():
        peer = getattr(diffusers, told["_class_name"])(**{k: v for k, v in told.items() if k != "_class_name"}).eval()
        state = peer.state_dict()
        peer.load_state_dict({k: torch.from_numpy(v) for k, v in fill({k: v.shape for k, v in state.items()}).items()})
        x = torch.from_numpy(pictures().transpose(0, 3, 1, 2))
        with torch.no_grad():
            if told["_class_name"] == "VQModel":
                z = peer.encode(x).latents
                keep(f"{name}/latents", z)
            else:
                posterior = peer.encode(x).latent_dist
                z = posterior.mean
                keep(f"{name}/mean", z)
                keep(f"{name}/logvar", posterior.logvar)
            keep(f"{name}/decoded", peer.decode(z).sample)
            if name == TILED:
                peer.enable_tiling()
                keep(f"{name}/tiled mean", peer.encode(x).latent_dist.mean)
                keep(f"{name}/tiled decoded", peer.decode(z).sample)
    np.savez_compressed(CONVERT / "goldens" / "vaes.npz", **found)
    print(f"diffusers {diffusers.__version__}: {', '.join(found)}")


if __name__ == "__main__":
    main()
