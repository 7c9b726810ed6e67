"""Tensors in files: safetensors (one file, or shards with an index), and PyTorch's archives where PyTorch is installed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from diffusion_jax.typing import UserError, nearest_path, one_of

__all__ = [
    "DTYPES",
    "SAFETENSORS",
    "TORCH",
    "cast",
    "find",
    "in_reach",
    "needs_torch",
    "read_config",
    "read_header",
    "read_json",
    "read_tensors",
    "staged",
    "write_json",
    "write_tensors",
]

DTYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
POINTER = b"version https://git-lfs"
READ = ("BF16", "F16", "F32")
"""The precisions of weights, as safetensors names them."""
SAFETENSORS, TORCH = (".safetensors",), (".pt", ".pth", ".bin", ".ckpt")


def find(path: Path, names: tuple[str, ...]) -> Path:
    """The weights in `path`: the file itself, or the first of `names` in the folder.

    Raises UserError for a path that does not exist, naming the nearest one, and for a folder without weights.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        parent = path.parent
        near = nearest_path(path.name, [p.name for p in parent.iterdir()] if parent.is_dir() else [])
        raise UserError(
            f"{str(path)!r} does not exist; "
            + (f"did you mean {str(parent / near)!r}?" if near else "weights are a folder or file of yours, not a name")
        )
    for name in names:
        if (path / name).is_file():
            return path / name
    there = sorted(p.name for p in path.iterdir())[:8]
    raise UserError(
        f"no weights in {str(path)!r}: none of {', '.join(names)} (there are {', '.join(there) or 'no files'})"
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. UserError for one that is not readable."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} is not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{str(path)!r} holds no JSON object")
    return value


def read_config(path: Path) -> dict[str, Any]:
    """The config.json in a folder, or beside a file; empty where there is none. UserError as `read_json`."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    return read_json(file) if file.is_file() else {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """`value` as JSON, all of it or nothing."""
    _atomic(path, lambda file: Path(file).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file by name, in the dtype it is stored in.

    `.safetensors`, an index of shards (`.safetensors.index.json`, `.safetensors.index.fp16.json`), or PyTorch's `.pt`, `.pth`,
    `.bin`, `.ckpt` (state dicts and TorchScript archives). Raises UserError for a damaged file or index, weights of 8 bits,
    another ending, and PyTorch's files where PyTorch is not installed.
    """
    if ".index." in path.name and path.suffix == ".json":
        told = read_json(path).get("weight_map")
        if not isinstance(told, dict) or not all(isinstance(name, str) for name in told.values()):
            raise UserError(f"{str(path)!r}: weight_map {told!r:.60} does not name the file of each array, by its name")
        shards = sorted(set(told.values()))
        missing = [name for name in shards if not (path.parent / name).is_file()]
        if missing or not shards:
            raise UserError(f"{str(path)!r} names shards that are not there: {', '.join(missing) or 'none at all'}")
        return {k: v for name in shards for k, v in read_tensors(path.parent / name).items()}
    if path.suffix in SAFETENSORS:
        from safetensors import SafetensorError, safe_open
        from safetensors.numpy import load_file

        try:
            return load_file(path)
        except AttributeError as error:  # how NumPy says that it has no such type
            with safe_open(path, framework="numpy") as file:
                kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            other = ", ".join(sorted(kinds - {"I32", "I64", "BOOL", *READ}))
            raise UserError(
                f"{str(path)!r} holds weights in {other}, which are not read; read are {', '.join(READ)}"
            ) from error
        except (SafetensorError, OSError) as error:
            raise _damaged(path, error) from error
    if path.suffix in TORCH:
        return _read_torch(path)
    raise UserError(f"{str(path)!r} ends in {path.suffix!r}; weights end in {', '.join((*SAFETENSORS, *TORCH))}")


def _damaged(path: Path, error: Exception) -> UserError:
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            return UserError(
                f"{str(path)!r} is a pointer of Git LFS, not the weights themselves: run `git lfs pull` there"
            )
    return UserError(f"{str(path)!r} is damaged or no safetensors file: {error}")


