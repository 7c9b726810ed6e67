"""Configs: ml_collections files, overridden from the command line and checked before anything is built.

A config file defines `get_config() -> ConfigDict` and may define `VARIANTS`, a dict of named overrides: an
ablation is `--config file.py:name`. Overrides are dotted: `--config.optimizer.learning_rate=3e-4`. What may be set are the
keys of the file and those that `keys` knows (`systems.table.keys`: what the constructors take that the config names). Anything
else, or a value of another type, is a `UserError` that names it and the nearest valid one.

A relative path in a config is meant from the working folder. Where nothing is there, it is meant from the config's project:
the nearest folder above the config file that holds pyproject.toml, .git or configs, or else the file's own.
"""

from __future__ import annotations

import ast
import difflib
import glob
import importlib.util
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from diffusion_jax.typing import UserError, nearest_path, one_of

__all__ = [
    "apply_overrides", "changes", "flatten", "load_config", "not_found", "parse_overrides", "project_of", "to_dict",
    "variants_of",
]  # fmt: skip

PREFIX = "--config."
Keys = Callable[[ConfigDict], Mapping[str, Any]]
"""config -> {dotted key: something with a `range`}.

Of that are read `words`, `kind` (a type or None), `path` (whether it names a file), `open` (whether it is a group whose members
are called as one likes) and `holds`.
"""


def load_config(spec: str, overrides: Mapping[str, str] | None = None, keys: Keys | None = None) -> ConfigDict:
    """The config of `path.py` or `path.py:variant` with textual `overrides` (dotted key -> value) applied.

    `keys` says which keys there are beside those of the file; paths among them are looked for as the module says. Raises
    UserError for a file that is missing or cannot be run, an unknown variant or key, or a value of another type.
    """
    path, variant = _split(spec)
    module = _run(path)
    try:
        config = module.get_config()
    except (Exception, SystemExit) as error:
        raise _broken(path, error) from error
    if isinstance(config, FrozenConfigDict | Mapping):
        config = ConfigDict(config)
    if not isinstance(config, ConfigDict):
        what = f"{config!r}"[:80]
        raise UserError(f"get_config() of {str(path)!r} returns {what}; it returns an ml_collections.ConfigDict")
    try:
        if variant:
            _set_all(config, _variant(path, module, variant), keys, f"variant {variant!r} of {str(path)!r}: ")
        apply_overrides(config, overrides or {}, keys)
        for key, _, found in _paths(config, keys, path):
            if found is not None:
                _assign(config, key, str(found), {})
        return config.copy_and_resolve_references()
    except UserError:
        raise
    except Exception as error:  # references within the config that go in a circle, or that nobody has filled
        raise _broken(path, error) from error


def _split(spec: str) -> tuple[Path, str]:
    """The file and the variant. UserError where there is no such file."""
    try:
        if Path(spec).is_file():
            return Path(spec), ""
        name, colon, variant = spec.rpartition(":")
        name = name if colon else spec
        path = Path(name)
        if path.is_file():
            return path, variant
        if path.is_dir():
            there = ", ".join(str(file) for file in sorted(path.glob("*.py"))[:8])
            raise UserError(f"config file {name!r} is a folder; name a file in it{f': {there}' if there else ''}")
        raise UserError(f"config file {name!r} does not exist{_nearest_file(path)}")
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"config file {spec[:80]!r} is no path: {error}") from error


def _run(path: Path) -> Any:
    """The module of a config file. UserError for one that cannot be read or run, or that defines no get_config."""
    loader = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if loader is None or loader.loader is None:
        raise UserError(f"config file {str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(loader)
    try:
        loader.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _broken(path, error) from error
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"config file {str(path)!r} defines no get_config()")
    return module


