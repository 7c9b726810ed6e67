"""Writes tests/convert/goldens/unclip.npz: what diffusers' prior and text projection give on weights by their names.

/path/to/the/parity/python tests/parity/make_unclip_goldens.py
"""

import sys
from pathlib import Path

import diffusers
import numpy as np
import torch

CONVERT = Path(__file__).parents[1] / "convert"
sys.path.insert(0, str(CONVERT))

from filled import fill  # noqa: E402
from unclip_cases import PRIORS, PROJECTION, of_prior, of_projection  # noqa: E402
from unclip_peer import peer_of, predicted, projected  # noqa: E402


def filled(told):
    peer = peer_of(told)
    shapes = {name: value.shape for name, value in peer.state_dict().items()}
    peer.load_state_dict({name: torch.from_numpy(value) for name, value in fill(shapes).items()})
    return peer


def main() -> None:
    found = {}
    for name, told in PRIORS.items():
        peer, (x, cond) = filled(told), of_prior(name)
        found[name] = predicted(peer, x, cond)
        with torch.no_grad():
            found[f"{name}, embedding"] = peer.post_process_latents(found[name])
    image, text, tokens, _ = of_projection()
    found["tokens"], found["embedding"] = projected(filled(PROJECTION), image, text, tokens)
    np.savez_compressed(CONVERT / "goldens" / "unclip.npz", **{name: value.numpy() for name, value in found.items()})
    print(f"diffusers {diffusers.__version__}: {', '.join(found)}")


if __name__ == "__main__":
    main()