def read_header(path: Path) -> dict[str, str]:
    """What the header of a safetensors file says beside its arrays, texts by name. UserError for a damaged file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def names_in(path: Path) -> tuple[str, ...]:
    """The names of the arrays in a safetensors file; () for any other, and for a damaged one, of which `read_tensors` tells."""
    from safetensors import SafetensorError, safe_open

    if path.suffix not in SAFETENSORS or not path.is_file():
        return ()
    try:
        with safe_open(path, framework="numpy") as file:
            return tuple(file.keys())
    except (SafetensorError, OSError):
        return ()


def needs_torch(path: Path) -> Any:
    """PyTorch, for a file in its format. UserError where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{str(path)!r} is in PyTorch's format, for which PyTorch must be installed; safetensors need nothing"
        ) from error
    return torch


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    torch = needs_torch(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as plain:  # torch raises many kinds; a TorchScript archive is one reason
        try:
            found = torch.jit.load(path, map_location="cpu").eval().state_dict()
        except Exception as error:
            reason = str(plain).splitlines()[0]
            raise UserError(f"{str(path)!r} is neither a state dict nor a TorchScript archive: {reason}") from error
    found = found.get("state_dict", found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise UserError(f"{str(path)!r} holds no state dict of tensors")
    arrays = {}
    for name, value in found.items():
        value = value.detach()
        if value.dtype == torch.bfloat16:
            arrays[name] = value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        else:
            arrays[name] = value.numpy()
    # A training checkpoint of several GPUs has every name below `module.`.
    return {name.removeprefix("module."): value for name, value in arrays.items()}


def cast(tensors: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Every array in another dtype of `DTYPES`."""
    kind = DTYPES[one_of("dtype", dtype, DTYPES)]
    return {name: np.asarray(value).astype(kind) for name, value in tensors.items()}


def in_reach(tensors: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """The tensors in `dtype`. UserError for values that are not finite, or that it makes infinite."""
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise UserError(
                f"the weights are not finite: {name} has {np.count_nonzero(~np.isfinite(value))} such values"
            )
    with np.errstate(over="ignore"):
        made = cast({name: value for name, value in tensors.items() if value.dtype.kind != "i"}, dtype)
    for name, value in made.items():
        if not np.isfinite(value).all():
            wide = next(wider for wider in ("bfloat16", "float32") if wider != dtype)
            raise UserError(
                f"{name} reaches {np.abs(tensors[name]).max():.4g}, which is infinite in dtype {dtype!r}; nearest: {wide!r}"
            )
    return {name: made.get(name, value) for name, value in tensors.items()}


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], header: Mapping[str, str] | None = None) -> None:
    """The arrays as safetensors, or as a PyTorch state dict where the name ends in `.pt`; all of it or nothing.

    `header` is what a safetensors file says beside them, see `read_header`.
    """
    if path.suffix in TORCH:
        torch = needs_torch(path)

        def tensor(value: np.ndarray) -> Any:
            if value.dtype == ml_dtypes.bfloat16:
                return torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
            return torch.from_numpy(np.array(value))

        _atomic(path, lambda file: torch.save({name: tensor(value) for name, value in tensors.items()}, file))
    elif path.suffix in SAFETENSORS:
        from safetensors.numpy import save_file

        _atomic(path, lambda file: save_file(dict(tensors), file, metadata={"format": "pt", **(header or {})}))
    else:
        raise UserError(f"{str(path)!r} ends in {path.suffix!r}; weights are written to .safetensors or .pt")


@contextlib.contextmanager
def staged(path: Path, *, folder: bool) -> Iterator[Path]:
    """A place beside `path` to write a file or a folder at, moved to `path` when the block ends well, else removed.

    A new folder appears whole; in one that exists each file is replaced. Nothing is left of what fails, not even the folders
    above `path` that were made for it. Raises UserError where nothing can be written.
    """
    beside: Path | None = None
    above = [place for place in (path.parent, *path.parent.parents) if not os.path.exists(place)]
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:40]}."))
        if folder:
            beside = aside
            yield aside
            aside.chmod(0o755)
            if os.path.exists(path):
                for file in aside.iterdir():
                    os.replace(file, path / file.name)
            else:
                os.rename(aside, path)
        else:
            # Beside `path` and not in a folder of its own: what lies there belongs to the file.
            place = path.with_name(f"{aside.name}{path.suffix}")
            beside = place
            try:
                yield place
                os.replace(place, path)
            finally:
                place.unlink(missing_ok=True)
        above = []
    except UserError as error:
        # In the name that the user knows.
        raise UserError(str(error).replace(str(beside), str(path)) if beside else str(error)) from error
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        for place in above:
            with contextlib.suppress(OSError):
                place.rmdir()


def _atomic(path: Path, write: Any) -> None:
    from safetensors import SafetensorError

    temporary = str(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        os.close(handle)
        try:
            write(temporary)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk is another error in each library
        reason = (
            error.strerror
            if isinstance(error, OSError) and error.strerror
            else str(error).replace(temporary, str(path))
        )
        raise UserError(f"{str(path)!r} cannot be written: {reason}") from error