def _broken(path: Path, error: BaseException) -> UserError:
    """What went wrong in a config file, and in which of its lines."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path.absolute()
    ]
    where = f", line {lines[-1]}" if lines else ""
    said = " ".join(str(error).split())[:200]
    return UserError(
        f"config file {str(path)!r}{where} cannot be read: {type(error).__name__}{f': {said}' if said else ''}"
    )


def variants_of(spec: str) -> tuple[Path, str, tuple[str, ...]]:
    """(the file, the variant that is asked for or "", the variants that it names) of `path.py` or `path.py:variant`."""
    path, variant = _split(spec)
    return path, variant, tuple(_variants(path, _run(path)))


def _variants(path: Path, module: Any) -> Mapping[str, Any]:
    variants = getattr(module, "VARIANTS", {})
    if not isinstance(variants, Mapping) or not all(isinstance(name, str) for name in variants):
        raise UserError(f"VARIANTS of {str(path)!r} is no dict of named overrides")
    return variants


def _variant(path: Path, module: Any, variant: str) -> dict[str, Any]:
    variants = _variants(path, module)
    chosen = variants[one_of(f"variant of {str(path)!r}", variant, variants)]
    if not isinstance(chosen, Mapping) or not all(isinstance(key, str) for key in chosen):
        raise UserError(f"variant {variant!r} of {str(path)!r} is no dict of dotted keys and values")
    return dict(chosen)


def parse_overrides(arguments: list[str]) -> dict[str, str]:
    """`--config.a.b=value` and `--config.a.b value` -> {"a.b": "value"}; anything else is a UserError."""
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith(PREFIX):
            raise UserError(f"argument {argument!r} is not known; overrides are written {PREFIX}KEY=VALUE")
        key, equals, value = argument[len(PREFIX) :].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"override {argument!r} has no value; write {argument}=VALUE")
            value = rest.pop(0)
        found[key] = value
    return found


def apply_overrides(config: ConfigDict, overrides: Mapping[str, str], keys: Keys | None = None) -> ConfigDict:
    """`config` with each dotted key set to its text, read as the type that the key has now, or as that which `keys` says.

    The order does not matter: `loss.weight_options.gamma` may come before the `loss.weight` that takes it. "{}" empties a
    group, and {"name": "label", "drop": 0.1} stands in its place.
    """
    _set_all(config, overrides, keys, "", text=True)
    return config


def _set_all(
    config: ConfigDict, wanted: Mapping[str, Any], keys: Keys | None, where: str, *, text: bool = False
) -> None:
    """Sets the keys that there are, again and again, as one may bring others; then the first that is left is refused."""
    left = dict(wanted)
    while left:
        flat, known = flatten(config), keys(config) if keys else {}
        groups = {".".join(key.split(".")[:n]) for key in (*flat, *known) for n in range(1, key.count(".") + 1)}
        ready = [
            key
            for key in left
            if key in flat
            or key in known
            or (key in groups and _as_group(left[key], text) is not None)
            or _member(key, left[key], known, text)
        ]
        if not ready:
            raise UserError(f"{where}{_unknown(next(iter(left)), flat, known)}")
        for key in ready:
            value = left.pop(key)
            whole = key in groups or not text or _open(key, known) or _open(key.rpartition(".")[0], known)
            group = _as_group(value, text) if whole else None
            if group is not None:  # a whole group in place of the file's
                value = ConfigDict(group)
            elif text:
                value = _parse(key, value, flat.get(key), known.get(key))
            _assign(config, key, value, known)


def _open(key: str, known: Mapping[str, Any]) -> bool:
    """Whether a key is a group whose members are called as one likes."""
    return key in known and known[key].range.open


def _member(key: str, value: Any, known: Mapping[str, Any], text: bool) -> bool:
    """Whether a key begins a member of such a group: by its `name`, or as a whole."""
    group, _, last = key.rpartition(".")
    if last == "name" and "." in group:
        return _open(group.rpartition(".")[0], known)
    return bool(last) and _open(group, known) and _as_group(value, text) is not None


def _begin(key: str, group: str) -> str:
    """The member of a group that a key is in."""
    return f"{group}.{key[len(group) + 1 :].partition('.')[0]}"


def _as_group(value: Any, text: bool) -> dict[str, Any] | None:
    """The keys of a group that is said whole, as a text {"name": "label", "drop": 0.1}; None for what is no group."""
    if text and isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return None
    whole = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    return dict(value) if whole else None


def flatten(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted keys to plain values; lists become tuples."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = tuple(value) if isinstance(value, list) else value
    return flat


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """A plain nested dict that JSON can hold."""
    return {key: to_dict(value) if isinstance(value, ConfigDict) else value for key, value in config.items()}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two configs, a line each: `key: old -> new`; `(absent)` stands for a key that is not there."""
    a, b = flatten(old), flatten(new)
    absent = "(absent)"
    keys = sorted(key for key in a.keys() | b.keys() if a.get(key, absent) != b.get(key, absent))
    return [f"{key}: {a.get(key, absent)} -> {b.get(key, absent)}" for key in keys]


