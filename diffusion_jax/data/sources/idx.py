"""The IDX format, in which the MNIST family is published: one array in a file, gzipped or not.

Two bytes of zero, one of the type (8: uint8, 9: int8, 11: int16, 12: int32, 13: float32, 14: float64), one of the number of
dimensions, each of these as an int32, then the numbers, the last dimension first; all big-endian.
Source: yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from diffusion_jax.data.text.text_files import read_bytes
from diffusion_jax.typing import UserError

__all__ = ["is_idx", "read_idx"]

TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
GZIP = b"\x1f\x8b"


def is_idx(path: str | Path) -> bool:
    """Whether a file is named as IDX files are: train-images-idx3-ubyte, train-images.idx3-ubyte.gz, x.idx."""
    name = Path(path).name.lower().removesuffix(".gz")
    return name.endswith(".idx") or any(f"{mark}idx" in name for mark in "-.")


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file. UserError, one line, for a file that is missing, no IDX, cut short or too long."""
    data = read_bytes(path)
    said = repr(str(path))
    if data.startswith(GZIP):
        try:
            data = gzip.decompress(data)
        except (EOFError, zlib.error, OSError) as error:
            raise UserError(f"{said} is cut short or damaged: {error}") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in TYPES or data[3] == 0:
        raise UserError(f"{said} is no IDX file: it begins with {data[:4].hex(' ') or 'nothing'}")
    kind, begin = np.dtype(TYPES[data[2]]), 4 + 4 * data[3]
    if len(data) < begin:
        raise UserError(f"{said} is cut short at byte {len(data)}, within its header")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", data[3], 4))
    wanted = begin + math.prod(shape) * kind.itemsize
    if len(data) != wanted:
        what = "is cut short" if len(data) < wanted else "goes on behind its end"
        raise UserError(f"{said} {what}: an array {shape} of {kind.name} takes {wanted} bytes, and it has {len(data)}")
    found = np.frombuffer(data, kind, offset=begin).reshape(shape)
    return found if kind.itemsize == 1 else found.astype(kind.newbyteorder("="))
