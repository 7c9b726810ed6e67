"""Small folders of pictures with captions: coloured squares that say their colour."""

import csv
import io
import json
import tarfile

import numpy as np
from PIL import Image

from diffusion_jax.typing import UserError

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220), "white": (240, 240, 240)}


def write(folder, count=24, size=(20, 26), seed=0):
    """`count` PNGs and captions.csv; gives the rows [(name, caption)]."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(seed), []
    for i in range(count):
        colour = list(COLOURS)[i % len(COLOURS)]
        noise = rng.integers(-20, 20, (*size, 3))
        pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
        rows.append((f"{i:03d}.png", f"a {colour} square"))
    table(folder, rows)
    return rows


def table(folder, rows, name="captions.csv", header=("image", "caption")):
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def shards(folder, count=12, each=5, **change):
    """The pattern of `count` pictures in tars of `each`, captions in turn as text and as JSON."""
    write(folder / "pictures", count)
    names = sorted((folder / "pictures").glob("*.png"))
    for number in range(0, count, each):
        with tarfile.open(folder / f"{number // each:02d}.tar", "w") as archive:
            for i, path in enumerate(names[number : number + each]):
                archive.add(path, f"{path.stem}.png")
                text = (
                    f"picture {path.stem}"
                    if i % 2
                    else json.dumps({"caption": [f"picture {path.stem}", "again"], "w": 1})
                )
                data = change.get(path.stem, text).encode()
                member = tarfile.TarInfo(f"{path.stem}.{'txt' if i % 2 else 'json'}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return str(folder / "{00..%02d}.tar") % ((count - 1) // each)


def told(make):
    """(what `make` gives, "") or (None, its UserError's line)."""
    try:
        return make(), ""
    except UserError as error:
        line = str(error)
    assert "\n" not in line
    return None, line
