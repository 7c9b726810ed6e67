"""The demo's scans as a folder of pictures with captions: something to try one's own pictures' way on.

    python -m experiments.digits.pictures --out pictures

writes OUT/0000.png ... and OUT/captions.csv (1,257 training scans at 64 x 72 pixels, two captions each), and in a folder a
digit the test scans, OUT-classes/, for zero-shot classification, and the training scans, OUT-train/, for a linear probe.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion_jax.cli import guarded
from diffusion_jax.data.sources.digits import CLASS_NAMES, load_digits
from diffusion_jax.typing import UserError
from experiments.arguments import made_folder


def picture(scan: np.ndarray) -> Image.Image:
    """A scan [8, 8, 1] in [-1, 1] as a picture of 64 x 72 pixels."""
    pixels = np.clip((scan[:, :, 0] + 1) * 127.5, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((64, 72), Image.Resampling.BICUBIC)


def main() -> int:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("pictures"))
    out: Path = parser.parse_args().out
    return guarded(lambda: write(out))


def write(out: Path) -> int:
    """Writes the three folders."""
    classes, learnt = (out.with_name(f"{out.name}-{name}") for name in ("classes", "train"))
    for folder in (out, classes, learnt):
        if folder.exists():
            raise UserError(f"{str(folder)!r} exists; choose another --out")
    made_folder("--out", out)
    train, test = load_digits("train"), load_digits("test")
    with (out / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption"])
        for i in range(len(train)):
            item = train[i]
            picture(item["image"]).save(out / f"{i:04d}.png")
            table.writerows([f"{i:04d}.png", caption] for caption in item["captions"][:2])
    for where, scans in ((classes, test), (learnt, train)):
        for i in range(len(scans)):
            item = scans[i]
            folder = where / CLASS_NAMES[item["label"]].split()[-1]
            folder.mkdir(parents=True, exist_ok=True)
            picture(item["image"]).save(folder / f"{i:04d}.png")
    print(f"{len(train)} pictures in {out} and {learnt}, {len(test)} in {classes}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
