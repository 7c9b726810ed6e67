"""The loader of pictures beside torch's DataLoader: the same JPEGs, cores, size and crop, in turn, as paired ratios.

    python benchmarks/loader_speed.py [--cores 2] [--rounds 7] [--seconds 4] [--out FILE]

Needs PyTorch beside the package (the extra `parity`). A round reads with each of the two once, one after the other, for as
long, and the ratio is the median of the rounds' (above 1: ours reads more pictures a second). Both decode by Pillow, resize the
short side by its bicubic filter, cut the centre, mirror half of the rows and give a batch of uint8; the peer has a worker
process a core (persistent, two batches ahead each, as is its default), ours a thread a core and one batch ahead, as the
training loop asks for them. Every picture is decoded each time, though in training ours keeps what is always the same: that
rate is told apart. That both give the same pixels is checked first. Other programs of the machine slow both, and its load is
written beside the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image

from diffusion_jax.data.pictures.cropping import Crop
from diffusion_jax.data.pictures.preprocess import HALF, Preprocess
from diffusion_jax.data.reading import picture_batches
from diffusion_jax.data.sources.caption_folder import PictureFolder

CASES = {"photographs": (500, 375, 64), "photographs at 224": (500, 375, 224), "thumbnails": (64, 64, 32)}
"""{name: (width, height of the JPEGs, edge of what is read)}."""
BATCH = 64


def write(folder: Path, count: int, width: int, height: int) -> None:
    """JPEGs that are about as hard to decode as photographs: coarse colours under fine noise, quality 90."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse = coarse.resize((width, height), Image.Resampling.BICUBIC)
        noisy = np.asarray(coarse, np.int16) + rng.normal(0, 6, (height, width, 3)).astype(np.int16)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=90)


class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The peer's: what torchvision's Resize, CenterCrop and RandomHorizontalFlip do to a PIL image, and nothing more."""

    def __init__(self, files: list[str], edge: int) -> None:
        self.files, self.edge = files, edge

    def __len__(self) -> int:
        return len(self.files)

    def pixels(self, index: int) -> np.ndarray:
        """The picture, resized and cut."""
        with Image.open(self.files[index]) as opened:
            picture = opened.convert("RGB")
        short, long = sorted(picture.size)
        longer = int(self.edge * long / short)
        width, height = (self.edge, longer) if picture.width <= picture.height else (longer, self.edge)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - self.edge) / 2), round((height - self.edge) / 2)
        return np.asarray(picture.crop((left, top, left + self.edge, top + self.edge)))

    def __getitem__(self, index: int) -> Any:
        pixels = torch.from_numpy(self.pixels(index).copy())
        return pixels.flip(1) if torch.rand(()) < 0.5 else pixels


def theirs(files: list[str], edge: int, cores: int) -> Iterator[int]:
    """Batches without end: how many pictures each has."""
    loader = torch.utils.data.DataLoader(
        Pictures(files, edge), BATCH, shuffle=True, num_workers=cores, persistent_workers=True, drop_last=True
    )
    while True:
        for batch in loader:
            yield len(batch)


def ours(folder: Path, edge: int, cores: int, kept: bool) -> Iterator[int]:
    """The same; what was read is `kept`, as in training, or read again."""
    crop = Crop(Preprocess(edge, HALF, HALF), "center")
    made: Any = crop if kept else lambda image, rng: crop(image, rng)
    read = picture_batches(PictureFolder(folder), BATCH, 0, made, flip=True, workers=cores)
    with ThreadPoolExecutor(1) as ahead:
        step, waiting = 0, ahead.submit(read, 0)
        while True:
            batch = waiting.result()
            step, waiting = step + 1, ahead.submit(read, step + 1)
            yield len(batch["image"])


def rate(batches: Iterator[int], seconds: float, first: int) -> float:
    """Pictures a second, from after the `first` pictures on: by then as much is read ahead as at the end."""
    while first > 0:
        first -= next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        count += next(batches)
    return count / (time.perf_counter() - start)


def same_pixels(folder: Path, files: list[str], edge: int) -> None:
    """Raises where the two do not read the same picture."""
    mine, peer = Preprocess(edge, HALF, HALF), Pictures(files, edge)
    for number in range(0, len(files), max(len(files) // 20, 1)):
        np.testing.assert_array_equal(mine.pixels(files[number]), peer.pixels(number))


def measure(name: str, arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """The rounds of one case."""
    width, height, edge = CASES[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(folder, arguments.count, width, height)
        files = sorted(str(file) for file in folder.glob("*.jpg"))
        same_pixels(folder, files, edge)
        # Each is closed before the other begins: what one reads ahead would be read in the other's time.
        ahead = 4 * BATCH
        makers = {
            "ours": lambda: rate(ours(folder, edge, arguments.cores, False), arguments.seconds, ahead),
            "torch": lambda: rate(theirs(files, edge, arguments.cores), arguments.seconds, ahead),
        }
        rates: list[dict[str, float]] = []
        for done in range(arguments.rounds):
            order = list(makers) if done % 2 == 0 else list(makers)[::-1]
            rates.append({which: makers[which]() for which in order})
            say(f"{name} {done + 1}/{arguments.rounds}: " + ", ".join(f"{k} {v:.0f}/s" for k, v in rates[-1].items()))
        again = rate(ours(folder, edge, arguments.cores, True), arguments.seconds, 2 * arguments.count)
    ratios = sorted(each["ours"] / each["torch"] for each in rates)
    middle = {which: statistics.median(each[which] for each in rates) for which in makers}
    about = {"jpegs": [width, height], "edge": edge, **middle, "ours_after_the_first_epoch": again}
    return about | {"ratio": statistics.median(ratios), "ratio_low_high": [ratios[0], ratios[-1]]}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "loader_speed_cpu.json")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: arguments.cores]))
    load = [os.getloadavg()]
    results = {}
    for name in arguments.case or CASES:
        results[name] = measure(name, arguments, lambda line: print(line, flush=True))
        print(name, json.dumps(results[name]), flush=True)
        load.append(os.getloadavg())
    about = {"cores": arguments.cores, "batch": BATCH, "rounds": arguments.rounds, "seconds": arguments.seconds}
    about |= {"python": platform.python_version(), "pillow": PIL.__version__, "torch": torch.__version__}
    about |= {"load_average_before_and_after": [round(one, 1) for one, *_ in load]}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(about | {"results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
