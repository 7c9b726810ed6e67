"""What a frozen encoder makes of the training examples, once, on disk.

A folder of a name that is a digest of all that decides its contents: the encoder's weights and its preparation of pictures, the
keys and the contents of the data, how they are prepared. When one of these changes the name is another and the outputs are
made anew; older ones stay. The folder is written beside its place and renamed, so that it is whole or not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from diffusion_jax.build import own
from diffusion_jax.config import flatten
from diffusion_jax.data.examples import to_unit
from diffusion_jax.parallel.hosts import first_decides
from diffusion_jax.systems import resume
from diffusion_jax.typing import Array, Params, Source, UserError

__all__ = ["cached", "data_key", "embedded"]

LOOKED_AT = 32
"""Examples whose very numbers count for the key, where there are no `columns` of all."""


def cached(
    folder: str, kind: str, key: Mapping[str, Any], rows: int, make: Callable[[], Iterable[Mapping[str, np.ndarray]]]
) -> dict[str, np.ndarray]:
    """Arrays of `rows` rows by name, of `folder/kind-DIGEST`, where they are made if they are not there; read as they are used.

    `make()` gives them in parts of consecutive rows, which are written one after another, so that they need not fit into
    memory. Of several processes the first makes them. UserError for what cannot be written or read.
    """
    text = json.dumps(key, sort_keys=True, default=str)
    place = Path(folder) / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    # Asked of every process: one that finds what another has just written would leave that one waiting.
    first_decides(lambda: _write(place, text, rows, make))
    found = {}
    for file in sorted(place.glob("*.npy")):
        try:
            found[file.stem] = np.load(file, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}): remove {place}, and it is made again") from error
    if not found:
        raise UserError(f"{place} holds no arrays: remove it, and it is made again")
    return found


def _write(place: Path, key: str, rows: int, make: Callable[[], Iterable[Mapping[str, np.ndarray]]]) -> None:
    if place.is_dir():
        return
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True, exist_ok=True)
        (part / "key.json").write_text(key + "\n")
        with contextlib.ExitStack() as stack:
            files: dict[str, Any] = {}
            for arrays in make():
                for name, array in arrays.items():
                    if name not in files:
                        files[name] = stack.enter_context((part / f"{name}.npy").open("wb"))
                        _begin(files[name], array, rows)
                    files[name].write(np.ascontiguousarray(array).data)
        os.replace(part, place)
    except OSError as error:
        raise UserError(f"cannot write {place}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(part)


def _begin(file: Any, first: np.ndarray, rows: int) -> None:
    """The head of an .npy of `rows` rows like the first ones: not through a memory map, which dies where the disk is full."""
    kind = np.lib.format.dtype_to_descr(first.dtype)
    head = {"descr": kind, "fortran_order": False, "shape": (rows, *first.shape[1:])}
    np.lib.format.write_array_header_1_0(file, head)


def data_key(config: ConfigDict, data: Source) -> dict[str, Any]:
    """What decides the examples of a config: its keys of the data, what lies at their paths, how pictures are prepared."""
    table, contents = resume.changes_of(config), resume.contents_of(config)
    flat = flatten(config)
    kinds = {key: resume.kind_of(key, table) for key in flat if key.startswith("data.")}
    kept = {
        key for key, kind in kinds.items() if kind != resume.FREE and not (kind == resume.MOVED and key in contents)
    }
    keys = {key: value for key, value in flat.items() if key in kept or key.startswith("preprocess.")}
    files = {module: note["sha256"] for module, note in own.record(own.own_files([config.data.name])).items()}
    return {
        "keys": keys,
        "contents": contents.get("data.path"),
        "files": files,
        "count": len(data),
        "seen": _seen(data),
    }


def _seen(data: Source) -> str:
    """A digest of the images themselves, of all where they are at hand, else of some over all places."""
    digest = hashlib.sha256()
    if hasattr(data, "columns"):
        images: Iterator[Any] = iter(data.columns()["image"])
    else:
        places = np.unique(np.linspace(0, len(data) - 1, min(len(data), LOOKED_AT)).astype(int))
        images = (_image(data, int(place)) for place in places)
    for image in images:
        if image is not None:
            digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()[:16]


def _image(data: Source, place: int) -> Any:
    try:
        return data[place]["image"]
    except UserError:  # a broken picture, which training passes over or stops at
        return None


def embedded(
    embed: Callable[[Params, Array], Array],
    params: Params,
    data: Source,
    *,
    skip: bool = False,
    name: str = "embedding pictures",
    size: int = 256,
) -> np.ndarray:
    """Embeddings float32 [n, d] of all examples, with progress. With `skip` zeros for pictures that cannot be read.

    UserError for such a one without.
    """
    parts, size = [], min(size, len(data))
    with tqdm(total=len(data), desc=name, unit="picture", delay=2, leave=False) as bar:
        for start in range(0, len(data), size):
            rows = range(start, min(start + size, len(data)))
            images = [_image(data, row) if skip else data[row]["image"] for row in rows]
            blank = next((np.zeros_like(image) for image in images if image is not None), None)
            if blank is None:
                raise UserError(f"none of the pictures {start} to {rows[-1]} can be read")
            whole = np.stack([blank if image is None else image for image in images] + [blank] * (size - len(rows)))
            made = np.array(embed(params, to_unit(whole)), np.float32)[: len(rows)]
            made[[image is None for image in images]] = 0.0
            parts.append(made)
            bar.update(len(rows))
    return np.concatenate(parts)
