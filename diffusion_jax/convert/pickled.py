"""PyTorch's older files of weights (before 1.6) without PyTorch: four pickles, and then the numbers.

A file is a pickle each of a magic number, a version, the sizes of C's types, the state dict and the keys of its storages, and
after them each storage as an int64 count and its little-endian numbers. In the state dict a tensor is a call that names a
storage, where it begins in it, its shape and its strides.

A pickle may call anything that it names. This one may name a tensor, a storage and an ordered dict, and nothing else.
"""

from __future__ import annotations

import collections
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.typing import UserError

__all__ = ["read_pickled"]

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip


@dataclasses.dataclass
class _Storage:
    """The numbers of one or several tensors, read after the pickles."""

    dtype: np.dtype
    count: int
    values: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The numbers, copied. ValueError where the view does not lie within the storage."""
        values = self.storage.values
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if values is None or min((self.offset, *self.shape, *self.strides)) < 0 or last >= len(values):
            raise ValueError("a tensor lies outside of its storage")
        step = self.storage.dtype.itemsize
        strides = tuple(stride * step for stride in self.strides)
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides).copy()


def _tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


class _Reader(pickle.Unpickler):
    """Knows the four names that a state dict is made of."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """OrderedDict, the call that makes a tensor, and the kinds of storages."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in STORAGES:
            return np.dtype(STORAGES[name])
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no state dict needs")

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage by its key, the same one each time."""
        kind, dtype, key, _, count, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError(f"it holds a {kind!r} that is no plain storage")
        return self.storages.setdefault(str(key), _Storage(dtype, int(count)))


def read_pickled(path: Path) -> dict[str, np.ndarray]:
    """Every array of a state dict by name, in the dtype it is stored in.

    Raises UserError for a file that is missing, cut short, of another format (later versions of PyTorch write a zip
    archive), or that names anything beside tensors.
    """
    try:
        with path.open("rb") as file:
            if pickle.Unpickler.load(_Reader(file)) != MAGIC or _Reader(file).load() != VERSION:
                raise ValueError("it does not begin as one")
            if not _Reader(file).load()["little_endian"]:
                raise ValueError("its numbers are big-endian")
            reader = _Reader(file)
            state = reader.load()
            for key in _Reader(file).load():
                storage = reader.storages[key]
                count = int(np.fromfile(file, "<i8", 1)[0])
                storage.values = np.fromfile(file, storage.dtype, storage.count)
                if count != storage.count or len(storage.values) != count:
                    raise ValueError(f"a storage of {storage.count} numbers has {min(count, len(storage.values))}")
        return {name: tensor.array() for name, tensor in state.items()}
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle raises of every kind
        raise UserError(f"{str(path)!r} is damaged or no state dict of PyTorch's older format: {error}") from error