def _unknown(key: str, flat: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """What is said of a key that there is not."""
    every = sorted({*flat, *known})
    group = next((name for name in known if key.startswith(f"{name}.") and _open(name, known)), None)
    if group is not None and not any(name.startswith(f"{_begin(key, group)}.") for name in every):
        return f"config key {key!r} begins no member of {group!r}, which is {known[group].range.words}"
    inner = [name for name in every if name.startswith(f"{key}.")]
    if inner:
        return f"config key {key!r} is a group; set one of {', '.join(inner)}"
    begin, _, last = key.rpartition(".")
    beside = {name.rpartition(".")[2]: name for name in every if begin and name.rpartition(".")[0] == begin}
    near = [beside[name] for name in difflib.get_close_matches(last, beside, n=1, cutoff=0.5)]
    near = near or [name for name in every if name.rpartition(".")[2] == last][:1]
    if not near and not beside:
        near = difflib.get_close_matches(key, every, n=1, cutoff=0.6 if begin else 0.4)
    if near:
        hint = f"; did you mean {near[0]!r}?"
    elif begin and not beside:
        hint = f", nor a group {begin!r}; the groups are {', '.join(sorted({n.partition('.')[0] for n in every if '.' in n}))}"
    else:
        hint = f"; the keys are {', '.join(beside.values() or every)}"
    return f"config key {key!r} does not exist{hint}"


def _parse(key: str, text: str, current: Any, known: Any = None) -> Any:
    """`text` as a value of the type of `current`, or of the kind of a known key; a None may become anything."""
    kind = type(current) if current is not None else known.range.kind if known is not None else None
    may_be = known.range.holds if known is not None else lambda value: False
    if kind is str:
        return None if text.lower() == "none" and not may_be(text) and may_be(None) else text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # all that literal_eval may raise
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return _as_float(value)
    if kind is tuple and isinstance(value, list):
        return tuple(value)
    if current is None or may_be(value) or (value is None and not isinstance(current, bool | int | float)):
        return value
    if type(value) is not type(current):
        wanted = type(current).__name__
        raise UserError(f"config key {key!r} takes a value of type {wanted}, like {current!r}; {text!r} is not one")
    return value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _assign(config: ConfigDict, key: str, value: Any, known: Mapping[str, Any]) -> None:
    """Sets a dotted key, and makes the groups on the way; a name alone, where a group may be, becomes its `name`."""
    *groups, last = key.split(".")
    node, path = config, ""
    for group in groups:
        inner, path = node.get(group), f"{path}{group}"
        if not isinstance(inner, ConfigDict):
            if inner is not None and (path not in known or _open(path, known)):
                words = known[path].range.words if path in known else "a group of keys"
                raise UserError(f"config key {path!r} is {inner!r}; it is {words}")
            inner = ConfigDict({} if inner is None else {"name": inner})
            with node.unlocked(), node.ignore_type():
                node[group] = inner
        node, path = inner, f"{path}."
    with node.unlocked(), node.ignore_type():
        node[last] = value


def project_of(file: Path) -> Path:
    """The folder from which a config's relative paths are meant, where they do not lead from the working folder."""
    folder = file.absolute().parent
    for above in (folder, *folder.parents):
        if any((above / sign).exists() for sign in ("pyproject.toml", ".git", "configs")):
            return above
    return folder


def not_found(config: ConfigDict, keys: Keys, spec: str, message: str) -> str:
    """Where was looked for the relative path that an error is about: a text to add to it, or nothing."""
    file = _split(spec)[0]
    if any(
        there is None and repr(value) in message for _, value, there in _paths(config, keys, file, all_of_them=True)
    ):
        here, project = Path.cwd(), project_of(file)
        return f" (looked for in {here}" + ("" if here == project else f" and in the config's project {project}") + ")"
    return ""


def _paths(
    config: ConfigDict, keys: Keys | None, file: Path, *, all_of_them: bool = False
) -> Iterator[tuple[str, str, Path | None]]:
    """(key, value, where it is in the project) of each relative path that does not lead anywhere from the working folder."""
    flat = flatten(config)
    for key, known in (keys(config) if keys else {}).items():
        value = flat.get(key)
        if (
            not known.range.path
            or not isinstance(value, str)
            or not value
            or Path(value).is_absolute()
            or _leads(value)
        ):
            continue
        there = project_of(file) / value
        if all_of_them or _leads(str(there)):
            yield key, value, there if _leads(str(there)) else None


def _leads(path: str) -> bool:
    """Whether something is there; of a pattern, whether it finds anything."""
    try:
        return Path(path).exists() or (
            any(sign in path for sign in "*?[{")
            and next(glob.iglob(re.sub(r"\{[^{}]*\}", "*", path)), None) is not None
        )
    except (OSError, ValueError):
        return False


def _nearest_file(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("configs")
    names = [str(p) for p in sorted(folder.glob("*.py"))] if folder.is_dir() else []
    near = nearest_path(str(path), names)
    return f"; did you mean {near!r}?" if near else ""
