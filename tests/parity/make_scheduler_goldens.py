"""Writes tests/pipelines/golden/schedulers.npz: what diffusers' schedulers give in 12 steps, and in 9 of them from a picture.

python tests/parity/make_scheduler_goldens.py
"""

import sys
import warnings
from pathlib import Path

import diffusers
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from scheduler_peer import theirs

FOLDER = Path(__file__).parents[1] / "pipelines"
sys.path.insert(0, str(FOLDER))

from scheduler_cases import CASES, PARTS  # noqa: E402


def main() -> None:
    warnings.simplefilter("ignore")
    found = {}
    for name, config in CASES.items():
        for part, strength in PARTS.items():
            if part == "picture" and name.startswith("lms"):
                continue
            x0, timesteps = theirs(config, 12, strength)
            found[f"{name}/{part}"], found[f"{name}/{part}/timesteps"] = (
                x0[0].astype(np.float32),
                timesteps.astype(np.float32),
            )
    np.savez_compressed(FOLDER / "golden" / "schedulers.npz", **found)
    print(f"diffusers {diffusers.__version__}: {', '.join(CASES)}")


if __name__ == "__main__":
    main()
