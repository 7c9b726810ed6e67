"""Latents on disk: what an autoencoder makes of every training picture, once, as `diffusion-jax encode` writes it.

A folder of shards, `shard-00000.npy` with [examples, ways, h', w', moments], a way for the picture and, with flips, one for it
turned left to right; and `latents.json`, which says of which autoencoder (its fingerprint, which counts the scale of its
latents), of which data, and what their mean and deviation are. It is written beside its place and renamed, so that it is whole
or not there. Moments are mean and log variance of x0, of which training draws anew at each step, or x0 itself
(`latents.moments`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from diffusion_jax.data.examples import to_unit
from diffusion_jax.data.reading import check_share, first_readable
from diffusion_jax.runs import read_json, write_json
from diffusion_jax.systems.diffusion.cached import data_key
from diffusion_jax.typing import Source, UserError

__all__ = ["DTYPES", "LatentTable", "read_latents", "write_latents"]

NOTE = "latents.json"
DTYPES = ("float32", "float16")


@dataclasses.dataclass(frozen=True, eq=False)
class LatentTable:
    """Moments of the examples of a source, read as they are used. `missing` are those whose picture could not be read."""

    shards: tuple[np.ndarray, ...]
    size: int
    missing: np.ndarray
    flip: bool

    def __len__(self) -> int:
        return len(self.missing)

    def rows(self, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Of these examples, [n, h', w', moments] in float32; half of them turned, by `rng`, where the data are flipped."""
        ways = rng.random(len(places)) < 0.5 if self.flip else np.zeros(len(places), bool)
        found = [self.shards[place // self.size][place % self.size, int(way)] for place, way in zip(places, ways)]
        return np.stack(found).astype(np.float32)


def _key(config: ConfigDict, data: Source) -> dict[str, Any]:
    """What decides the pictures; whether they are flipped is another matter."""
    found = data_key(config, data)
    return {**found, "keys": {key: value for key, value in found["keys"].items() if key != "data.flip"}}


def write_latents(
    folder: Path,
    note: dict[str, Any],
    config: ConfigDict,
    data: Source,
    encode: Callable[[np.ndarray], np.ndarray],
    *,
    flip: bool,
    batch_size: int = 64,
    shard_size: int = 4096,
    dtype: str = "float32",
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Encodes every example of a source into a new folder; `encode(images [b, h, w, c] in [-1, 1])` -> moments.

    `note` says of which autoencoder. Pictures that cannot be read are left out where the data's `on_error` says so. UserError
    for a folder that is there, without `overwrite`, for one that holds anything else than latents, for what cannot be read, and
    for more such than `data.error_share`.
    """
    if folder.exists() and not (overwrite and (not any(folder.iterdir()) or (folder / NOTE).is_file())):
        why = "--overwrite replaces it" if (folder / NOTE).is_file() else "it holds no latents"
        raise UserError(f"{folder} is there already, and {why}: choose another --out")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    skip = config.data.get("on_error") == "skip"
    blank = np.zeros_like(first_readable(data, "skip" if skip else None, 1.0)["image"])
    missing: list[int] = []
    sums, count, shapes = np.zeros((2, 1)), 0, (0,)
    try:
        part.mkdir(parents=True)
        with tqdm(total=len(data), desc="encoding", unit="picture", disable=not progress) as bar:
            for number, start in enumerate(range(0, len(data), shard_size)):
                parts = []
                for at in range(start, min(start + shard_size, len(data)), batch_size):
                    places = range(at, min(at + batch_size, start + shard_size, len(data)))
                    images = _read(data, places, skip, missing)
                    _check_share(config, missing, len(data))
                    parts.append(_encoded(encode, images, blank, flip, batch_size))
                    bar.update(len(places))
                made = np.concatenate(parts)
                np.save(part / f"shard-{number:05d}.npy", made.astype(dtype))
                kept = made[np.setdiff1d(np.arange(start, start + len(made)), missing) - start]
                sums, count, shapes = sums + _sums(kept), count + kept[..., 0].size, made.shape[2:]
        mean = sums[0] / count
        statistics = {"mean": mean.tolist(), "std": np.sqrt(np.maximum(sums[1] / count - mean**2, 0.0)).tolist()}
        told = {"moments": list(shapes), "flips": flip, "dtype": dtype, "examples": len(data), "shard_size": shard_size}
        known = {**note, **told, "missing": missing, "statistics": statistics, "data": _key(config, data)}
        write_json(part / NOTE, json.loads(json.dumps(known, default=str)))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(part, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(part)


def _check_share(config: ConfigDict, missing: list[int], of: int) -> None:
    """UserError where more pictures are missing than the config's `data.error_share`."""
    if missing:
        share = config.data.get("error_share", 0.5)
        check_share(len(missing), of, "the pictures to train on", f"example {missing[-1]}", share)


def _read(data: Source, places: range, skip: bool, missing: list[int]) -> list[np.ndarray | None]:
    """The pictures, None for one that cannot be read, which is noted as missing."""
    found: list[np.ndarray | None] = []
    for place in places:
        try:
            found.append(np.asarray(data[place]["image"]))
        except UserError:
            if not skip:
                raise
            missing.append(place)
            found.append(None)
    return found


def _encoded(
    encode: Callable[[np.ndarray], np.ndarray],
    images: list[np.ndarray | None],
    blank: np.ndarray,
    flip: bool,
    size: int,
) -> np.ndarray:
    """Moments [n, ways, h', w', m], in batches of one size, which one program makes; of no picture those of a `blank` one."""
    batch = np.stack([blank if image is None else image for image in images] + [blank] * (size - len(images)))
    ways = [batch, batch[:, :, ::-1]] if flip else [batch]
    return np.stack([encode(np.asarray(to_unit(way)))[: len(images)] for way in ways], axis=1)


def _sums(rows: np.ndarray) -> np.ndarray:
    """Of each channel of [n, ways, h', w', m] the sum and the sum of squares, [2, m]."""
    flat = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
    return np.stack([flat.sum(0), (flat**2).sum(0)])


def read_latents(folder: Path, fingerprint: str, config: ConfigDict, data: Source, *, flip: bool) -> LatentTable:
    """The latents in a folder. UserError where there are none, for those of another autoencoder or of other data, and where
    more pictures are missing than the config's `data.error_share`."""
    coder = (config.get("space") or {}).get("autoencoder", "DIR")
    command = f"diffusion-jax encode --autoencoder {coder} --config FILE --out {folder}"
    if not (folder / NOTE).is_file():
        raise UserError(f"there are no latents in {str(folder)!r}: {command} makes them, with this run's config")
    note = read_json(folder / NOTE)
    again = f"encode them again, {command} --overwrite"
    if note.get("fingerprint") != fingerprint:
        raise UserError(f"the latents in {folder} are of another autoencoder, {note.get('autoencoder')}: {again}")
    now, before = json.loads(json.dumps(_key(config, data), default=str)), note.get("data", {})
    if now != before:
        raise UserError(f"the latents in {folder} are of other data ({_differs(before, now)}): {again}")
    if flip and not note["flips"]:
        raise UserError(
            f"config key 'data.flip' is True, and the latents in {folder} are of pictures as they are: {again}"
        )
    size, count = int(note["shard_size"]), int(note["examples"])
    try:
        files = [folder / f"shard-{number:05d}.npy" for number in range(-(-count // size))]
        shards = tuple(np.load(file, mmap_mode="r") for file in files)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be read ({error}): {again}") from error
    _check_share(config, note["missing"], count)
    missing = np.zeros(count, bool)
    missing[note["missing"]] = True
    return LatentTable(shards, size, missing, flip)


def _differs(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first thing that is another, in words."""
    old, new = before.get("keys", {}), now["keys"]
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            return f"{key}: {old.get(key, '(absent)')} -> {new.get(key, '(absent)')}"
    named = {"count": "another number of examples", "files": "another source", "contents": "other files"}
    return next((what for key, what in named.items() if before.get(key) != now[key]), "other pictures")
