"""Many images into a folder: `.npz` shards that are complete or absent, so that a stopped generation is resumed.

`settings.json` says what the folder holds; a folder of other settings is refused. Shard k holds the images k *
shard_size and on, as uint8 arrays `images` [n, height, width, channels], with `index` and, where there are, `prompts`.
Image i is a function of the seed and i alone; with several processes each writes every process_count-th shard.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from diffusion_jax.config import changes
from diffusion_jax.files import write_atomic
from diffusion_jax.parallel.hosts import first_decides
from diffusion_jax.report.pictures import to_uint8
from diffusion_jax.systems.system import Drawing
from diffusion_jax.typing import UserError

__all__ = ["write_shards"]


def write_shards(
    run: Drawing,
    prompts: Sequence[str] | None,
    settings: dict[str, Any],
    arguments: argparse.Namespace,
    say: Callable[[str], None],
) -> int:
    """Writes `arguments.num_images` images under `arguments.out`, skipping the shards that are there."""
    out, total, size = Path(arguments.out), arguments.num_images, arguments.shard_size
    note = settings | {
        "shard_size": size,
        "weights": run.fingerprint,
    }
    note |= {} if prompts is None else {"prompts": list(prompts)}
    first_decides(lambda: _claim(out, note, arguments.overwrite))
    shards = range(-(-total // size))
    mine = [k for k in shards if k % jax.process_count() == jax.process_index()]
    names = {k: out / f"images-{k:06d}.npz" for k in mine}
    # The last shard of an earlier, smaller generation may be shorter than it is now.
    counts = {k: min(size, total - k * size) for k in mine}
    todo = [k for k in mine if _count(names[k], say) < counts[k]]
    if len(todo) < len(mine):
        say(f"{len(mine) - len(todo)} of {len(mine)} shards are there already")
    with tqdm(total=sum(counts[k] for k in todo), unit="image", disable=not todo) as bar:
        for k in todo:
            index = np.arange(k * size, k * size + counts[k])
            texts = None if prompts is None else [prompts[i % len(prompts)] for i in index]
            parts = []
            for begin in range(0, len(index), arguments.batch_size):
                chunk = index[begin : begin + arguments.batch_size]
                wanted = None if texts is None else texts[begin : begin + arguments.batch_size]
                how = {"count": len(chunk), "start": int(chunk[0]), "batch_size": arguments.batch_size}
                parts.append(run.generate(wanted, **how, **settings))
                bar.update(len(chunk))
            shard = io.BytesIO()
            asked: dict[str, Any] = {} if texts is None else {"prompts": np.array(texts)}
            np.savez_compressed(shard, images=to_uint8(np.concatenate(parts)), **asked, index=index)
            write_atomic(names[k], shard.getvalue())
    count = jax.process_count()
    say(
        f"{total} images in {len(shards)} shards: {out}"
        + (f", {len(mine)} of them by this process" if count > 1 else "")
    )
    return 0


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
