"""Many images into a folder: files that are complete or absent, so that a stopped generation is resumed.

`settings.json` says what the folder holds; a folder of other settings is refused. Image i is a function of the seed and i
alone; with several processes each writes every process_count-th part. What the parts are, the format says:

- "npz": shard k holds the images k * shard_size and on, as uint8 arrays `images` [n, height, width, channels] (of a run
  that draws vectors as they are, float32 [n, size]), with `index` and, where something is asked for, `prompts`, `labels`,
  `pictures` or `masks`;
- "png": see `cli.pngs`.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from diffusion_jax.cli.asking import Asked
from diffusion_jax.cli.notices import counted
from diffusion_jax.cli.pngs import COLUMNS, write_pngs
from diffusion_jax.config import changes
from diffusion_jax.files import write_atomic
from diffusion_jax.parallel.hosts import first_decides
from diffusion_jax.report.pictures import to_uint8
from diffusion_jax.systems.system import Drawing
from diffusion_jax.typing import UserError

__all__ = ["write_images"]

Say = Callable[[str], None]


def write_images(
    run: Drawing, asked: Asked | None, settings: dict[str, Any], arguments: argparse.Namespace, say: Say
) -> int:
    """Writes `arguments.num_images` images under `arguments.out`, skipping those that are there."""
    out, png = Path(arguments.out), arguments.format == "png"
    note = (
        settings | ({"format": "png"} if png else {"shard_size": arguments.shard_size}) | {"weights": run.fingerprint}
    )
    note |= {} if asked is None else asked.note()
    first_decides(lambda: _claim(out, note, arguments.overwrite))

    def drawn(index: Sequence[int]) -> np.ndarray:
        """The images of consecutive numbers, at most a batch, as bytes; what is no picture as it is."""
        wanted = None if asked is None else [asked.at(i) for i in index]
        how = {"count": len(index), "start": index[0], "batch_size": arguments.batch_size}
        images = run.generate(wanted, **how, **settings)
        return to_uint8(images) if images.ndim == 4 and images.shape[-1] in (1, 3) else images

    if png:
        write_pngs(out, arguments.num_images, arguments.batch_size, drawn, asked, arguments.seed, say)
    else:
        _write_shards(out, arguments, drawn, asked, say)
    return 0


def _write_shards(
    out: Path,
    arguments: argparse.Namespace,
    drawn: Callable[[Sequence[int]], np.ndarray],
    asked: Asked | None,
    say: Say,
) -> None:
    total, size = arguments.num_images, arguments.shard_size
    shards = range(-(-total // size))
    mine = [k for k in shards if k % jax.process_count() == jax.process_index()]
    names = {k: out / f"images-{k:06d}.npz" for k in mine}
    # The last shard of an earlier, smaller generation may be shorter than it is now.
    counts = {k: min(size, total - k * size) for k in mine}
    todo = [k for k in mine if _count(names[k], say) < counts[k]]
    if len(todo) < len(mine):
        say(
            f"{len(mine) - len(todo)} of {counted(len(mine), 'shard')} {'is' if len(mine) == 1 else 'are'} there already"
        )
    with tqdm(total=sum(counts[k] for k in todo), unit="image", disable=not todo) as bar:
        for k in todo:
            index = range(k * size, k * size + counts[k])
            parts = []
            for begin in range(0, len(index), arguments.batch_size):
                chunk = index[begin : begin + arguments.batch_size]
                parts.append(drawn(chunk))
                bar.update(len(chunk))
            shard = io.BytesIO()
            said: dict[str, Any] = {name: np.array(given) for name, given in _columns(asked, index)}
            np.savez_compressed(shard, images=np.concatenate(parts), **said, index=np.array(index))
            write_atomic(names[k], shard.getvalue())
    count = jax.process_count()
    say(
        f"{counted(total, 'image')} in {counted(len(shards), 'shard')}: {out}"
        + (f", {len(mine)} of them by this process" if count > 1 else "")
    )


def _columns(asked: Asked | None, index: Sequence[int]) -> Iterator[tuple[str, list[str]]]:
    """(array, text of each image) of what is asked for; "" where an image is not asked for it."""
    parts = [] if asked is None else [asked.parts(i) for i in index]
    for name in () if asked is None else asked.names:
        yield COLUMNS.get(name, "prompts"), ["" if part.get(name) is None else str(part[name]) for part in parts]


def _claim(out: Path, note: dict[str, Any], overwrite: bool) -> None:
    file = out / "settings.json"
    if overwrite and file.is_file():
        shutil.rmtree(out)
    if file.is_file():
        try:
            before = json.loads(file.read_text())
        except ValueError as error:
            raise UserError(f"{file} is not readable as JSON: choose another --out, or --overwrite") from error
        different = changes(before, note)
        if different:
            raise UserError(
                f"{out} holds images of other settings ({'; '.join(different)}): choose another --out, or --overwrite"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and holds no generation: choose another --out")
    write_atomic(file, (json.dumps(note, indent=2) + "\n").encode())


def _count(path: Path, say: Callable[[str], None]) -> int:
    """How many images a shard holds; none when it is missing or, which is said, damaged."""
    if not path.is_file():
        return 0
    try:
        with path.open("rb") as file, np.load(file) as shard:
            return len(shard["images"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        say(f"{path} is damaged and is made again")
        return 0
