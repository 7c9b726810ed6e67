"""A folder of PNGs: a file an image, named by its number, and what each was asked for in `metadata.jsonl`.

The table is one that the sources of pictures read back (`data.name = "folder"`), and others' loaders of folders of images too:

    {"file_name": "000003.png", "text": "sneaker", "label": "sneaker", "seed": 0, "index": 3}

`text` is what was asked for in words: the prompt, or else the class, or "" of an image that was asked for by neither. Where all
are, there is no such column, and the pictures that were asked for stand under `asked_image`. The table is written when all
images are there, by whichever process finds them so; of a run that draws unasked there is nothing to say, and no table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from diffusion_jax.cli.asking import PICTURES, Asked
from diffusion_jax.cli.notices import counted
from diffusion_jax.files import write_atomic
from diffusion_jax.report.pictures import encode_png
from diffusion_jax.typing import UserError

__all__ = ["COLUMNS", "TABLE", "write_pngs"]

TABLE = "metadata.jsonl"
COLUMNS = {"prompt": "prompts", "label": "labels", "image": "pictures", "mask": "masks"}
"""What is asked for, as arrays of it are called."""


def write_pngs(
    out: Path,
    total: int,
    batch: int,
    drawn: Callable[[Sequence[int]], np.ndarray],
    asked: Asked | None,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Writes those of `total` images that are not there, `batch` at a time, each of several processes its own batches.

    `drawn(numbers)` are uint8 [n, height, width, channels]. UserError for what is no picture of 1 or 3 channels.
    """
    parts = [range(begin, min(begin + batch, total)) for begin in range(0, total, batch)]
    mine = parts[jax.process_index() :: jax.process_count()]
    todo = [(part, missing) for part in mine if (missing := [i for i in part if not _whole(_file(out, i), say)])]
    count, lacking = sum(map(len, mine)), sum(len(missing) for _, missing in todo)
    if lacking < count:
        say(f"{count - lacking} of {counted(count, 'image')} {'is' if count == 1 else 'are'} there already")
    with tqdm(total=lacking, unit="image", disable=not todo) as bar:
        for part, missing in todo:
            images = drawn(part)  # the whole part: one shape is compiled, whatever is missing of it
            if images.ndim != 4 or images.shape[-1] not in (1, 3):
                raise UserError(f"the run draws arrays of shape {images.shape[1:]}, no pictures: give --format npz")
            for i in missing:
                write_atomic(_file(out, i), encode_png(images[i - part.start]))
            bar.update(len(missing))
    if asked is not None and all(_file(out, i).is_file() for i in range(total)):
        told = any(_words(asked.parts(i)) for i in range(min(total, len(asked.different()))))
        lines = [json.dumps(_row(asked, i, seed, told), ensure_ascii=False) for i in range(total)]
        write_atomic(out / TABLE, ("\n".join(lines) + "\n").encode())
    several = f", {count} of them by this process" if jax.process_count() > 1 else ""
    say(f"{counted(total, 'image')}: {out}{several}")


def _file(out: Path, i: int) -> Path:
    return out / f"{i:06d}.png"


def _whole(path: Path, say: Callable[[str], None]) -> bool:
    """Whether a picture is there and, what is said otherwise, undamaged."""
    if not path.is_file():
        return False
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, ValueError, SyntaxError):
        say(f"{path} is damaged and is made again")
        return False
    return True


def _words(parts: Mapping[str, Any]) -> str:
    """What is asked for in words: the prompt, or else the class; "" for neither."""
    asked = {name: value for name, value in parts.items() if value is not None and name not in PICTURES}
    prompt = next((value for name, value in asked.items() if name != "label"), None)
    return str(asked.get("label", "") if prompt is None else prompt)


def _row(asked: Asked, i: int, seed: int, told: bool) -> dict[str, Any]:
    """What the table says of image i, with a text where any image was `told` one."""
    parts = {name: value for name, value in asked.parts(i).items() if value is not None}
    row: dict[str, Any] = {"file_name": _file(Path(), i).name} | ({"text": _words(parts)} if told else {})
    row |= {"label": str(parts["label"])} if "label" in parts else {}
    row |= {f"asked_{name}": str(parts[name]) for name in PICTURES if name in parts}
    return row | {"seed": seed, "index": i}
