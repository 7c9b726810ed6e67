"""Parts of one's own, named "module:attribute" wherever a table has names: `--config.model.name=mine:Net`.

The module is looked for in the working folder, then among the installed ones, then where a run that was loaded found it when
it was trained, and last in that run's own copy (`record`, `remember`). It is imported once a process, under its own name where
that is free, so that a module that a script has imported itself is the same one.
"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from diffusion_jax.typing import UserError, one_of

__all__ = ["fits", "is_own", "own", "own_files", "pick", "record", "remember"]

PATTERN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_known: dict[str, list[Path]] = {}
"""Module -> folders of the runs that were loaded, the last one first, in which it is looked for at last."""


def is_own(name: Any) -> bool:
    """Whether a name is of the form "module:attribute"."""
    return isinstance(name, str) and PATTERN.fullmatch(name) is not None


def fits(name: Any, table: Iterable[str]) -> bool:
    """Whether a name may stand where the names of a table do."""
    return isinstance(name, str) and (name in table or is_own(name))


def pick(what: str, name: Any, table: Mapping[str, Any]) -> Any:
    """table[name], or what "module:attribute" names. UserError, which begins with `what`, where there is neither."""
    return own(what, name) if is_own(name) and name not in table else table[one_of(what, name, table)]


def own(what: str, name: str) -> Any:
    """The object that "module:attribute" names. UserError where there is none, or where its module cannot be imported."""
    module_name, _, attribute = name.partition(":")
    module = _module(what, name, module_name)
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, vars(module), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{what} {name!r}: {_place(module)} has no {attribute!r}{hint}")
    return getattr(module, attribute)


def _place(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or module.__name__)


def _module(what: str, name: str, module: str) -> ModuleType:
    """The module, from the first place that has it."""
    folders = [Path.cwd(), None, *_known.get(module, [])]
    for folder in folders:
        spec = _find(module, folder)
        if spec is not None:
            try:
                return _imported(module, spec, folder)
            except (Exception, SystemExit) as error:
                raise UserError(f"{what} {name!r}: {_told(spec.origin, error)}") from error
    near = difflib.get_close_matches(module, [file.stem for file in Path.cwd().glob("*.py")], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0] + ':' + name.partition(':')[2]!r}?" if near else ""
    raise UserError(f"{what} {name!r}: there is no module {module!r} in {Path.cwd()} or among the installed ones{hint}")


def _find(module: str, folder: Path | None) -> importlib.machinery.ModuleSpec | None:
    """The spec of a dotted module in a folder, or, without one, wherever Python looks; None where it is not there."""
    if folder is None:
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            return None
        return found if found is not None and found.origin is not None else None
    place = folder.joinpath(*module.split("."))
    for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if file.is_file():
            return importlib.util.spec_from_file_location(module, file)
    return None


def _imported(module: str, spec: importlib.machinery.ModuleSpec, folder: Path | None) -> ModuleType:
    """The module of a spec: the one of its name where it is that file, else one that is kept by the file."""
    there = sys.modules.get(module)
    if folder is None or (there is not None and _same(there, spec)):
        return importlib.import_module(module)
    if there is None:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # what it imports beside it is found there, and nothing of Python's is hidden
        importlib.invalidate_caches()
        found = _find(module, None)
        if found is not None and os.path.realpath(str(found.origin)) == os.path.realpath(str(spec.origin)):
            return importlib.import_module(module)
    return _by_file(module, str(spec.origin))


def _same(module: ModuleType, spec: importlib.machinery.ModuleSpec) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and spec.origin is not None and os.path.realpath(file) == os.path.realpath(spec.origin)


@functools.cache
def _by_file(module: str, file: str) -> ModuleType:
    """The module in a file, beside another of the same name."""
    alias = f"{module.replace('.', '_')}_{hashlib.sha256(file.encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(alias, file)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[alias] = made
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[alias]
        raise
    return made


def _told(file: str | None, error: BaseException) -> str:
    """What went wrong in a module, and in which of its lines."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f", line {lines[-1]}" if lines else ""
    said = " ".join(str(error).split())[:200]
    return f"{file}{where} cannot be imported: {type(error).__name__}{f': {said}' if said else ''}"


def own_files(names: Iterable[Any]) -> dict[str, Path]:
    """{module: its file} of the names that are of one's own, and of what these import from beside them.

    Those that lie in an installed package are left out.
    """
    found: dict[str, Path] = {}
    modules = [name.partition(":")[0] for name in names if is_own(name)]
    for module in modules:
        file = getattr(_module("part", module, module), "__file__", None)
        if module not in found and file is not None and "site-packages" not in Path(file).parts:
            found[module] = Path(file)
            beside = _root(module, Path(file))
            modules += [name for name in _needs(module, Path(file)) if _find(name, beside) is not None]
    return found


def _needs(module: str, file: Path) -> list[str]:
    """The packages that a module lies in, and what it may import, by whole names; nothing of this package."""
    parts = module.split(".")
    found = [".".join(parts[:count]) for count in range(1, len(parts))]
    package = parts if file.name == "__init__.py" else parts[:-1]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [name for name in found if name and name.partition(".")[0] != __name__.partition(".")[0]]


def record(files: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """{module: {"folder", "sha256"}} of what `own_files` gives: what a run notes of them."""
    return {
        module: {"folder": str(_root(module, file)), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for module, file in files.items()
    }


def _root(module: str, file: Path) -> Path:
    """The folder from which a dotted module leads to its file."""
    up = module.count(".") + (file.name == "__init__.py")
    return file.resolve().parents[up]


def remember(noted: Mapping[str, Mapping[str, str]], copies: Path) -> list[str]:
    """Where the parts of a run may be found beside the usual places; and what to say of those that are others now."""
    told = []
    for module, note in noted.items():
        places = [place for place in (Path(note["folder"]), copies) if place.is_dir()]
        others = [place for place in _known.get(module, []) if place not in places]
        _known[module] = [*places, *others]
        spec = next((found for place in (Path.cwd(), None, *places) if (found := _find(module, place))), None)
        if spec is None or spec.origin is None or not os.path.isfile(spec.origin):
            continue
        if hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest() != note["sha256"]:
            told.append(
                f"{spec.origin} has changed since the run was trained, and is used as it is now; as it was then it lies in "
                f"{copies}"
            )
    return told
